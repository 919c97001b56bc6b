"""The page: every figure and table by number, interactive, with its verdicts and its origin."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from matplotlib import pyplot as plt
from plotly.offline import get_plotlyjs

from experiments.analysis import alt_text, style, text_table, verdicts
from experiments.analysis.heading import heading
from experiments.analysis.verdicts import Decision, Verdict
from experiments.declare import registry
from experiments.declare.product import Animation, Figure, Product, Table
from experiments.declare.references import load
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.products import draw, readme, tidy_tables
from experiments.products.report.bullets import bullet
from experiments.products.report.differences import differences
from experiments.products.report.interactive import interactive
from experiments.products.report.moving import moving
from experiments.products.report.traces import NotShownError
from experiments.products.tidy_tables import Results

if TYPE_CHECKING:
    import pandas as pd

HERE = Path(__file__).parent
NUMBERED = {"Fig": 21, "Table": 14}  # figures and tables of the paper
OF_OTHER_FORM = (KeyError, ValueError, IndexError, TypeError, AttributeError)


@dataclass(frozen=True)
class Plot:
    """An interactive picture.

    Attributes:
        json: of plotly.
        height: in pixels.
        seen: what is seen, in words.
    """

    json: str
    height: int
    seen: str


@dataclass
class Entry:
    """What the page has of a product.

    Attributes:
        name, title: of it.
        label: such as "Figure 1".
        section: of the page.
        caption: with the source.
        family: that declares it.
        found: its verdicts.
        others: verdicts by id of the results that are compared.
        setting: data, size and scale of its runs; "" if they are not there.
        held: parametrizations, norm and what is held fixed.
        plots: interactive pictures.
        body: HTML of a table or of a picture that is not interactive.
        differs: (key, paper, here).
        origin: (what, value) of its provenance.
        core_minutes: of its runs.
        missing: why it is not there.
    """

    name: str
    title: str
    label: str
    section: str
    caption: str = ""
    family: str = ""
    found: list[Verdict] = field(default_factory=list)
    others: dict[str, Verdict] = field(default_factory=dict)
    setting: str = ""
    held: str = ""
    plots: list[Plot] = field(default_factory=list)
    body: str = ""
    differs: list[tuple[str, str, str]] = field(default_factory=list)
    origin: list[tuple[str, str]] = field(default_factory=list)
    core_minutes: float = 0.0
    missing: str = ""

    @property
    def counts(self) -> dict[Decision, int]:
        """How many claims have each verdict that occurs."""
        counted = Counter(verdict.verdict for verdict in self.found)
        return {decision: counted[decision] for decision in readme.VERDICTS if counted[decision]}

    @property
    def states(self) -> list[str]:
        """By what a reader filters: its verdicts, or that it claims nothing or is not there."""
        return ["not yet"] if self.missing else list(self.counts) or ["no claim"]


def make_report(results: Results, path: Path, compared: Results | None = None) -> list[Entry]:
    """Write the page.

    Args:
        results: a scale, or "reference" for the committed runs.
        path: of the page.
        compared: further results, which are laid over the pictures.

    Returns:
        What is on the page.

    Raises:
        UserError: the page cannot be written.
    """
    entries = list(_entries(results, compared))
    write_atomically(path, _render(entries, results, compared).encode())
    return entries


def _entries(results: Results, compared: Results | None) -> Iterator[Entry]:
    products = registry.products()
    for product in sorted(products.values(), key=readme.place):
        yield _entry(product, results, compared)
    for (kind, last), section in zip(NUMBERED.items(), readme.SECTIONS, strict=False):
        for number in range(1, last + 1):
            if f"{kind.lower()}{number}" not in products:
                why = "this suite does not have it yet"
                yield Entry(f"{kind.lower()}{number}", "", f"{kind} {number}", section, missing=why)


def _entry(product: Product, results: Results, compared: Results | None) -> Entry:
    entry = Entry(
        product.name,
        product.title,
        product.label[0].upper() + product.label[1:],
        readme.SECTIONS[readme.place(product)[0]],
        f"{product.caption} {product.cited}",
        registry.exhibit(product.exhibit).title,
    )
    try:
        _fill(entry, product, results, compared)
    except UserError as error:
        entry.missing = str(error)
    except OF_OTHER_FORM as error:  # of drawing functions, which expect the tables of today
        what = f"{type(error).__name__}: {error}"
        entry.missing = f"its tables at {tidy_tables.folder_of(product, results)} cannot be drawn "
        entry.missing += f"by this code ({what}); `snakemake {product.name}` makes them again"
    return entry


def _fill(entry: Entry, product: Product, results: Results, compared: Results | None) -> None:
    runs, scale = tidy_tables.read_runs(product, results)
    if not product.schematic:
        entry.found = verdicts.read(tidy_tables.claims_file(product, results))
    table = draw.seen(product, runs, results)
    other = None if compared is None else _other(entry, product, compared)
    if isinstance(product, Table):
        entry.body = _rendered(product, table)
        if other is not None:
            entry.body += f"<h4>{html.escape(str(compared))}</h4>{_rendered(product, other)}"
    elif isinstance(product, Figure):
        _show(entry, product, table, other)
    if product.scaled:
        entry.setting = draw.setting(product, runs, scale, results)
        entry.held = "; ".join(filter(None, heading(product, runs, scale)))
        entry.differs = differences(product, scale, runs["data"].unique() if "data" in runs else ())
    if not product.schematic:
        _originate(entry, product, results)


def _other(entry: Entry, product: Product, compared: Results) -> pd.DataFrame | None:
    """The table of the results that are compared, and what came of their claims."""
    try:
        runs, _ = tidy_tables.read_runs(product, compared)
        if not product.schematic:
            found = verdicts.read(tidy_tables.claims_file(product, compared))
            entry.others = {verdict.id: verdict for verdict in found}
        return draw.seen(product, runs, compared)
    except UserError:
        entry.caption += f" It is not in {compared}."
        return None


def _rendered(table: Table, runs: pd.DataFrame) -> str:
    made: text_table.TextTable = load(table.render, table.name)(runs)
    return text_table.html_part(made)


def _show(entry: Entry, figure: Figure, table: pd.DataFrame, other: pd.DataFrame | None) -> None:
    """The interactive pictures; the picture as it is where it cannot be one."""
    picture = load(figure.draw, figure.name)(table)
    over = None if other is None else load(figure.draw, figure.name)(other)
    try:
        seen = alt_text.describe(picture)
        shown = [interactive(picture, over)]
        if isinstance(figure, Animation):
            label = picture.axes[0].get_ylabel()
            shown = [moving(load(figure.frames, figure.name)(table), label), *shown]
        entry.plots = [Plot(plot.to_json(), plot.layout.height, seen) for plot in shown]
    except NotShownError:
        encoded = base64.b64encode(style.svg(picture)).decode()
        alt = html.escape(figure.caption)
        entry.body = f'<img alt="{alt}" src="data:image/svg+xml;base64,{encoded}">'
    plt.close("all")


def _originate(entry: Entry, product: Product, results: Results) -> None:
    made = tidy_tables.read_table(product, results, "provenance")
    if "seconds" in made:
        entry.core_minutes = float(made["seconds"].sum() / 60)
    texts = {
        "runs": f"{len(made):,}" if product.sweeps else "computed without training",
        "core-minutes": f"{entry.core_minutes:.0f}" if entry.core_minutes else "",
        **{
            label: ", ".join(sorted({str(value) for value in made[key].dropna().unique()}))
            for key, label in {
                "git_commit": "commit",
                "code_version": "code",
                "torch_version": "torch",
                "device": "device",
                "threads": "threads",
                "matmul": "matrix products",
                "data_fingerprint": "data",
            }.items()
            if key in made
        },
    }
    if "finished_at" in made:
        texts["finished"] = str(made["finished_at"].max())
    entry.origin = [(what, value) for what, value in texts.items() if value]


def _render(entries: Sequence[Entry], results: Results, compared: Results | None) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bullet": bullet,
        "measured": verdicts.measured_text,
        "threshold": verdicts.threshold_text,
        "blind": verdicts.blind_text,
        "script": _in_script,
    }
    counts = Counter(verdict.verdict for entry in entries for verdict in entry.found)
    return environment.get_template("page.html.jinja").render(
        sections={s: [e for e in entries if e.section == s] for s in readme.SECTIONS},
        entries=entries,
        there=[entry for entry in entries if not entry.missing],
        counts={decision: counts[decision] for decision in readme.VERDICTS},
        states=[*readme.VERDICTS, "no claim", "not yet"],
        families=sorted({entry.family for entry in entries if entry.family}),
        results=results,
        compared=compared,
        core_hours=sum(entry.core_minutes for entry in entries) / 60,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        plotly=_in_script(get_plotlyjs()),
    )


def _in_script(text: str) -> str:
    """A text that may stand in a script element of a page."""
    return text.replace("</", "<\\/").replace("<!--", "<\\!--")
