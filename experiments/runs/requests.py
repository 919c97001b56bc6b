"""What a job of a cluster asks for: time and memory, from what is predicted of its runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.declare.config import RunConfig
from experiments.runs.memory import training_bytes
from experiments.runs.planning import Speed, seconds_left

SPARE_MINUTES = 10  # of any job: a node that is slow to start, libraries and data over the network
MARGIN = 3.0  # times the prediction: the node may be slower than the machine that was timed
MB = 1e6


def minutes(runs: Sequence[RunConfig], speed: Speed, attempt: int = 1, cores: int = 1) -> int:
    """Minutes after which a cluster may end a job.

    Args:
        runs: that it trains; without any it gets the spare time alone.
        speed: of the machine that asks.
        attempt: 1 at first; each further one asks for so many times as much.
        cores: that train at once.
    """
    predicted = seconds_left(runs, speed, cores) / 60 if runs else 0.0
    return attempt * (SPARE_MINUTES + math.ceil(MARGIN * predicted))


def megabytes(runs: Sequence[RunConfig], attempt: int = 1, cores: int = 1) -> int:
    """Memory that a job may fill; arguments as in `minutes`."""
    largest = max(map(training_bytes, runs), default=training_bytes(None))
    return attempt * cores * math.ceil(largest / MB)
