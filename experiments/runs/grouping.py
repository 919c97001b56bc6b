"""Which runs one job trains: groups of like cost."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from experiments.declare import registry
from experiments.declare.config import RunConfig
from experiments.declare.scales import Scale
from experiments.declare.schedules import OPEN_ENDED

# An AVX-512 core reached this speed; on another one groups are longer or shorter, and still alike.
SECONDS_PER_FLOP = 1 / 1.8e11
GROUP_SECONDS = 240.0  # that a group should take on one core
MOST_GROUPS = 64  # of runs that the same products need: Snakemake is slow with thousands of jobs
MOST_ON_A_CARD = (
    8  # the same at the scale `gpu`, which is for one card: starting jobs takes its time
)
SPLIT, SHORTEST = 4, 30.0  # few runs still make up to so many groups, each of so many seconds


def cost(run: RunConfig) -> float:
    """Rough seconds on one core, which balance groups and estimate the time left."""
    return run.overhead * run.steps + SECONDS_PER_FLOP * run.flops()


@dataclass(frozen=True)
class Group:
    """Runs that one job trains one after another."""

    runs: tuple[RunConfig, ...]

    @property
    def id(self) -> str:
        """12 digits of a hash of the runs' ids: other runs make another group."""
        return hashlib.sha256(" ".join(r.id for r in self.runs).encode()).hexdigest()[:12]


def groups(scale: Scale, data: dict[str, str]) -> tuple[dict[str, Group], dict[str, list[str]]]:
    """The jobs of a scale, and the jobs that each figure or table needs.

    Runs that the same set of products needs are grouped together, so that a product waits for
    nothing else and a shared run is in one group alone.

    Args:
        scale: of the runs.
        data: data source by exhibit. The products of an exhibit without one have no groups.

    Returns:
        Groups by id; ids of groups by product.
    """
    needed_by: dict[str, list[str]] = {}
    runs: dict[str, RunConfig] = {}
    products = registry.products()
    for name, product in products.items():
        there = product.exhibit in data
        for run in product.runs(scale, data[product.exhibit]) if there else ():
            runs[run.id] = run
            needed_by.setdefault(run.id, []).append(name)
    by_products: dict[tuple[str, ...], list[RunConfig]] = {}
    for run_id, names in needed_by.items():
        by_products.setdefault(tuple(names), []).append(runs[run_id])
    all_groups: dict[str, Group] = {}
    of_product: dict[str, list[str]] = {name: [] for name in products}
    for needing, members in by_products.items():
        for group in pack(members, MOST_ON_A_CARD if scale == "gpu" else MOST_GROUPS):
            all_groups[group.id] = group
            for name in needing:
                of_product[name].append(group.id)
    return all_groups, of_product


def needed_with(
    group: str, needed: Mapping[str, Sequence[str]], asked: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """Which products a group's job works for, and the groups that they need.

    Args:
        group: id of a group.
        needed: ids of groups by product.
        asked: products that are being made, as far as that is known.

    Returns:
        The first of `asked` that needs the group, and all groups that it needs. If there is none,
        all products that need the group, and the groups that every one of them needs: a job never
        trains runs that nobody has asked for.
    """
    names = [name for name, ids in needed.items() if group in ids]
    names = [name for name in names if name in set(asked)][:1] or names
    shared = set.intersection(*(set(needed[name]) for name in names))
    return names, [i for i in needed[names[0]] if i in shared]


def pack(runs: Sequence[RunConfig], most: int = MOST_GROUPS) -> list[Group]:
    """Runs in groups of about equal cost: of about `GROUP_SECONDS` at most, or of one run.

    A run that is the beginning of a longer one joins its group and costs nothing. Few runs make
    several short groups, so that several cores have work; many make `most` longer ones.
    """
    units: dict[str, list[RunConfig]] = {}
    for run in sorted(runs, key=lambda r: (-cost(r), r.id)):
        units.setdefault(beginning_of(run) or run.id, []).append(run)
    total = sum(cost(unit[0]) for unit in units.values())
    count = max(1, round(total / GROUP_SECONDS), min(SPLIT, int(total / SHORTEST)))
    count = min(len(units), count, most)
    bins: list[list[RunConfig]] = [[] for _ in range(count)]
    loads = [(0.0, number) for number in range(count)]  # a heap: the lightest first
    for unit in units.values():
        load, lightest = loads[0]
        bins[lightest] += unit
        heapq.heapreplace(loads, (load + cost(unit[0]), lightest))
    return [Group(tuple(members)) for members in bins if members]


def beginning_of(run: RunConfig) -> str | None:
    """A key that is equal for runs of which the shorter is the beginning of the longer.

    None if the schedule depends on the number of steps, so that no run is another's beginning.
    """
    if run.schedule not in OPEN_ENDED:
        return None
    values = run.canonical()
    values.pop("steps", None)
    return json.dumps(values, sort_keys=True)
