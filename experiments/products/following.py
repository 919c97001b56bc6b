"""The runs that a product trains after its sweeps, because of what they gave."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from experiments.declare import registry
from experiments.declare.config import RunConfig
from experiments.declare.product import Product
from experiments.declare.references import load
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.messages import note
from experiments.products.tidying import tidy_runs
from experiments.runs.store import Store
from experiments.runs.training import missing

if TYPE_CHECKING:
    import pandas as pd

MEASURED = ("valid_accuracy", "valid_loss", "valid_bleu", "test_loss")
"""What runs are chosen by, beside the loss."""


def chosen(
    product: Product, runs: Sequence[RunConfig], table: pd.DataFrame, scale: Scale
) -> list[RunConfig]:
    """The runs that follow from a product's sweeps and are not among them.

    Args:
        product: with a `follow_up`.
        runs: of its sweeps.
        table: their tidy table.
        scale: of the runs.
    """
    found: list[RunConfig] = load(product.follow_up, product.name)(runs, table, scale)
    own = {run.id for run in runs}
    return [run for run in found if run.id not in own]


def expected(product: Product, scale: Scale, data: str, store: Store) -> list[RunConfig]:
    """The runs that follow, to count them and to predict their time before they are known.

    Until all runs of the sweeps are there, their outcomes are made up: how many runs follow, and of
    what size, hardly depends on them. A product that trains nothing more has none.
    """
    if not product.follow_up:
        return []
    runs = product.runs(scale, data)
    records = [] if missing(runs, store) else [store.look(run.id).record for run in runs]
    known = [record for record in records if record is not None]
    try:
        table = tidy_runs(known) if len(known) == len(runs) else _made_up(runs)
        return chosen(product, runs, table, scale)
    except UserError as error:  # what was found gives nothing to go on with
        note(f"{product.name}: {error}")
        return []


def expected_of(
    names: Iterable[str], scale: Scale, data: Mapping[str, str], store: Store
) -> list[RunConfig]:
    """The same of several products, which may share some; names of none of them are left out.

    Args:
        names: of products and of whatever else is trained for.
        scale: of the runs.
        data: data source by exhibit; products of an exhibit without one are left out.
        store: where the runs are or will be.
    """
    found = map(registry.products().get, names)
    following = [p for p in found if p is not None and p.follow_up and p.exhibit in data]
    runs = (run for p in following for run in expected(p, scale, data[p.exhibit], store))
    return [*{run.id: run for run in runs}.values()]


def _made_up(runs: Sequence[RunConfig]) -> pd.DataFrame:
    """The tidy table of runs that all went well, with outcomes in a random order."""
    import pandas as pd

    draw = random.Random(0)
    return pd.DataFrame(
        {
            "id": run.id,
            "family": run.family,
            **run.model_dump(),
            "final_loss": draw.random(),
            "diverged": False,
            **{name: draw.random() for name in MEASURED},
        }
        for run in runs
    )
