"""Colours, ticks, limits and marks that pictures share."""

import itertools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from experiments.analysis import conventions
from experiments.analysis.conventions import AXES
from experiments.analysis.transfer import Landscape


def scape(losses, grid=(0.0, 1.0, 2.0), sizes=(32, 64)) -> Landscape:
    """One seed unless the losses have three dimensions."""
    array = np.array(losses, float)
    return Landscape(array[None] if array.ndim == 2 else array, np.array(sizes), np.array(grid))


def test_no_picture_is_needed_to_know_the_conventions() -> None:
    code = (
        "import sys, experiments.analysis.conventions, experiments.analysis.heading\n"
        "assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def lightness(color: str) -> float:
    """Relative luminance, as WCAG has it."""
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
        for c in (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_a_size_has_one_colour_and_larger_ones_are_darker() -> None:
    colors = [conventions.size_color(2**k) for k in range(1, 14)]
    assert len(set(colors)) == 13 and colors == list(conventions.PALETTE)
    assert all(lightness(a) > lightness(b) for a, b in itertools.pairwise(colors[4:]))
    assert all((1.0 + 0.05) / (lightness(color) + 0.05) > 2 for color in colors)  # on white


def test_sizes_between_powers_of_two_and_beyond_the_palette_have_colours() -> None:
    some = [conventions.size_color(n) for n in (64, 96, 128, 250, 20_000, 3, 1)]
    assert len(set(some)) == 7 and all(len(color) == 7 for color in some)


@pytest.mark.parametrize(
    ("dimension", "size"), [("n_layer", 2), ("batch_size", 8), ("seq_len", 32), ("d_ffn", 32)]
)
def test_the_smallest_of_each_dimension_is_as_a_narrow_width(dimension, size) -> None:
    assert conventions.size_color(size, dimension) == conventions.size_color(32)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_a_mark_shows_beneath_that_of_the_next_size(count) -> None:
    sizes = conventions.mark_sizes(count)
    assert len(sizes) == count and sizes[-1] == 5
    assert all(a - b >= 1 for a, b in itertools.pairwise(sizes))


def test_ticks_of_beta2_are_its_values_and_schedules_have_names() -> None:
    place = AXES["beta2"].place
    assert place is not None
    grid = np.array([place(beta2) for beta2 in (0.9, 0.97, 0.99, 0.997, 0.999)])
    assert list(conventions.ticks("beta2", grid).values()) == [
        "0.9", "0.97", "0.99", "0.997", "0.999",
    ]  # fmt: skip
    assert conventions.ticks("beta2", grid).keys() == pytest.approx([*grid])
    titles = conventions.ticks("schedule", np.arange(6.0)).values()
    assert "step_a" not in titles and len(set(titles)) == 6
    assert conventions.ticks("log2lr", np.arange(-9.0, -4)) is None


def test_full_and_partial_divergence_are_told_apart() -> None:
    inf = np.inf
    found = scape([[[1, 2, inf], [1, 2, 3]], [[1, inf, inf], [1, 2, 3]]])
    ((size, (every, some)),) = conventions.divergences(found).items()
    assert (size, list(every), list(some)) == (32, [2.0], [1.0])
    assert conventions.diverged_sizes([found, scape([[1, 1, 1], [1, 1, inf]])]) == [32, 64]


def test_a_blow_up_leaves_the_panel_and_nothing_else_does() -> None:
    low, high = conventions.limits([scape([[1.0, 2.0, 3.0], [1.0, 2.0, 1000.0]] * 25)])
    assert low < 1 and high > 1000  # half of the curves are up there
    curves = np.ones((40, 3))
    curves[:, 1], curves[0, 2] = 2, 1000
    assert conventions.limits([scape(curves, sizes=range(40))])[1] < 3
    curves[0, 2] = 2.4
    assert conventions.limits([scape(curves, sizes=range(40))])[1] > 2.4
    assert conventions.limits([scape(np.full((2, 3), np.inf))]) == (0.0, 1.0)
    partial = scape([[[1, 2, 9], [1, 2, 3]], [[1, 2, np.inf], [1, 2, 3]]])  # 9 is not drawn
    assert conventions.limits([partial])[1] < 4


def test_a_flat_column_has_its_own_axis_in_every_row() -> None:
    steep, flat = scape([[1, 2, 3], [1, 2, 3.1]]), scape([[1, 1.1, 1.2], [1.1, 1.0, 1.1]])
    higher = scape([[1.4, 1.5, 1.6], [1.5, 1.5, 1.6]])
    rows = [{"log2lr": steep, "beta2": flat}, {"log2lr": steep, "beta2": higher}]
    apart = conventions.panel_limits(rows)
    assert apart[0, "log2lr"] == apart[1, "log2lr"]
    assert np.ptp(apart[0, "beta2"]) < 0.5 and apart[0, "beta2"] != apart[1, "beta2"]
    together = conventions.panel_limits(rows, together=True)
    assert together[0, "beta2"] == together[1, "beta2"] != together[0, "log2lr"]
    assert together[0, "beta2"][0] < 1 and together[0, "beta2"][1] > 1.6


def test_a_column_with_a_blow_up_is_not_flat() -> None:
    steep = scape([[1, 2, 3], [1, 2, 3.1]])
    curves = np.ones((40, 3))
    curves[0, 2] = 2.9  # one curve of forty
    found = conventions.panel_limits(
        [{"log2lr": steep, "beta2": scape(curves, sizes=range(40))}], together=True
    )
    assert found[0, "beta2"] == found[0, "log2lr"]


def test_a_column_that_is_flat_in_one_row_alone_shares_the_axis() -> None:
    steep, flat = scape([[1, 2, 3], [1, 2, 3.1]]), scape([[1, 1.1, 1.2], [1.1, 1.0, 1.1]])
    rows = [{"log2lr": steep, "beta2": flat}, {"log2lr": steep, "beta2": steep}]
    found = conventions.panel_limits(rows)
    assert found[0, "beta2"] == found[0, "log2lr"]


def test_widths_of_more_heads_are_told_by_their_heads() -> None:
    runs = pd.DataFrame({"width": [32, 64], "n_head": [4, 8], "d_head": [None, 8.0]})
    title, names = conventions.size_names(runs, "width")
    assert "d_head = 8" in title and names == {32: "4 (width 32)", 64: "8 (width 64)"}
    runs["n_head"], runs["d_head"] = 4, None
    assert conventions.size_names(runs, "width") == ("width\n(d_model)", {32: "32", 64: "64"})
