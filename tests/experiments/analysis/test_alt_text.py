"""What is said of a picture to those who do not see it."""

import matplotlib.pyplot as plt
import pytest

from experiments.analysis import alt_text, style


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def picture():
    """Two panels with a legend."""
    fig, axes = style.subplots(1, 2)
    for ax, title in zip(axes, ("SP", "µP"), strict=True):
        ax.plot([1, 2], [3, 4], label="32")
        ax.set(title=title, xlabel="log2 learning rate")
    axes[0].set_ylabel("training loss\n(nats)")
    style.legend(fig, axes[0], "width\n(d_model)")
    return fig


def test_panels_axes_and_curves_are_described() -> None:
    assert alt_text.describe(picture()) == (
        "2 panels: SP / µP; across: log2 learning rate; up: training loss (nats); "
        "curves and marks: width (d_model) 32."
    )


def test_a_schematic_has_its_title_alone(tmp_path) -> None:
    fig, ax = style.subplots()
    ax.axis("off")
    style.save(fig, tmp_path / "picture.png", "Figure 2: what it is")
    assert alt_text.read(tmp_path / "picture.png") == "Figure 2: what it is."


def test_the_description_goes_into_the_picture_and_the_title_into_both(tmp_path) -> None:
    fig = picture()
    for kind in ("png", "svg"):
        style.save(fig, tmp_path / f"picture.{kind}", "Figure 1: a & b")
    assert alt_text.read(tmp_path / "picture.png").startswith("Figure 1: a & b. 2 panels: SP / µP;")
    svg = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    assert "<title>Figure 1: a &amp; b</title>" in svg
    assert "'DejaVu Sans'" in svg and "sans-serif" in svg


def test_a_picture_without_a_description_has_none(tmp_path) -> None:
    fig, _ = style.subplots()
    style.save(fig, tmp_path / "picture.png")
    assert alt_text.read(tmp_path / "picture.png") == ""
