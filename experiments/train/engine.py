"""The one training loop of all families."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

import mupkit
from experiments.declare.config import RunConfig
from experiments.train.checkpoint import Checkpoint, Resumed
from experiments.train.process import Machine
from experiments.train.schedules import lr_factor

DIVERGENCE_FACTOR = 10.0
FINAL_FRACTION = 0.1
Metric = float | str


class Task(Protocol):
    """What a family gives the training loop.

    A run may be resumed, and its beginning may stand for a shorter run. So a task draws from
    torch's generators alone, keeps no state outside its batches and its model, and never looks at
    the number of steps.
    """

    fingerprint: str
    """Identifies the training data."""

    def build(self) -> nn.Module:
        """A parametrized and initialized model, drawn from torch's global generator."""

    def batches(self, device: str) -> Iterator[Any]:
        """Training batches in an order that depends on the seed alone.

        A resumed run skips those that it has seen, so drawing a batch should be cheap.
        """

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean training loss of a batch, in nats."""

    def evaluate(self, model: nn.Module) -> Mapping[str, Metric]:
        """Metrics of the trained model, in evaluation mode, by name; there may be none."""


@runtime_checkable
class Validated(Protocol):
    """What a task has whose model is measured on held-out data at the end of each epoch."""

    epoch: int
    """Steps."""

    def validate(self, model: nn.Module) -> float:
        """The mean loss on the held-out data, in nats, of a model in evaluation mode."""


@runtime_checkable
class TrainsItself(Protocol):
    """A task whose training is another program's."""

    def train(self, on_step: Callable[[int, float], None] | None) -> RunResult:
        """Train the task's configuration from scratch; steps may be told after they are done."""


@dataclass(frozen=True)
class RunResult:
    """The result of a training.

    Attributes:
        losses: training loss of each step that was done, in nats, before its update.
        diverged_step: the step at which the run diverged, or None.
        final_loss: mean of the last tenth of the losses; NaN if the run diverged.
        seconds: of wall time, including those before an interruption.
        metrics: of the task at the end; none of a run that diverged.
        valid_losses: loss on held-out data by the step after whose update it was measured, in
            nats; only where it is finite.
    """

    losses: tuple[float, ...]
    diverged_step: int | None
    final_loss: float
    seconds: float
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    valid_losses: dict[int, float] = field(default_factory=dict)


def train(
    config: RunConfig,
    task: Task,
    machine: Machine,
    on_step: Callable[[int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> RunResult:
    """Train one configuration, from scratch or from its checkpoint: the bits are the same.

    A run that diverges (`diverged`, `spoiled`) ends there, as a result and not as an error.
    """
    if isinstance(task, TrainsItself):
        return task.train(on_step)
    start = time.perf_counter()
    torch.manual_seed(config.seed)
    model = task.build().to(machine.device)
    optimizer = make_optimizer(model, config)
    rates = [group["lr"] for group in optimizer.param_groups]
    batches = task.batches(machine.device)
    losses: list[float] = []
    valid_losses: dict[int, float] = {}
    resumed = checkpoint.restore(model, optimizer, config.steps) if checkpoint is not None else None
    if resumed is not None:
        losses, start = _go_on(resumed, batches, on_step), start - resumed.seconds
        valid_losses = resumed.valid_losses
    diverged_step = None
    for step in range(len(losses), config.steps):
        factor = lr_factor(config.schedule, step, config.steps, config.warmup)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        with _precision(config, machine):
            loss = task.loss(model, next(batches))
        losses.append(loss.item())
        if on_step is not None:
            on_step(step, losses[-1])
        if diverged(losses):
            diverged_step = step
            break
        _update(model, optimizer, loss, config.grad_clip)
        if isinstance(task, Validated) and (step + 1) % task.epoch == 0:
            with _evaluating(model, config, machine):
                valid_loss = task.validate(model)
            if math.isfinite(valid_loss):
                valid_losses[step] = valid_loss
        if step + 1 == config.steps:
            diverged_step = step if spoiled(model) else None
        elif checkpoint is not None:
            spent = time.perf_counter() - start
            checkpoint.keep(model, optimizer, losses, spent, valid_losses)
    final: float = math.nan
    metrics: Mapping[str, Metric] = {}
    if diverged_step is None:
        final = final_loss(losses)
        with _evaluating(model, config, machine):
            metrics = task.evaluate(model)
    seconds = time.perf_counter() - start
    return RunResult(tuple(losses), diverged_step, final, seconds, metrics, valid_losses)


def _precision(config: RunConfig, machine: Machine) -> AbstractContextManager[Any]:
    """Autocast where the configuration asks for it; parameters and updates stay float32."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(machine.device, torch.bfloat16)


@contextmanager
def _evaluating(model: nn.Module, config: RunConfig, machine: Machine) -> Iterator[None]:
    """The model in evaluation mode, without gradients; it is in training mode afterwards."""
    model.eval()
    with torch.no_grad(), _precision(config, machine):
        yield
    model.train()


def _update(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, grad_clip: float | None
) -> None:
    for group in optimizer.param_groups:  # as `zero_grad` does, in less time
        for p in group["params"]:
            p.grad = None
    loss.backward()  # type: ignore[no-untyped-call]
    if grad_clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()


def _go_on(
    resumed: Resumed, batches: Iterator[Any], on_step: Callable[[int, float], None] | None
) -> list[float]:
    """Bring data, generators and `on_step` to where the run was; return its losses."""
    for _ in islice(batches, len(resumed.losses)):
        pass
    resumed.restore_generators()
    for step, loss in enumerate(resumed.losses):
        if on_step is not None:
            on_step(step, loss)
    return resumed.losses


def diverged(losses: Sequence[float]) -> bool:
    """Whether a run has diverged at its newest step.

    It has if the loss is not finite or exceeds ten times the first loss. An update that makes
    parameters infinite or NaN shows in the next loss; no loss follows the last update, so `spoiled`
    looks at the parameters themselves.
    """
    return not math.isfinite(losses[-1]) or losses[-1] > DIVERGENCE_FACTOR * losses[0]


def spoiled(model: nn.Module) -> bool:
    """Whether a gradient or a parameter of the model holds infinity or NaN."""
    held = [t for p in model.parameters() for t in (p.detach(), p.grad) if t is not None]
    return not all(bool(t.isfinite().all()) for t in held)


def final_loss(losses: Sequence[float]) -> float:
    """The mean of the last tenth of the losses of a run that did all its steps."""
    last = losses[-max(1, round(FINAL_FRACTION * len(losses))) :]
    return math.fsum(last) / len(last)


def beginning(losses: Sequence[float], diverged_step: int | None, steps: int) -> RunResult | None:
    """The result of a run of `steps` steps, read from a longer run that is equal otherwise.

    Args:
        losses, diverged_step: of the longer run, which measured nothing beside them; its schedule
            is one of `schedules.OPEN_ENDED`.
        steps: of the shorter run.

    Returns:
        None if the longer run diverged later: the shorter one's parameters may be spoiled already.
    """
    if diverged_step is None:
        return RunResult(tuple(losses[:steps]), None, final_loss(losses[:steps]), 0.0)
    if diverged_step < steps:
        return RunResult(tuple(losses), diverged_step, math.nan, 0.0)
    return None


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """The optimizer of a configuration with the rates of the model's parametrization.

    In SP every dimension of the model is finite, so the same call gives the plain optimizer. A
    model may have factors of its own for Adam's rates, by name (`adam_factor`).
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
    make = mupkit.MuAdamW if config.optimizer == "adamw" else mupkit.MuAdam
    return make(
        _by_factor(model, lr),
        lr=lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _by_factor(model: nn.Module, lr: float) -> nn.Module | list[dict[str, Any]]:
    """The parameters, one group per factor of the model's own; the model itself if it has none."""
    factor: Callable[[str], float] = getattr(model, "adam_factor", lambda name: 1.0)
    groups: dict[float, list[tuple[str, nn.Parameter]]] = {}
    for name, p in model.named_parameters():
        groups.setdefault(factor(name), []).append((name, p))
    if set(groups) == {1.0}:
        return model
    return [{"params": members, "lr": lr * f} for f, members in groups.items()]
