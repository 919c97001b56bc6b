"""How long a step of training takes, measured."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

TIMED = 5  # steps


def step_seconds(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> float:
    """Wall time of a forward and a backward pass, the median of some.

    Args:
        model: which stays as it is.
        loss: of a model on one batch.

    Returns:
        Seconds, without those of the optimizer.
    """
    copied, times = copy.deepcopy(model), []
    for _ in range(TIMED):
        start = time.perf_counter()
        with torch.enable_grad():
            loss(copied).backward()  # type: ignore[no-untyped-call]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
