"""Random search of hyperparameters at the base width, recorded beside the spec that uses it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from experiments.declare.config import RunConfig
from experiments.declare.family import Family, Search
from experiments.declare.scales import Scale
from experiments.declare.sweep import draw_points
from experiments.declare.tuned import NAMES
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.runs.places import ROOT, results_dir
from experiments.runs.store import Record, Store
from experiments.runs.training import processes, train_runs, train_stacks

Point = dict[str, Any]
Losses = Callable[[str, Sequence[RunConfig]], list[float]]
WINDOW = 3  # neighbouring rates over which a finalist's loss is averaged


def tune(
    search: Search,
    scale: Scale,
    data: str,
    jobs: int,
    report: Callable[[str, int, int, Record], None],
    stack: int | None = 1,
) -> dict[str, Any]:
    """Run both stages of a search, `jobs` trainings at once, and return its record.

    Args:
        report: called with the stage, the runs done and to do, and the newest record.
        stack: how many runs are trained together, as of `train_runs`; this process trains these.

    Raises:
        UserError: if every trial diverged.
    """
    base = {**search.base, "data": data}
    with processes(jobs) as pool:
        losses = partial(_losses, pool, results_dir(scale), report, stack)
        ranking = rank_trials(search, base, losses)
        finals = sorted(
            (sweep_finalist(search, base, row, losses) for row in ranking[: search.finalists]),
            key=lambda final: math.inf if final["score"] is None else final["score"],
        )
    if not finals or finals[0]["score"] is None:
        raise UserError(
            f"{search.config.family}: every trial diverged; fix the search's space in its spec.py"
        )
    return {
        "best": finals[0]["point"],
        "score": finals[0]["score"],
        "scale": scale,
        "base": base,
        "space": {key: list(values) for key, values in search.space.items()},
        "trials": search.trials,
        "seeds": search.seeds,
        "rates": list(search.rates),
        "finalists": finals,
        "ranking": ranking,
    }


def search_of(family: Family, scale: Scale) -> Search:
    """The search of a family at a scale.

    Raises:
        UserError: it declares none there; the message says where its values come from.
    """
    if scale in family.searches:
        return family.searches[scale]
    there = ", ".join(family.searches)
    where = f"only at {there}" if there else "at no scale"
    values = f"; at {scale} it has {family.base_from[scale]}" if scale in family.base_from else ""
    raise UserError(f"{family.name} declares a search {where}{values}")


def lacks(family: Family, scale: Scale) -> bool:
    """Whether a family declares a search at a scale, and none is recorded that was made there."""
    return (
        scale in family.searches and scale in NAMES and not record_of(family.name, scale).exists()
    )


def unsearched(family: Family, scale: Scale) -> str:
    """What is said of a family whose search at a scale is not recorded."""
    has = family.base_from.get(scale, "no base hyperparameters of a search")
    return (
        f"{family.name}: the search at the scale {scale} is not made yet, so that its runs have "
        f"{has}; `python -m experiments tune {family.name} --scale {scale}` makes it"
    )


def record_of(family: str, scale: Scale) -> Path:
    """The file that has the winner of a family's search, beside its declarations."""
    return ROOT / "experiments" / "families" / family / NAMES[scale]


def declared(search: Search, data: str) -> tuple[list[RunConfig], list[RunConfig]]:
    """The trials of a search and the runs of as many finalists, to count and to time them."""
    base = {**search.base, "data": data}
    points = draw_points(search.space, search.trials, search.draws)
    trials = [search.config.make(**{**base, **point}) for point in points]
    finals = [run for row in points[: search.finalists] for run in _finals(search, base, row)]
    unique = {run.id: run for run in trials}
    return [*unique.values()], [run for run in finals if run.id not in unique]


def _finals(search: Search, base: Point, point: Point) -> list[RunConfig]:
    """The runs of a finalist, seeds of a rate together."""
    return [
        search.config.make(**{**base, **point, "log2lr": rate, "seed": seed})
        for rate in search.rates
        for seed in range(search.seeds)
    ]


def rank_trials(search: Search, base: Point, losses: Losses) -> list[Point]:
    """Random points with their `loss`, best first, without those that diverged."""
    points = draw_points(search.space, search.trials, search.draws)
    runs = [search.config.make(**{**base, **point}) for point in points]
    rows = [
        {**point, "loss": loss} for point, loss in zip(points, losses("random", runs), strict=True)
    ]
    return sorted((row for row in rows if math.isfinite(row["loss"])), key=lambda r: r["loss"])


def sweep_finalist(search: Search, base: Point, row: Point, losses: Losses) -> Point:
    """A finalist's mean losses over the rates, and its score: the mean of its best window."""
    point = {key: row[key] for key in search.space}
    flat = losses("finalist", _finals(search, base, point))
    means = [
        sum(flat[i * search.seeds : (i + 1) * search.seeds]) / search.seeds
        for i in range(len(search.rates))
    ]
    scores = [sum(means[i : i + WINDOW]) / WINDOW for i in range(len(search.rates) - WINDOW + 1)]
    best = min(range(len(scores)), key=scores.__getitem__)
    middle = search.rates[best + WINDOW // 2]
    finite = [loss if math.isfinite(loss) else None for loss in means]  # JSON has no infinity
    score = scores[best] if math.isfinite(scores[best]) else None
    return {"point": {**point, "log2lr": middle}, "score": score, "losses": finite}


def _losses(
    pool: ProcessPoolExecutor,
    folder: Path,
    report: Callable[[str, int, int, Record], None],
    stack: int | None,
    stage: str,
    runs: Sequence[RunConfig],
) -> list[float]:
    """Final losses of `runs`, infinity for those that diverged; equal runs are trained once."""
    unique = list({run.id: run for run in runs}.values())
    found: dict[str, float] = {}
    train_stacks(unique, Store(folder), stack)
    for record in pool.map(_train_one, [folder] * len(unique), unique):
        found[record.id] = math.inf if record.diverged else record.final_loss
        report(stage, len(found), len(unique), record)
    return [found[run.id] for run in runs]


def _train_one(folder: Path, run: RunConfig) -> Record:
    return train_runs([run], Store(folder))[0]


def save(family: str, scale: Scale, record: dict[str, Any]) -> Path:
    """Write the record of a scale's search beside the family's declarations, which read it."""
    path = record_of(family, scale)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    return path
