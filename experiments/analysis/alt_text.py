"""What is seen in a picture, in words, for those who do not see it: kept in the PNG itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

KEY = "Description"  # of the text in a PNG


def describe(fig: Figure) -> str:
    """Panels, axes and curves of a figure, from what is drawn; "" for a schematic."""
    panels = [ax for ax in fig.axes if ax.axison]
    if not panels:
        return ""
    legends = [*fig.legends, *(found for ax in panels if (found := ax.get_legend()))]
    parts = {
        f"{len(panels)} panels" if len(panels) > 1 else "1 panel": _each(
            ax.get_title() for ax in panels
        ),
        "across": _each(ax.get_xlabel() for ax in panels),
        "up": _each(ax.get_ylabel() for ax in panels),
        "curves and marks": _each(map(_entries, legends)) or _labels(panels),
    }
    return "; ".join(f"{name}: {text}" if text else name for name, text in parts.items()) + "."


def _each(texts: Iterable[str]) -> str:
    """Every text once, on one line."""
    return " / ".join(dict.fromkeys(" ".join(text.split()) for text in texts if text))


def _entries(legend: Legend) -> str:
    title = legend.get_title().get_text()
    texts = ", ".join(" ".join(text.get_text().split()) for text in legend.get_texts())
    return f"{' '.join(title.split())} {texts}".strip()


def _labels(panels: Iterable[Axes]) -> str:
    return _each(label for ax in panels for label in ax.get_legend_handles_labels()[1])


def read(png: Path) -> str:
    """What `describe` said of a picture when it was drawn; "" without any."""
    from PIL import Image

    with Image.open(png) as image:
        return str(image.info.get(KEY, ""))
