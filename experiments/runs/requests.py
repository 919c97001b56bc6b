"""What a job of a cluster asks for: time and memory, from what is predicted of its runs.

Where runs are trained together, the times are those of stacks if these were timed, and the memory
is that of the largest stack that the job may train on a processor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from experiments.declare.config import RunConfig
from experiments.runs.memory import PROCESS, weight_bytes
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


def megabytes(
    runs: Sequence[RunConfig], attempt: int = 1, cores: int = 1, stack: int | None = 1
) -> int:
    """Memory that a job may fill.

    Args:
        runs, attempt, cores: as in `minutes`.
        stack: how many runs are trained together at most; None, as many as a GPU holds, whose
            weights are in its own memory, and one on a CPU.
    """
    alike = Counter(run.stack_key for run in runs)
    alike[None] = 1  # what is never stacked
    sizes = [min(stack or 1, alike[run.stack_key]) * weight_bytes(run) for run in runs]
    largest = max(sizes, default=0.0)
    return attempt * cores * math.ceil((PROCESS + largest) / MB)
