"""A table of text as Markdown, LaTeX and HTML.

Cells are plain text with three marks: **bold**, `code`, and √x for a square root of a word. In
LaTeX the mathematical signs become commands, and fan_in and the like keep their underscore.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

SIGNS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "µ": r"$\mu$",
    "β": r"$\beta$",
    "ε": r"$\varepsilon$",
    "Θ": r"$\Theta$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "²": r"$^2$",
    "³": r"$^3$",
    "ᵀ": r"$^\top$",
    "ψ": r"$\psi$",
    "Σ": r"$\Sigma$",
    "–": "--",
    "—": "---",
    "→": r"$\to$",
    "†": r"$\dagger$",
    "·": r"$\cdot$",
    "✗": r"$\times$",
    "ᵃ": r"\textsuperscript{a}",
    "ᵇ": r"\textsuperscript{b}",
    "ᶜ": r"\textsuperscript{c}",
    "ᵈ": r"\textsuperscript{d}",
    "ᵉ": r"\textsuperscript{e}",
    "ᶠ": r"\textsuperscript{f}",
    "ᵍ": r"\textsuperscript{g}",
}
LONGEST = 36  # characters of a cell that a column of LaTeX need not wrap


@dataclass(frozen=True)
class TextTable:
    """A table of text: column heads, rows of as many cells, and notes below it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells for {len(self.columns)} columns: {row[0]}")


def markdown(grid: TextTable) -> str:
    """The table and its notes, as Markdown."""
    lines = [_pipes(grid.columns), "|" + "---|" * len(grid.columns), *map(_pipes, grid.rows)]
    notes = [f"\n{note}" for note in grid.notes]
    return "\n".join([*lines, *notes]) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def latex(grid: TextTable, title: str, caption: str) -> str:
    """A floating table that needs no package; columns wrap if a cell is long."""
    count = len(grid.columns)
    wraps = any(len(cell) > LONGEST for row in grid.rows for cell in row)
    layout = f"p{{{0.9 / count:.2f}\\linewidth}}" * count if wraps else "l" * count
    rows = [" & ".join(map(_tex, row)) + r" \\" for row in grid.rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(f'**{title}.** {caption}')}}}",
            rf"\begin{{tabular}}{{{layout}}}",
            r"\hline",
            " & ".join(map(_tex, grid.columns)) + r" \\",
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
            *(rf"\par\smallskip\footnotesize {_tex(note)}" for note in grid.notes),
            r"\end{table}",
            "",
        ]
    )


def _tex(text: str) -> str:
    def piece(part: str) -> str:
        if part.startswith("**"):
            return rf"\textbf{{{_tex(part[2:-2])}}}"
        if part.startswith("`"):
            return rf"\texttt{{{_tex(part[1:-1])}}}"
        if part.startswith("√"):
            return rf"$\sqrt{{\mbox{{{_tex(part[1:])}}}}}$"
        return "".join(SIGNS.get(sign, sign) for sign in part)

    return "".join(map(piece, re.split(r"(\*\*.+?\*\*|`.+?`|√\w+)", text)))


def html_page(grid: TextTable, title: str, caption: str) -> str:
    """A page of its own, without scripts."""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            f"<title>{_html(title)}</title>",
            "<style>body{font:15px/1.45 sans-serif;max-width:75em;margin:2em auto;padding:0 1em}"
            "table{border-collapse:collapse}td,th{padding:.3em .8em;text-align:left;"
            "vertical-align:top;border-bottom:1px solid #ddd}th{border-bottom:2px solid #444}"
            "</style>",
            f"<h1>{_html(title)}</h1>\n<p>{_html(caption)}</p>\n{html_part(grid)}",
            "</html>\n",
        ]
    )


def html_part(grid: TextTable) -> str:
    """The table and its notes, as a part of a page."""
    head = "".join(f"<th>{_html(cell)}</th>" for cell in grid.columns)
    rows = ["<tr>" + "".join(f"<td>{_html(c)}</td>" for c in row) + "</tr>" for row in grid.rows]
    return "\n".join(
        [
            f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>",
            *rows,
            "</tbody>\n</table>",
            *(f"<p>{_html(note)}</p>" for note in grid.notes),
        ]
    )


def _html(text: str) -> str:
    escaped = html.escape(text)
    bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escaped)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", bold)
