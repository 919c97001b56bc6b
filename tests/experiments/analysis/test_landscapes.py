"""Pictures of landscapes: marks of divergence and of minima, SP beside µP."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from experiments.analysis import conventions, landscapes, style
from experiments.analysis.transfer import Landscape

INF = np.inf


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def drawn(*losses):
    """Panels of two widths and two seeds each, side by side."""
    fig, axes = style.subplots(1, len(losses), squeeze=False)
    scapes = [Landscape(np.array(x, float), np.array([32, 64]), np.arange(-3.0, 0)) for x in losses]
    landscapes.curves([*zip(axes[0], scapes, strict=True)])
    return fig, axes[0]


def marks(ax):
    """Place, row, colour and whether it is filled, of each mark of divergence above a panel."""
    return {
        (x, y, line.get_color(), line.get_markerfacecolor() == line.get_color())
        for band in ax.child_axes
        for line in band.lines
        for x, y in zip(*line.get_data(), strict=True)
    }


def test_each_width_that_diverged_has_its_own_mark_and_partial_divergence_is_open() -> None:
    narrow, wide = [3, 2, INF], [3, INF, INF]
    _, (ax,) = drawn([[narrow, wide], [narrow, [3, 2, INF]]])
    colors = [conventions.size_color(width) for width in (32, 64)]
    assert marks(ax) == {
        (-1.0, 0, colors[0], True),
        (-1.0, 1, colors[1], True),
        (-2.0, 1, colors[1], False),
    }


def test_marks_are_above_the_panel_and_its_grid_and_alike_beside_each_other() -> None:
    seed = [[3, 2, 3], [3, 2, INF]]
    fig, (left, right) = drawn([seed, seed], [[[3, 2, 3], [3, 2, 3]]] * 2)
    for ax, title in ((left, "SP"), (right, "µP")):
        ax.set_title(title)
    fig.canvas.draw()
    assert marks(left) and not marks(right)
    for ax in (left, right):
        (band,) = ax.child_axes
        assert band.get_window_extent().y0 > ax.get_window_extent().y1
        assert ax.title.get_window_extent().y0 > band.get_window_extent().y1
        assert not any(line.get_visible() for line in band.get_xgridlines())
    tops = [ax.title.get_window_extent().y0 for ax in (left, right)]
    assert tops[0] == pytest.approx(tops[1])


def test_without_a_divergence_nothing_stands_above_a_panel() -> None:
    _, (ax,) = drawn([[[3, 2, 3], [3, 2, 3]]] * 2)
    assert not ax.child_axes


def test_minima_in_the_same_place_are_both_seen() -> None:
    _, (ax,) = drawn([[[3, 2, 3], [3, 2, 3]]] * 2)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert len(dots) == 2 and dots[0].get_data() == dots[1].get_data()
    for one, other in itertools.pairwise(dots):
        room = one.get_markersize() - other.get_markersize() - other.get_markeredgewidth()
        assert room >= 1  # points of the lower one's rim around the upper one
    assert to_hex(dots[1].get_markeredgecolor()) == conventions.size_color(64)


def test_a_legend_explains_the_marks_that_there_are() -> None:
    for losses, labels in (
        ([[[3, 2, INF], [3, 2, 3]]] * 2, ["32", "64", "diverged"]),
        ([[[3, 2, INF], [3, 2, 3]], [[3, 2, 3]] * 2], ["32", "64", "diverged\n(some seeds)"]),
        ([[[3, 2, 3]] * 2] * 2, ["32", "64"]),
    ):
        fig, (ax,) = drawn(losses)
        style.legend(fig, ax, "width")
        assert [text.get_text() for text in fig.legends[0].get_texts()] == labels


def test_pairs_have_sp_on_the_left_and_share_the_loss_axis() -> None:
    runs = pd.DataFrame(
        {
            "parametrization": p,
            "width": width,
            "log2lr": rate,
            "seed": seed,
            "final_loss": 4 + (rate + 7) ** 2 / 10 - (p == "mup") / 10,
            "diverged": p == "sp" and rate == -6 and width == 64,
        }
        for p, width, rate, seed in itertools.product(
            ("sp", "mup"), (32, 64), (-8.0, -7.0, -6.0), (0, 1)
        )
    )
    left, right = landscapes.draw_pair(runs).axes
    assert [ax.get_title() for ax in (left, right)] == list(conventions.NAME.values())
    assert left.get_ylim() == right.get_ylim()
    assert len(marks(left)) == 1 and not marks(right)
