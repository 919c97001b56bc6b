"""The picture of a coordinate check."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from experiments.analysis import coordinate_pictures, style

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def coordinates() -> pd.DataFrame:
    """A module that stays and one that grows with steps and width; two seeds."""
    return pd.DataFrame(
        {"width": w, "t": t, "module": m, "seed": s, "l1": (1 + s) * (w / 64 * 2**t) ** e}
        for w in (64, 128, 256)
        for t in (0, 1, 2)
        for m, e in (("stays", 0), ("grows", 1))
        for s in (0, 1)
    )


def test_one_panel_per_step_and_one_curve_per_module() -> None:
    fig = coordinate_pictures.coordinates(coordinates())
    assert [ax.get_title() for ax in fig.axes] == ["t = 0", "t = 1", "t = 2"]
    for step, ax in enumerate(fig.axes):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        stays, grows = ax.lines
        assert list(stays.get_ydata()) == [1.5] * 3
        assert list(grows.get_ydata()) == [1.5 * 2**step * k for k in (1, 2, 4)]
        assert list(grows.get_xdata()) == [64, 128, 256]
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == ["stays", "grows"]


DRAWN = """
import sys
from pathlib import Path
from experiments.analysis import style

fig, ax = style.subplots(figsize=(3, 2))
ax.plot([1, 2, 3], [1000.5, 4000, 2000], label="µP")
ax.set_title("a title")
style.legend(fig, ax, "curves")
for kind in ("svg", "png"):
    style.save(fig, Path(sys.argv[1], f"picture.{kind}"))
"""
USERS = """
text.usetex: True
backend: tkagg
lines.linewidth: 9
axes.grid: False
axes.prop_cycle: cycler('color', ['r'])
savefig.bbox: tight
savefig.transparent: True
svg.fonttype: path
"""


def test_the_users_settings_of_matplotlib_decide_nothing(tmp_path) -> None:
    pictures = []
    for name, more in (
        ("plain", {}),
        ("users", {"MATPLOTLIBRC": str(tmp_path), "MPLBACKEND": "module://nowhere_at_all"}),
    ):
        (tmp_path / "matplotlibrc").write_text(USERS)
        folder = tmp_path / name
        command = [sys.executable, "-c", DRAWN, str(folder)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **more}, check=True)
        pictures.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert len(pictures[0]) == 2 and pictures[0] == pictures[1]


def test_modules_that_a_step_lacks_and_one_step() -> None:
    runs = coordinates()
    runs = runs[(runs["t"] > 0) | (runs["module"] == "grows")].drop(columns="seed")
    first, second, _ = coordinate_pictures.coordinates(runs).axes
    assert (len(first.lines), len(second.lines)) == (1, 2)
    (grows,) = (line for line in second.lines if line.get_label() == "grows")
    assert grows.get_color() == pytest.approx(first.lines[0].get_color())
    assert len(coordinate_pictures.coordinates(runs[runs["t"] == 1]).axes) == 1


def test_sizes_of_zero_are_left_out(tmp_path) -> None:
    runs = coordinates()
    runs.loc[runs["t"] == 0, "l1"] = 0.0
    style.save(coordinate_pictures.coordinates(runs), tmp_path / "picture.png")


@pytest.mark.parametrize(("width", "lines"), [(3.9, 2), (8.6, 1)])
def test_a_foot_line_is_as_wide_as_its_figure(width, lines) -> None:
    fig, _ = style.subplots(figsize=(width, 3))
    style.footer(fig, "WikiText-2 · 2,000 words · batch 16 · 2 seeds, band = range · scale: small")
    fig.canvas.draw()
    foot = fig._supxlabel
    assert foot.get_text().count("\n") == lines - 1
    assert "band = range" in foot.get_text()
    assert foot.get_window_extent().x1 < fig.bbox.x1


def test_settings_of_the_user_change_no_byte(tmp_path) -> None:
    theirs = {"text.usetex": True, "axes.facecolor": "red", "savefig.bbox": "tight"}
    for name, settings in (("plain", {}), ("theirs", theirs)):
        with plt.rc_context(settings):
            style.save(coordinate_pictures.coordinates(coordinates()), tmp_path / f"{name}.png")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "theirs.png").read_bytes()
