"""A picture of what is done so far of a product's runs."""

from __future__ import annotations

from pathlib import Path

from experiments.declare.product import Product
from experiments.declare.scales import Scale
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
        UserError: if it has no runs, if none of them is done, or if too few are to draw them.
    """
    if not product.sweeps:
        raise UserError(f"{product.name} has no runs: `snakemake {product.name}` makes it at once")
    store = Store(results_dir(scale))
    declared = (*product.runs(scale, data), *expected(product, scale, data, store))
    found = (store.look(run.id).record for run in declared if store.looks_finished(run.id))
    records = [record for record in found if record is not None]
    so_far = f"{len(records)} of {len(declared)} runs"
    if not records:
        raise UserError(
            f"{product.name}: {so_far} are done at the scale {scale}; `snakemake {product.name}` "
            "trains them"
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
