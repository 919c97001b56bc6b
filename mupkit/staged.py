"""torch's RAdam and Adafactor, whose rates change their meaning between steps, made to keep µP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.optim import Adafactor, Optimizer, RAdam


class MuRAdam(RAdam):
    """RAdam whose first steps, which are SGD with momentum, have SGD's rates.

    Source: Tensor Programs V, Appendix B.3, "RAdam".
    """

    def step(self, closure: Any = None) -> Any:
        factors = [1.0 if self._adaptive(g) else g["sgd_ratio"] for g in self.param_groups]
        with _rates_times(self, factors):
            return super().step(closure)

    def _adaptive(self, group: dict[str, Any]) -> bool:
        """Whether the group's next step is normalized: torch's condition, rho_t > 5."""
        beta2, step = group["betas"][1], _next_step(self, group)
        limit = 2 / (1 - beta2) - 1
        return bool(limit - 2 * step * beta2**step / (1 - beta2**step) > 5)


class MuAdafactor(Adafactor):
    """Adafactor whose cap on the rate, 1/sqrt(step), is scaled as the rate is.

    Torch caps all rates at the same value: from step 1/rate**2 on, most rates would fall, and the
    small rates of wide layers would not. Factors above 1, in models narrower than the base, stay
    capped.
    """

    def step(self, closure: Any = None) -> Any:
        factors = []
        for group in self.param_groups:
            rate = float(group["lr"]) / group["lr_mult"]
            capped = min(rate, _next_step(self, group) ** -0.5)
            factors.append(capped / rate if rate else 1.0)
        with _rates_times(self, factors):
            return super().step(closure)  # type: ignore[no-untyped-call]


def _next_step(optimizer: Optimizer, group: dict[str, Any]) -> float:
    states = (optimizer.state[p] for p in group["params"])
    return 1 + max((float(state["step"]) for state in states if state), default=0.0)


@contextmanager
def _rates_times(optimizer: Optimizer, factors: Sequence[float]) -> Iterator[None]:
    """Multiply the groups' rates by factors for one step; rate * weight decay stays the same."""
    keys = ("lr", "lr_mult", "weight_decay")
    before = [{key: group[key] for key in keys} for group in optimizer.param_groups]
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        group["lr"] = group["lr"] * factor
        group["lr_mult"] *= factor  # the guard may look once more within the step
        group["weight_decay"] /= factor
    try:
        yield
    finally:
        for group, old in zip(optimizer.param_groups, before, strict=True):
            group.update(old)
