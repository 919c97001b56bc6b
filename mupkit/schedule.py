"""Schedulers in µP: the rates of an optimizer's groups must keep their ratios."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from mupkit.messages import RatioError

TOLERANCE = 1e-4
KEPT = ("lr_mult", "mup_group", "mup_lr", "coupled_decay", "sgd_ratio")
"""What a group of a µP optimizer has beside torch's options."""
FIX = (
    "A scheduler has set an absolute rate, or the state of a plain optimizer was loaded. Give a "
    "scheduler a list, max_lr=mupkit.per_group(optimizer, 1e-3) (OneCycleLR, CyclicLR, "
    "ReduceLROnPlateau's min_lr, SWALR), leave eta_min at 0 (CosineAnnealingLR), or use LambdaLR"
)


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
    """Raise unless the optimizer's groups keep the ratios of their rates.

    Groups that were made from one of yours must keep theirs exactly. Two of yours may have
    schedules of their own, but not the same rate where µP gives them different ones.

    Every µP optimizer calls it before each step. Rates on an accelerator are not checked, since
    reading them would make each step wait.

    Raises:
        RatioError: a ValueError that names two groups and the fix.
    """
    masters: dict[int, tuple[int, float]] = {}  # rate over lr_mult, by the group of yours
    rates: dict[float, tuple[int, float]] = {}  # rate that µP gives, by the rate that is set
    for index, group in enumerate(optimizer.param_groups):
        lr, mult, origin = group["lr"], group.get("lr_mult"), group.get("mup_group")
        if mult is None or origin is None:
            continue
        if isinstance(lr, Tensor):
            if lr.device.type != "cpu":
                continue
            lr = lr.item()
        first, master = masters.setdefault(origin, (index, lr / mult))
        if not math.isclose(lr / mult, master, rel_tol=TOLERANCE):
            raise RatioError(
                f"the learning rates of groups {first} and {index} have lost the ratio that µP "
                f"gives them: over lr_mult they are {master:g} and {lr / mult:g}",
                FIX,
            )
        asked = group["mup_lr"] * mult
        first, other = rates.setdefault(lr, (index, asked))
        if lr and not math.isclose(asked, other, rel_tol=TOLERANCE):
            raise RatioError(
                f"groups {first} and {index} have the same learning rate, {lr:g}, where they were "
                f"asked to have {other:g} and {asked:g}",
                FIX,
            )


def guarded(impl: type[Optimizer]) -> Any:
    """A subclass of an optimizer that goes by its name and keeps `guard` through copies and loads.

    A deep copy, a pickle, and a state that was saved by a plain optimizer would lose it otherwise.
    """
    if impl in _GUARDED:
        return _GUARDED[impl]
    base: Any = impl

    class Guarded(base):  # type: ignore[misc]
        def __reduce_ex__(self, protocol: Any) -> Any:
            return _blank, (impl,), self.__getstate__()

        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            if guard not in self._optimizer_step_pre_hooks.values():
                self.register_step_pre_hook(guard)

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            before = [{key: g[key] for key in KEPT if key in g} for g in self.param_groups]
            super().load_state_dict(state_dict)
            for group, kept in zip(self.param_groups, before, strict=True):
                for key, value in kept.items():
                    group.setdefault(key, value)

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Guarded, name, getattr(impl, name))
    return _GUARDED.setdefault(impl, Guarded)


_GUARDED: dict[type[Optimizer], Any] = {}


def _blank(impl: Any) -> Any:
    cls = guarded(impl)
    return cls.__new__(cls)
