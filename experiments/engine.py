"""The one training loop of all families."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import mupkit
from experiments.process import Machine
from experiments.schedules import lr_factor
from experiments.spec import RunConfig

DIVERGENCE_FACTOR = 10.0
FINAL_FRACTION = 0.1


class Task(Protocol):
    """What a family gives the training loop."""

    fingerprint: str
    """Identifies the training data."""

    def build(self) -> nn.Module:
        """A parametrized and initialized model, drawn from torch's global generator."""

    def batches(self, device: str) -> Iterator[Any]:
        """Training batches in an order that depends on the seed alone."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean training loss of a batch, in nats."""


@dataclass(frozen=True)
class RunResult:
    """What a training gave.

    Attributes:
        losses: training loss of each step that was done, in nats, before its update.
        diverged_step: the step at which the run diverged, or None.
        final_loss: mean of the last tenth of the losses; NaN if the run diverged.
        seconds: of wall time.
    """

    losses: tuple[float, ...]
    diverged_step: int | None
    final_loss: float
    seconds: float


def train(
    config: RunConfig,
    task: Task,
    machine: Machine,
    on_step: Callable[[int, float], None] | None = None,
) -> RunResult:
    """Train one configuration from scratch.

    A run has diverged when its loss is not finite or exceeds ten times the loss at
    initialization. It ends there, as a result and not as an error.
    """
    start = time.perf_counter()
    torch.manual_seed(config.seed)
    model = task.build().to(machine.device)
    optimizer = make_optimizer(model, config)
    rates = [group["lr"] for group in optimizer.param_groups]
    batches = task.batches(machine.device)
    losses: list[float] = []
    diverged_step = None
    for step in range(config.steps):
        factor = lr_factor(config.schedule, step, config.steps, config.warmup)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        loss = task.loss(model, next(batches))
        losses.append(loss.item())
        if on_step is not None:
            on_step(step, losses[-1])
        if not losses[-1] <= DIVERGENCE_FACTOR * losses[0]:  # true for NaN too
            diverged_step = step
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
    last = losses[-max(1, round(FINAL_FRACTION * config.steps)) :]
    final_loss = math.nan if diverged_step is not None else math.fsum(last) / len(last)
    return RunResult(tuple(losses), diverged_step, final_loss, time.perf_counter() - start)


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """The optimizer of a configuration with the rates of the model's parametrization.

    In SP every dimension of the model is finite, so the same call gives the plain optimizer.
    """
    lr = 2.0**config.log2lr
    if config.optimizer == "sgd":
        return mupkit.MuSGD(
            model,
            lr=lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return mupkit.MuAdam(
        model,
        lr=lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
