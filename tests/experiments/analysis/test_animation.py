"""A GIF that holds where it should, and a page with a slider."""

import re

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from experiments.analysis import animation, style


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def files(tmp_path):
    """Three frames, of which the first and the last are held."""
    fig, ax = style.subplots(figsize=(2, 2))

    def show(i: int) -> None:
        ax.clear()
        ax.plot([0, 1], [i, 2 - i], label="32")
        ax.set(title=f"t = {i}", xlabel="log2 learning rate")

    frames = animation.Frames(fig, show, ["t = 0 (SP)", "t = 1", "t = 2"], held=[0, 2])
    path = tmp_path / "picture"
    animation.save(frames, ("Figure 1", ""), "foot & more", ("Title", "A < B"), path)
    return path.with_suffix(".gif"), path.with_suffix(".html").read_text(encoding="utf-8")


def test_it_goes_there_and_back_and_stays_at_what_is_held(files) -> None:
    with Image.open(files[0]) as gif:
        stays = []
        for i in range(gif.n_frames):
            gif.seek(i)
            stays.append(gif.info["duration"])
        assert gif.info["loop"] == 0
    assert stays == [animation.HOLD, animation.FRAME, animation.HOLD, animation.FRAME]


def test_the_page_has_every_frame_by_name_and_fits_a_phone(files) -> None:
    page = files[1]
    assert 'name="viewport" content="width=device-width' in page
    assert len(set(re.findall(r'data:image/png;base64,[^"]+', page))) == 3
    assert '"names": ["t = 0 (SP)", "t = 1", "t = 2"]' in page
    assert '<input id="slider" type="range" min="0" max="2"' in page
    assert "img { width: 100%" in page and "Figure 1<br>foot &amp; more" in page
    assert "A &lt; B" in page and "across: log2 learning rate" in page


def test_the_page_needs_nothing_else(files) -> None:
    assert not re.findall(r"(?:src|href)=\"(?!data:)", files[1]) and "http" not in files[1]
