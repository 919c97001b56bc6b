"""The optimizer `mup_adam`: fairseq's Adam with one rate per parameter, by the model's rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import Adam, FairseqAdam, FairseqAdamConfig
from torch import Tensor, nn

import mupkit


@register_optimizer("mup_adam", dataclass=FairseqAdamConfig)
class MupAdam(FairseqAdam):
    """`mupkit.MuAdam` around fairseq's Adam; the same as `adam` in SP and at base width.

    fairseq hands over a flat list of parameters. Their base shapes are on them, since
    `mup_transformer` parametrizes the model; other architectures are refused.
    """

    def __init__(self, cfg: FairseqAdamConfig, params: Iterable[nn.Parameter]):
        FairseqOptimizer.__init__(self, cfg)
        self._optimizer = mupkit.MuAdam(params, impl=Adam, **self.optimizer_config)

    def get_lr(self) -> float:
        """The rate at base width."""
        group = self.param_groups[0]
        return float(group["lr"] / group["lr_mult"])

    def set_lr(self, lr: float) -> None:
        """Set the rate at base width; fairseq would give all groups the same one."""
        for group in self.param_groups:
            group["lr"] = lr * group["lr_mult"]

    def clip_grad_norm(
        self, max_norm: float, aggregate_norm_fn: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Clip as fairseq does; a gradient that is not finite ends the training, without an error.

        fairseq would go through the batch again to find the module, and fail.
        """
        norm: Tensor = super().clip_grad_norm(max_norm, aggregate_norm_fn)
        if not math.isfinite(norm):
            raise SystemExit
        return norm
