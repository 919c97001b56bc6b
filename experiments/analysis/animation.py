"""Animations: a GIF, and a page with a slider that needs nothing else and fits a phone."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from experiments.analysis import alt_text, style
from experiments.files import atomic_path, write_atomically

FRAME, HOLD = 700, 2400  # milliseconds
GIF_DPI, PAGE_DPI = 110, 160


@dataclass(frozen=True)
class Frames:
    """What moves.

    Args:
        figure: in which frames are drawn.
        show: draws a frame, by its number.
        names: of the frames, such as "t = 0 (SP)".
        held: numbers of the frames at which the animation stays for a while.
    """

    figure: Figure
    show: Callable[[int], None]
    names: Sequence[str]
    held: Sequence[int]


def save(
    frames: Frames, head: Iterable[str], foot: str, words: tuple[str, str], path: Path
) -> None:
    """Write path.gif, which goes to the last frame and back, and path.html.

    Args:
        frames: what moves.
        head, foot: lines above and below the picture; the page has them as text.
        words: title and caption of the page.
        path: without its ending.
    """
    head = [line for line in head if line]
    page = _page(frames, _pngs(frames, PAGE_DPI), head, foot, words)
    write_atomically(path.with_suffix(".html"), page.encode())
    style.header(frames.figure, head)
    style.footer(frames.figure, foot)
    order = _there_and_back(len(frames.names))
    pngs = _pngs(frames, GIF_DPI)
    images = [Image.open(io.BytesIO(pngs[i])).convert("RGB").quantize() for i in order]
    with atomic_path(path.with_suffix(".gif")) as temporary:
        images[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=[_stay(frames, i) for i in order],
            loop=0,
        )


def _there_and_back(count: int) -> list[int]:
    return [*range(count), *range(count - 2, 0, -1)]


def _stay(frames: Frames, number: int) -> int:
    return HOLD if number in frames.held else FRAME


def _pngs(frames: Frames, dpi: int) -> list[bytes]:
    """Every frame, laid out as the first one, so that nothing but the curves moves."""
    found = []
    frames.figure.set_layout_engine("constrained")
    for number in range(len(frames.names)):
        frames.show(number)
        if number == 0:
            frames.figure.canvas.draw()
            frames.figure.set_layout_engine("none")
        buffer = io.BytesIO()
        frames.figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        found.append(buffer.getvalue())
    return found


def _page(
    frames: Frames, pngs: Sequence[bytes], head: Sequence[str], foot: str, words: tuple[str, str]
) -> str:
    title, caption = map(html.escape, words)
    pictures = ["data:image/png;base64," + base64.b64encode(png).decode() for png in pngs]
    last = len(pictures) - 1
    values = {
        "pictures": pictures,
        "names": list(frames.names),
        "stays": [_stay(frames, i) for i in range(len(pictures))],
    }
    seen = html.escape(alt_text.describe(frames.figure))
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; line-height: 1.4; max-width: 40rem; margin: 0 auto;
  padding: 0.5rem; }}
h1 {{ font-size: 1.3rem; }}
img {{ width: 100%; height: auto; }}
.controls {{ display: flex; align-items: center; gap: 0.75rem; }}
input {{ flex: 1; min-width: 0; height: 2.75rem; }}
button {{ font: inherit; min-width: 5rem; min-height: 2.75rem; }}
output {{ min-width: 6rem; }}
.setting {{ color: #555; font-size: 0.85rem; }}
</style>
<h1>{title}</h1>
<p>{caption}</p>
<img id="picture" src="{pictures[0]}" alt="{seen}">
<div class="controls">
<button id="play" type="button">Play</button>
<input id="slider" type="range" min="0" max="{last}" value="0" aria-label="frame">
<output id="name" for="slider">{html.escape(frames.names[0])}</output>
</div>
<p class="setting">{"<br>".join(map(html.escape, (*head, foot)))}</p>
<script>
const {{pictures, names, stays}} = {json.dumps(values)};
const [picture, slider, name, play] =
  ["picture", "slider", "name", "play"].map((id) => document.getElementById(id));
let timer = null, step = 1;
function show() {{
  const i = Number(slider.value);
  picture.src = pictures[i];
  name.textContent = names[i];
  slider.setAttribute("aria-valuetext", names[i]);
}}
function next() {{
  const i = Number(slider.value);
  if (i + step < 0 || i + step > {last}) step = -step;
  slider.value = i + step;
  show();
  timer = setTimeout(next, stays[i + step]);
}}
function stop() {{
  clearTimeout(timer);
  timer = null;
  play.textContent = "Play";
}}
slider.addEventListener("input", () => {{ stop(); show(); }});
play.addEventListener("click", () => {{
  if (timer !== null) return stop();
  play.textContent = "Pause";
  timer = setTimeout(next, 0);
}});
</script>
</html>
"""
