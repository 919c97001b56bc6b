"""Schematics: whole, with their words, and the same bytes every time."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from experiments.analysis import style
from experiments.families.theory import figures


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


WORDS = {
    "draw_fig2": ("Tune the large model itself", "µTransfer", "shrink the width", "copy the"),
    "draw_fig11": ("embedding", "readout", "n_head · d_k", "n_head · d_v", "d_ffn", "vocabulary"),
}


@pytest.mark.parametrize("name", WORDS)
def test_schematic(name, tmp_path) -> None:
    for file in ("a.svg", "b.svg"):
        style.save(getattr(figures, name)(pd.DataFrame()), tmp_path / file)
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8")
    for word in WORDS[name]:
        assert word in text


@pytest.mark.parametrize("name", WORDS)
def test_no_text_is_cut_off_or_on_another(name) -> None:
    fig = getattr(figures, name)(pd.DataFrame())
    fig.canvas.draw()
    texts = [t for ax in fig.axes for t in ax.texts if t.get_text()]
    boxes = [t.get_window_extent() for t in texts]
    assert boxes
    for i, box in enumerate(boxes):
        assert fig.bbox.x0 <= box.x0 < box.x1 <= fig.bbox.x1, texts[i]
        assert fig.bbox.y0 <= box.y0 < box.y1 <= fig.bbox.y1, texts[i]
        for j in range(i):
            assert not box.overlaps(boxes[j]), (texts[i], texts[j])


def test_matrices_fit_one_another() -> None:
    shapes = {m.name: (m.rows, m.columns) for m in figures.MATRICES}
    assert shapes["$W_Q$"] == shapes["$W_K$"]
    assert shapes["$W_V$"] == shapes["$W_O$"][::-1]
    assert shapes["$W_1$"] == shapes["$W_2$"][::-1]
    assert shapes["embedding"] == shapes["readout"][::-1]
    for matrix in figures.MATRICES:
        grows = tuple(side != "vocabulary" for side in (matrix.rows, matrix.columns))
        assert {(True, False): "input", (True, True): "hidden", (False, True): "output"}[
            grows
        ] == matrix.role
