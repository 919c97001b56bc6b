"""A picture of what is done so far of a product's runs."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import numpy as np

from experiments.declare.product import Product
from experiments.declare.scales import Scale
from experiments.declare.sweep import Sweep
from experiments.errors import UserError
from experiments.products.draw import make, setting, with_runs
from experiments.products.following import expected
from experiments.products.tidying import tidy_curves, tidy_runs
from experiments.runs.places import figures_dir, results_dir
from experiments.runs.store import Store


def draw_partial(product: Product, scale: Scale, data: str) -> tuple[Path, str]:
    """Draw a product from those of its runs that are done, and judge nothing.

    Its foot says how many there are. It is in a folder of its own, where neither the workflow nor a
    reader takes it for the finished one.

    Args:
        product: a figure or table.
        scale: of its runs.
        data: the data source of its runs.

    Returns:
        Its files' path without suffixes, and how many runs they show, such as "64 of 128 runs".

    Raises:
        UserError: if it has no runs, or too few of them are done to draw any.
    """
    if not product.sweeps:
        raise UserError(f"{product.name} has no runs: `snakemake {product.name}` makes it at once")
    store = Store(results_dir(scale))
    more = expected(product, scale, data, store)
    declared = (*product.runs(scale, data), *more)
    found = (store.look(run.id).record for run in declared if store.looks_finished(run.id))
    done = {record.id: record for record in found if record is not None}
    shown = {id for sweep in product.sweeps for id in _full_grid(sweep, scale, data, done)}
    shown |= {run.id for run in more} & done.keys()
    records = [record for id, record in done.items() if id in shown]
    so_far = f"{len(done)} of {len(declared)} runs"
    if len(records) < len(done):
        so_far += f", {len(records)} of them drawn"
    if not records:
        raise UserError(
            f"{product.name}: {len(done)} of {len(declared)} runs are done at the scale {scale}, "
            f"too few to draw; `snakemake {product.name}` trains them"
        )
    folder, runs = figures_dir(scale) / "partial", tidy_runs(records)
    table = with_runs(tidy_curves(records), runs) if product.over_steps else runs
    try:
        make(product, runs, table, scale, f"{so_far} · {setting(product, runs, scale)}", folder)
    except UserError:
        raise
    except Exception as error:  # whatever a function does without the runs that it expects
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(
            f"{product.name} cannot be drawn from {so_far} ({reason}); try again when more are done"
        ) from error
    return folder / product.name, so_far


def _full_grid(sweep: Sweep, scale: Scale, data: str, done: Container[str]) -> list[str]:
    """Ids of done runs of a sweep that make a full grid, which pictures expect.

    The values of an axis with the smallest share of done runs are left out, one after another,
    until every run of the rest is done; of SP and µP both stay.
    """
    axes, runs = sweep.axes(scale), sweep.runs(scale, data)
    sizes = (-1, *map(len, axes.values()))  # the points are an axis, too
    ids = np.array([run.id for run in runs]).reshape(sizes)
    there = np.array([run.id in done for run in runs]).reshape(sizes)
    fixed = {i for i, key in enumerate(axes, start=1) if key == "parametrization"}
    while there.size and not there.all():
        shares = {
            (float(share), i, at)
            for i, size in enumerate(there.shape)
            if size > 1 and i not in fixed
            for at, share in enumerate(np.moveaxis(there, i, 0).reshape(size, -1).mean(axis=1))
        }
        if not shares:
            return []
        _, i, at = min(shares)
        there, ids = np.delete(there, at, axis=i), np.delete(ids, at, axis=i)
    return [str(id) for id in ids.flat]
