"""One run on several processes: the first one has the store, the others compute their share."""

from __future__ import annotations

from collections.abc import Callable

from experiments.declare.config import RunConfig
from experiments.declare.way import Place, Way
from experiments.runs.store import Record, Store
from experiments.runs.training import follow, train_runs


def train_shared(
    run: RunConfig,
    store: Store,
    way: Way,
    place: Place | None,
    on_step: Callable[[int, float], None] | None = None,
) -> Record | None:
    """Train one run if it is not in the store, in another way than one process by itself.

    Args:
        run: any run.
        store: where it is or will be; process 0 alone reads and writes it.
        way: how its steps are computed.
        place: of this process, if `torchrun` started it.
        on_step: called on process 0 with the number of each step and its loss.

    Returns:
        The record, on process 0; None on the others.

    Raises:
        UserError: if the run cannot be computed so.
    """
    from experiments.train.distributed import joined

    way.refuse(run)
    with joined(way, place) as team:
        if not team.first:
            follow(run, store, team)
            return None
        (record,) = train_runs([run], store, on_step=on_step, team=team)
        team.tell("done")
        return record
