"""From runs, or from a function, to the tidy tables of a product."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.declare.product import Product
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.messages import note
from experiments.products import computing
from experiments.products.doctor.runs import DataNow
from experiments.products.following import chosen
from experiments.products.tidy_tables import folder_of, write_made
from experiments.products.tidying import tidy_runs, write_tables
from experiments.runs.places import results_dir
from experiments.runs.progress import Progress
from experiments.runs.store import Record, Store
from experiments.runs.training import parted, train_runs, train_together


def collect(
    product: Product, scale: Scale, data: str, jobs: int = 1, stack: int | None = 1
) -> None:
    """Write a product's tidy tables and scale.json to results/<scale>/<name>.

    Args:
        product: a figure or table.
        scale: of its runs.
        data: the data source of its runs.
        jobs: processes for runs that follow from what was found.
        stack: how many of these are trained together, as of `runs.training.train_runs`.

    Raises:
        UserError: if its runs were not made with the same data.
    """
    folder = folder_of(product, scale)
    if product.sweeps:
        _collect_runs(product, scale, data, folder, jobs, stack)
    else:
        computing.compute(product, scale, data, folder)
    write_made(product, scale, folder)


def _collect_runs(
    product: Product, scale: Scale, data: str, folder: Path, jobs: int, stack: int | None
) -> None:
    """A run that was lost or damaged since its group finished is trained again, and named."""
    store = Store(results_dir(scale))
    runs = product.runs(scale, data)
    records = train_runs(runs, store)
    _refuse_mixed_data(product, scale, records)
    if product.follow_up:
        more = chosen(product, runs, tidy_runs(records), scale)
        note(f"{product.name}: {len(more)} runs follow from the {len(records)} done")
        progress = Progress(product.name, more, store, jobs, stack, what="runs that follow")
        records += train_together(more, store, jobs, progress, stack)
    if others := parted(records):
        note(
            f"{product.name}: {len(others)} of {len(records)} runs were made by other code than "
            f"this checkout's; `python -m experiments forget {product.name} --stale` drops them"
        )
    _refuse_mixed_data(product, scale, records)
    write_tables(folder, records)


def _refuse_mixed_data(product: Product, scale: Scale, records: Sequence[Record]) -> None:
    """Refuse runs of a data source whose files changed between them.

    Fingerprints alone do not decide: runs that differ in their vocabulary, say, may differ in them.
    """
    if len({r.provenance.data_fingerprint for r in records}) == 1:
        return
    data_now = DataNow()
    for record in records:
        if data_now(record) not in (None, record.provenance.data_fingerprint):
            raise UserError(
                f"{product.name}: its runs were not made with the same data ({record.id} was not "
                f"made with those that are there now); `python -m experiments forget {product.name}"
                f" --scale {scale} --stale` drops runs of other data, then run it again"
            )
