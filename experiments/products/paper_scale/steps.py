"""What became of real training steps of the scale `paper` on a CPU (benchmarks/paper_step.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from experiments.declare.config import RunConfig
from experiments.files import read_json, write_atomically
from experiments.runs.places import ROOT

LIMIT_GB = 20.0
"""Memory that a step may take, if nothing else is said."""
RECORD = ROOT / "benchmarks" / "paper_steps.json"


@dataclass(frozen=True)
class Step:
    """One configuration, tried.

    Attributes:
        outcome: "done"; "too large" if weights, gradients and moments alone need more memory than
            was allowed, so that nothing was tried; "failed" if not even one example was trained.
        data: the data source; the paper's is not always to be had.
        parameters: of the model.
        batch: that was trained; less than the declared one if that does not fit.
        declared_batch: of the configuration.
        losses: before the first update and after it, in nats or squared error.
        peak_gb: the largest memory of the process, in 1e9 bytes.
        seconds: of one step, from one loss to the next: wall time on one thread.
        note: what is to be known beside this.
    """

    outcome: Literal["done", "too large", "failed"]
    data: str
    parameters: int
    batch: int
    declared_batch: int
    losses: tuple[float, ...]
    peak_gb: float
    seconds: float
    note: str


@dataclass(frozen=True)
class Steps:
    """All that were tried, by key of the configuration, and where.

    Attributes:
        machine: processor and version of torch.
        limit_gb: memory that a step might take.
        by_key: outcomes.
    """

    machine: str
    limit_gb: float
    by_key: dict[str, Step]


def held_gb(run: RunConfig, parameters: int) -> float:
    """GB of a run's weights, gradients and moments, without which no step is made."""
    numbers = 3 if run.optimizer == "sgd" else 4  # beside weights and gradients one moment, or two
    return 4 * numbers * parameters / 1e9


def read(path: Path = RECORD) -> Steps:
    """The record; one of nothing where there is none.

    Raises:
        DamagedFileError: naming it and what is wrong.
    """
    try:
        return read_json(path, Steps)
    except FileNotFoundError:
        return Steps("", 0.0, {})


def write(steps: Steps, path: Path = RECORD) -> None:
    """Write the record, keys in order."""
    ordered: Mapping[str, Step] = dict(sorted(steps.by_key.items()))
    text = json.dumps(
        {**asdict(steps), "by_key": {k: asdict(v) for k, v in ordered.items()}}, indent=1
    )
    write_atomically(path, (text + "\n").encode())
