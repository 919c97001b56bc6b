"""The learning-rate schedule `given_rates`: a factor of the rate for each update, from a file."""

# No `from __future__ import annotations`: fairseq reads the types of the fields below.
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import List  # noqa: UP035 (fairseq knows no other)

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II


@dataclass
class GivenRatesConfig(FairseqDataclass):
    """The option of the schedule."""

    factors: str = field(default="", metadata={"help": "JSON: a factor of --lr for each update"})
    lr: List[float] = II("optimization.lr")  # noqa: UP006, RUF009


@register_lr_scheduler("given_rates", dataclass=GivenRatesConfig)
class GivenRates(FairseqLRScheduler):
    """`--lr` times the update's factor."""

    def __init__(self, cfg: GivenRatesConfig, optimizer: FairseqOptimizer):
        super().__init__(cfg, optimizer)
        self._factors = json.loads(Path(cfg.factors).read_text(encoding="utf-8"))
        self.step_update(0)

    def step(self, epoch: int, val_loss: float | None = None) -> float:
        """Nothing changes at the end of an epoch."""
        super().step(epoch, val_loss)
        return float(self.optimizer.get_lr())

    def step_update(self, num_updates: int) -> float:
        """Set the rate of the update after so many; after the last one it stays."""
        last = len(self._factors) - 1
        self.optimizer.set_lr(self.cfg.lr[0] * self._factors[min(num_updates, last)])
        return float(self.optimizer.get_lr())
