"""Random search of hyperparameters at the base width, recorded beside the spec that uses it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.spec import Override, RunConfig, Scale, Search
from experiments.store import Record, Store
from experiments.sweep import ROOT, results_dir, train_runs


def trials(search: Search, scale: Scale, data: str) -> list[list[RunConfig]]:
    """The runs of each trial: independent uniform draws from the space, one run a seed."""
    draw = random.Random(search.seed)
    base = {**search.base, **search.scales.get(scale, Override()).base, "data": data}
    points = [
        {key: draw.choice(values) for key, values in search.space.items()}
        for _ in range(search.trials)
    ]
    return [
        [search.config.make(**{**base, **point, "seed": seed}) for seed in range(search.seeds)]
        for point in points
    ]


def tune(
    search: Search,
    scale: Scale,
    data: str,
    jobs: int,
    report: Callable[[int, int, Record], None],
) -> dict[str, Any]:
    """Train every trial, `jobs` at once, and return the record of the search.

    Raises:
        UserError: if every trial diverged.
    """
    runs = [run for trial in trials(search, scale, data) for run in trial]
    unique = list({run.id: run for run in runs}.values())
    folder = results_dir(scale)
    records: dict[str, Record] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for record in pool.map(_train_one, [folder] * len(unique), unique):
            records[record.id] = record
            report(len(records), len(unique), record)
    rows = []
    for trial in trials(search, scale, data):
        losses = [records[run.id].final_loss for run in trial]
        point = {key: getattr(trial[0], key) for key in search.space}
        rows.append({**point, "loss": sum(losses) / len(losses)})
    finite = [row for row in rows if row["loss"] == row["loss"]]
    if not finite:
        raise UserError("every trial diverged; mend the space of the search in spec.py")
    finite.sort(key=lambda row: row["loss"])
    best = dict(finite[0])
    loss = best.pop("loss")
    fixed = {**search.base, **search.scales.get(scale, Override()).base, "data": data}
    return {
        "best": best,
        "loss": loss,
        "scale": scale,
        "base": fixed,
        "trials": len(rows),
        "diverged": len(rows) - len(finite),
        "seeds": search.seeds,
        "space": {key: list(values) for key, values in search.space.items()},
        "ranking": finite,
    }


def _train_one(folder: Path, run: RunConfig) -> Record:
    return train_runs([run], Store(folder))[0]


def save(family: str, record: dict[str, Any]) -> Path:
    """Write the record to experiments/<family>/tuned.json, where the spec reads it."""
    path = ROOT / "experiments" / family / "tuned.json"
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    return path


def neighbours(record: dict[str, Any], count: int = 5) -> Sequence[dict[str, Any]]:
    """The best trials, for a person to look at."""
    best: list[dict[str, Any]] = record["ranking"][:count]
    return best
