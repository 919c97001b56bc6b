"""From a product's tidy table to its pictures and verdicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.analysis import text_table, verdicts
from experiments.analysis.heading import heading
from experiments.analysis.verdicts import Verdict
from experiments.declare import registry
from experiments.declare.family import Family
from experiments.declare.product import Animation, Figure, Product, Table
from experiments.declare.references import load
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.files import atomic_path, write_atomically
from experiments.products.tidy_tables import Results, claims_file, read_runs, read_table
from experiments.runs.places import figures_dir

if TYPE_CHECKING:
    import pandas as pd

LONG = 1000  # characters that nobody reads in a cell
ORIGINS = {  # what a run's numbers depend on beside its configuration and data, in the provenance
    "code_version": "versions of the code",
    "torch_version": "versions of torch",
    "device": "kinds of device",
    "threads": "numbers of threads",
    "matmul": "kinds of matrix products",
    "computed": "ways of computing a step",
}


def draw(product: Product, results: Results) -> list[Verdict]:
    """Draw a product from its tidy table alone and judge its claims.

    Args:
        product: a figure or table.
        results: a scale, or "reference" for the committed runs.

    Returns:
        The verdicts; written beside the table, pictures and CSV under figures/<results>/. The CSV
        leaves out columns of long text, such as counts by exponent, which the table keeps.
    """
    runs, scale = read_runs(product, results)
    foot = setting(product, runs, scale, results) if product.scaled else ""
    table = seen(product, runs, results)
    make(product, runs, table, scale, foot, figures_dir(results))
    found = judge(product, runs, table, scale)
    verdicts.save(claims_file(product, results), found)
    return found


def make(
    product: Product, runs: pd.DataFrame, table: pd.DataFrame, scale: Scale, foot: str, folder: Path
) -> None:
    """The files of a product: pictures or texts of `table`, and `runs` as CSV."""
    if isinstance(product, Figure):
        _draw_figure(product, table, heading(product, runs, scale), foot, folder)
    elif isinstance(product, Table):
        _write_table(product, table, foot, folder)
    if not product.schematic:
        with atomic_path(folder / f"{product.name}.csv") as temporary:
            _readable(runs).to_csv(temporary, index=False)


def _readable(runs: pd.DataFrame) -> pd.DataFrame:
    texts = runs.select_dtypes(include=["object", "string"])
    longest = texts.apply(lambda column: column.dropna().astype(str).str.len().max())
    return runs.drop(columns=longest.index[longest > LONG])


def judge(product: Product, runs: pd.DataFrame, table: pd.DataFrame, scale: Scale) -> list[Verdict]:
    """Judge a product's claims, if its runs are those that are declared now.

    Claims and their seeds may be declared anew before the runs that judge them are there; the
    older ones may not judge them.

    Args:
        product: a figure or table.
        runs: its tidy table of runs.
        table: what its claims are measured on (`seen`).
        scale: of the runs.
    """
    found = [verdicts.judge(claim, table, scale) for claim in product.claims]
    if _as_declared(product, runs, scale):
        return found
    note = f"its runs are not those that are declared now, which `snakemake {product.name}` trains"
    return [replace(verdict, verdict="not judged", note=note) for verdict in found]


def _as_declared(product: Product, runs: pd.DataFrame, scale: Scale) -> bool:
    if not product.sweeps:
        return True
    ids = {*runs["id"]}
    declared = {run.id for run in product.runs(scale, runs["data"].iloc[0])}
    return declared <= ids if product.follow_up else declared == ids


def seen(product: Product, runs: pd.DataFrame, results: Results) -> pd.DataFrame:
    """The table that a product is drawn and judged from: a row per run, or per step of each run."""
    if not product.over_steps:
        return runs
    return with_runs(read_table(product, results, "curves"), runs)


def with_runs(curves: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """A row per step of each run, with the columns of the run."""
    return curves.merge(runs, on="id", validate="many_to_one")


def _draw_figure(
    figure: Figure, runs: pd.DataFrame, head: Iterable[str], foot: str, folder: Path
) -> None:
    from matplotlib import pyplot as plt

    from experiments.analysis import animation, style

    picture = load(figure.draw, figure.name)(runs)
    style.header(picture, head)
    if foot:
        style.footer(picture, foot)
    for kind in Figure.kinds:
        style.save(picture, folder / f"{figure.name}.{kind}", f"{figure.label}: {figure.title}")
    if isinstance(figure, Animation):
        frames = load(figure.animate, figure.name)(runs)
        words = figure.title, f"{figure.caption} {figure.cited}"
        animation.save(frames, head, foot, words, folder / figure.name)
    plt.close("all")


def _write_table(table: Table, runs: pd.DataFrame, foot: str, folder: Path) -> None:
    made: text_table.TextTable = load(table.render, table.name)(runs)
    if foot:
        made = replace(made, notes=(*made.notes, f"Here: {foot}."))
    texts = {
        "md": f"# {table.title}\n\n{table.caption} {table.cited}\n\n{text_table.markdown(made)}",
        "tex": text_table.latex(made, table.title, f"{table.caption} {table.cited}"),
        "html": text_table.html_page(made, table.title, f"{table.caption} {table.cited}"),
    }
    for kind in table.kinds:
        write_atomically(folder / f"{table.name}.{kind}", texts[kind].encode())


def _data_labels(product: Product, data_sources: Iterable[str]) -> list[str]:
    """What the exhibit calls its data; nothing for "", which stands for no data."""
    declared = registry.exhibit(product.exhibit).data_sources
    labels = []
    for data_source in filter(None, data_sources):
        if data_source not in declared:
            raise UserError(
                f"{product.name}: {product.exhibit} does not declare the data source "
                f"{data_source!r} of its runs; add it to data_sources in "
                f"experiments/families/{product.exhibit}/spec.py"
            )
        labels.append(declared[data_source])
    return labels


def mixed(product: Product, results: Results) -> list[str]:
    """What differs between the origins of a product's runs, such as "2 versions of the code".

    Raises:
        UserError: naming the file that is missing or damaged.
    """
    if not product.sweeps:
        return []
    provenance = read_table(product, results, "provenance")
    counts = {text: provenance[key].nunique() for key, text in ORIGINS.items() if key in provenance}
    found = [f"{count} {text}" for text, count in counts.items() if count > 1]
    if "stacked" in provenance:  # older tables have none
        together = int((provenance["stacked"] > 0).sum())
        if 0 < together < len(provenance):
            found.append(f"which {together} of {len(provenance)} were trained together")
    return found


def setting(
    product: Product, runs: pd.DataFrame, scale: Scale, results: Results | None = None
) -> str:
    """Data, size and scale of a product's tidy table, for its foot.

    Args:
        product: a figure or table.
        runs: its tidy table of runs.
        scale: of the runs.
        results: where its provenance is, to say what its runs were not made alike by.

    Raises:
        UserError: if its exhibit does not declare the data source of a run.
    """
    parts = _data_labels(product, runs["data"].unique()) if "data" in runs else []

    def one(key: str, text: str) -> None:
        if key in runs and runs[key].nunique() == 1:
            parts.append(text.format(runs[key].iloc[0]))

    if "vocab_size" in runs:
        one("vocab_size", f"{{:,}} {registry.family(product.exhibit).config.tokens}")
    one("steps", "{:,} steps")
    one("batch_size", "batch {}")
    one("seq_len", "length {}")
    one("images", "{:,.0f} training images")
    if "precision" in runs and set(runs["precision"]) != {"float32"}:
        one("precision", "{} products")
    if "seed" in runs:
        seeds = runs["seed"].nunique()
        parts.append(f"{seeds} seeds" if seeds > 1 else "1 seed")
        if seeds > 1 and isinstance(product, Figure) and product.sweeps:
            parts[-1] += ", band = range"
    if results is not None:
        parts += (f"runs of {text}" for text in mixed(product, results))
    exhibit = registry.exhibit(product.exhibit)
    if isinstance(exhibit, Family) and scale in exhibit.base_from:
        parts.append(exhibit.base_from[scale])
    parts.append(f"scale: {scale}")
    return " · ".join(parts)
