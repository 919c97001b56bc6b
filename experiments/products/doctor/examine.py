"""Looking for everything that is wrong in a results folder and the cache; reads only."""

from __future__ import annotations

from experiments.declare import registry
from experiments.declare.scales import Scale
from experiments.products.doctor.cache import cache
from experiments.products.doctor.finding import Finding
from experiments.products.doctor.folders import left_behind, room
from experiments.products.doctor.runs import look_at_all, runs
from experiments.products.doctor.tables import tables
from experiments.runs.places import figures_dir, results_dir
from experiments.runs.store import Store


def examine(scale: Scale) -> list[Finding]:
    """Everything that there is to say about the results of a scale."""
    store, pictures = Store(results_dir(scale)), figures_dir(scale)
    lost = [Finding(f"{name} is left out", why) for name, why in registry.left_out().items()]
    if not store.folder.exists():
        return [*lost, *room(store.folder), *cache()]
    looked = look_at_all(store)
    return [
        *lost,
        *room(store.folder, pictures),
        *runs(store, looked, scale),
        *left_behind(store, pictures),
        *tables(store, looked),
        *cache(),
    ]
