"""From stored runs to what is looked at: tables, pictures, verdicts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.analysis import claims, grid
from experiments.data.source import label
from experiments.declare import registry
from experiments.declare.spec import Animation, Figure, Product, Table, load
from experiments.errors import UserError
from experiments.files import atomic_path, write_atomically
from experiments.messages import note
from experiments.runs import measuring
from experiments.runs.store import Store, tidy_runs, write_tables
from experiments.runs.sweep import figures_dir, parted, results_dir, train_runs, train_together

REFERENCE = "reference"


def collect(name: str, scale: Any, data: dict[str, str], jobs: int = 1) -> None:
    """Write a product's tidy tables and scale.json to results/<scale>/<name>.

    Args:
        jobs: processes for runs that follow from what was found.
    """
    product = registry.product(name)
    folder = results_dir(scale) / name
    source = data[registry.owner(name).name]
    if product.sweeps:
        _collect_runs(product, scale, source, folder, jobs)
    else:
        measuring.measure(product, scale, source, folder)
    write_atomically(folder / "scale.json", json.dumps({"scale": scale}).encode())


def _collect_runs(product: Product, scale: Any, source: str, folder: Path, jobs: int) -> None:
    """A run that was lost or damaged since its group finished is trained again, and named."""
    store = Store(results_dir(scale))
    runs = product.runs(scale, source)
    records = train_runs(runs, store)
    if product.follow_up:
        chosen = load(product.follow_up)(runs, tidy_runs(records), scale)
        note(f"{product.name}: {len(chosen)} runs follow from the {len(records)} done")
        records += train_together(chosen, store, jobs)
    if others := parted(records):
        note(
            f"{product.name}: {len(others)} of {len(records)} runs were made by other code than "
            f"this checkout's; `python -m experiments forget {product.name} --stale` drops them"
        )
    if len({(r.config["data"], r.provenance.data_fingerprint) for r in records}) > 1:
        note(
            f"{product.name}: its runs were not made with the same data; "
            f"`python -m experiments forget {product.name} --stale` drops those of other data"
        )
    write_tables(folder, records)


def draw(name: str, results: str) -> list[claims.Verdict]:
    """Draw a figure from its table alone and judge its claims.

    Args:
        name: of the figure.
        results: a scale, or "reference" for the committed runs.

    Returns:
        The verdicts; written beside the table, pictures and CSV under figures/<results>/.
    """
    product = registry.product(name)
    runs, scale = read_runs(name, results)
    folder = figures_dir(results)
    foot = setting(runs, scale) if product.scaled else ""
    table = seen(product, runs, results)
    if isinstance(product, Figure):
        _draw_figure(product, table, foot, folder)
    elif isinstance(product, Table):
        _write_table(product, table, foot, folder)
    if not product.schematic:
        with atomic_path(folder / f"{name}.csv") as temporary:
            runs.to_csv(temporary, index=False)
    verdicts = [claims.judge(claim, table, scale) for claim in product.claims]
    claims.save(claims_file(name, results), verdicts)
    return verdicts


def seen(product: Product, runs: Any, results: str) -> Any:
    """What a product is drawn and judged from: its runs, or the losses of their steps."""
    if not product.over_steps:
        return runs
    curves = _read_table(product.name, results, "curves")
    return curves.merge(runs, on="id", validate="many_to_one")


def _draw_figure(figure: Figure, runs: Any, foot: str, folder: Path) -> None:
    from matplotlib import pyplot as plt

    from experiments.analysis import plotting

    picture = load(figure.draw)(runs)
    if foot:
        plotting.footer(picture, foot)
    for kind in Figure.kinds:
        plotting.save(picture, folder / f"{figure.name}.{kind}")
    if isinstance(figure, Animation):
        animation = load(figure.animate)(runs)
        plotting.footer(plt.gcf(), foot)
        caption = f"{figure.caption} {figure.cited}"
        plotting.save_animation(animation, figure.title, caption, folder / figure.name)
    plt.close("all")


def _write_table(table: Table, runs: Any, foot: str, folder: Path) -> None:
    made: grid.Grid = load(table.render)(runs)
    foot = foot.replace(", band = range", "")  # there is none in a table
    if foot:
        made = replace(made, notes=(*made.notes, f"Here: {foot}."))
    texts = {
        "md": f"# {table.title}\n\n{table.caption} {table.cited}\n\n{grid.markdown(made)}",
        "tex": grid.latex(made, table.title, f"{table.caption} {table.cited}"),
        "html": grid.html_page(made, table.title, f"{table.caption} {table.cited}"),
    }
    for kind in table.kinds:
        write_atomically(folder / f"{table.name}.{kind}", texts[kind].encode())


def setting(runs: Any, scale: str) -> str:
    """Data, size and scale of a tidy table, for the foot of its figure."""
    parts = [label(source) for source in runs["data"].unique()] if "data" in runs else []

    def one(key: str, text: str) -> None:
        if key in runs and runs[key].nunique() == 1:
            parts.append(text.format(runs[key].iloc[0]))

    one("vocab_size", "{:,} words")
    one("steps", "{:,} steps")
    one("batch_size", "batch {}")
    one("seq_len", "length {}")
    one("images", "{:,.0f} training images")
    if "precision" in runs and set(runs["precision"]) == {"bfloat16"}:
        parts.append("bfloat16 products")
    if "seed" in runs:
        seeds = runs["seed"].nunique()
        parts.append(f"{seeds} seeds" if seeds > 1 else "1 seed")
        if seeds > 1 and "final_loss" in runs:  # of trainings, drawn with their range
            parts[-1] += ", band = range"
    parts.append(f"scale: {scale}")
    return " · ".join(parts)


def read_runs(name: str, results: str) -> tuple[Any, str]:
    """The tidy table of a figure and the scale it was made at.

    Raises:
        UserError: naming the file that is missing or damaged.
    """
    runs = _read_table(name, results, "runs")
    path = results_dir(results) / name / "scale.json"
    try:
        return runs, json.loads(path.read_text())["scale"]
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path, error, name, results) from None


def _read_table(name: str, results: str, table: str) -> Any:
    import pandas as pd

    path = results_dir(results) / name / f"{table}.parquet"
    if not path.exists():
        raise UserError(f"no {table} of {name} at {path}; {_mend(name, results)}")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error, name, results) from None


def _mend(name: str, results: str) -> str:
    return f"run `snakemake {name}`" if results != REFERENCE else "see `git status`"


def _damaged(path: Path, error: Exception, name: str, results: str) -> UserError:
    mend = _mend(name, results)
    return UserError(f"{path} is damaged ({type(error).__name__}); delete it, {mend}")


def claims_file(name: str, results: str) -> Path:
    """Where a product's verdicts are."""
    return results_dir(results) / name / "claims.json"


def make_reference(name: str, scale: str) -> None:
    """Copy a product's tables to results/reference and draw figures/reference from them.

    The losses of every step, megabytes of them, only where it is drawn from them.
    """
    read_runs(name, scale)
    product = registry.product(name)
    tables = [t for t in product.tables if t != "curves" or product.over_steps]
    for file in (*(f"{table}.parquet" for table in tables), "scale.json"):
        source, target = results_dir(scale) / name / file, results_dir(REFERENCE) / name / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    draw(name, REFERENCE)
