"""Schedulers in µP: the rates of an optimizer's groups must keep their ratios."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from mupkit.messages import RatioError

TOLERANCE = 1e-4


def per_group(optimizer: Optimizer, rate: float) -> list[float]:
    """`rate` times each group's factor, for schedulers that take absolute rates as a list.

    Use it for max_lr of OneCycleLR, base_lr and max_lr of CyclicLR, min_lr of ReduceLROnPlateau and
    swa_lr of SWALR: `OneCycleLR(optimizer, max_lr=per_group(optimizer, 1e-3), ...)`.

    Args:
        optimizer: made by `MuAdam` or another function of mupkit.
        rate: at base width.

    Returns:
        One rate per group of the optimizer.
    """
    return [rate * group.get("lr_mult", 1.0) for group in optimizer.param_groups]


def guard(optimizer: Optimizer, args: Any = None, kwargs: Any = None) -> None:
    """Raise unless the groups that were made from one of yours keep the ratios of their rates.

    Every µP optimizer calls it before each step. Rates on an accelerator are not checked, since
    reading them would make each step wait.

    Raises:
        RatioError: a ValueError that names two groups and the fix.
    """
    rates: dict[int, tuple[int, float]] = {}
    for index, group in enumerate(optimizer.param_groups):
        lr, mult, origin = group["lr"], group.get("lr_mult"), group.get("mup_group")
        if mult is None or origin is None:
            continue
        if isinstance(lr, Tensor):
            if lr.device.type != "cpu":
                continue
            lr = lr.item()
        first, master = rates.setdefault(origin, (index, lr / mult))
        if not math.isclose(lr / mult, master, rel_tol=TOLERANCE):
            raise RatioError(
                f"the learning rates of groups {first} and {index} have lost the ratio that µP "
                f"gives them: over lr_mult they are {master:g} and {lr / mult:g}",
                "A scheduler has set an absolute rate. Give it a list, "
                "max_lr=mupkit.per_group(optimizer, 1e-3) (OneCycleLR, CyclicLR, "
                "ReduceLROnPlateau's min_lr, SWALR), leave eta_min at 0 (CosineAnnealingLR), or "
                "use LambdaLR",
            )
