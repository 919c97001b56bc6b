"""The one training loop of all families."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

import mupkit
from experiments.declare.config import RunConfig
from experiments.errors import UserError
from experiments.train.checkpoint import Checkpoint, Resumed
from experiments.train.process import Machine
from experiments.train.schedules import lr_factor
from mupkit.schedule import guard

DIVERGENCE_FACTOR = 10.0
FINAL_FRACTION = 0.1
Metric = float | str
Measured = TypeVar("Measured")


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
class Stackable(Protocol):
    """What a task has whose runs can be trained together (`experiments.train.stacked`).

    Its loss has two parts: `inputs`, which depends on the batch alone, and so is equal for all runs
    of a seed; and `objective`, of tensors alone, which `torch.func.vmap` takes.
    """

    def inputs(self, batch: Any, device: torch.device) -> tuple[Tensor, ...]:
        """The tensors of a batch, on the device, first what the model reads."""

    def objective(self, model: Callable[[Tensor], Tensor], *inputs: Tensor) -> Tensor:
        """The mean loss of `inputs`, in nats."""


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


class Held:
    """A model in training, held and updated by this process alone.

    `distributed.Shared` is one that several processes hold.

    Attributes:
        model: newly built, on the machine's device.
        optimizer: of its parameters.
    """

    def __init__(self, config: RunConfig, task: Task, machine: Machine):
        self.config, self.task, self.machine = config, task, machine
        self.model = task.build().to(machine.device)
        self.optimizer = make_optimizer(self.model, config)
        self.scaler = loss_scaler(config, machine)

    def restore(self, checkpoint: Checkpoint) -> Resumed | None:
        """Go on from a checkpoint, if it is there and whole."""
        resumed = checkpoint.restore(self.model, self.optimizer, self.config.steps)
        if resumed is not None and resumed.scaler:
            self.scaler.load_state_dict(resumed.scaler)
        return resumed

    def loss(self, batch: Any, step: int) -> float:
        """The mean loss of a batch; `update` goes by its gradient."""
        with precision(self.config, self.machine):
            self._loss = self.task.loss(self.model, batch)
        return self._loss.item()

    def update(self) -> None:
        """Change the parameters by the gradient of the last loss."""
        update(self.model, self.optimizer, self._loss, self.config.grad_clip, self.scaler)

    def measure(self, function: Callable[[nn.Module], Measured]) -> Measured:
        """What a function finds of the model in evaluation mode, without gradients."""
        with evaluating(self.model, self.config, self.machine):
            return function(self.model)

    def spoiled(self) -> bool:
        """Whether the last update spoiled the model.

        With float16 a gradient that overflows is no update and spoils nothing, unless it overflows
        without a scale, too.
        """
        overflows = self.scaler.is_enabled() and self.scaler.get_scale() >= 1
        return spoiled(self.model, gradients=not overflows)

    def keep(
        self,
        checkpoint: Checkpoint,
        losses: Sequence[float],
        seconds: float,
        valid_losses: Mapping[int, float],
    ) -> None:
        """Write the state after a step, if that is due."""
        scaler = self.scaler.state_dict()
        checkpoint.keep(self.model, self.optimizer, losses, seconds, valid_losses, scaler)


def train(
    config: RunConfig,
    task: Task,
    machine: Machine,
    on_step: Callable[[int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
    hold: Callable[[RunConfig, Task, Machine], Held] = Held,
) -> RunResult:
    """Train one configuration, from scratch or from its checkpoint: the bits are the same.

    A run that diverges (`diverged`, `spoiled`) ends there, as a result and not as an error.

    Args:
        config, task, machine: what is trained, and where.
        on_step: called with the number of each step and its loss.
        checkpoint: of the run.
        hold: what builds the model and updates it.

    Raises:
        UserError: if the task trains itself, which leaves nothing to `hold`.
    """
    if isinstance(task, TrainsItself):
        if hold is not Held:
            raise UserError(
                f"{config.family}: another program trains this run (as with backend=fairseq) and "
                "divides nothing; leave out --parallel, --accumulate and --recompute"
            )
        return task.train(on_step)
    start = time.perf_counter()
    choose_products(config, machine)
    torch.manual_seed(config.seed)
    held = hold(config, task, machine)
    rates = [group["lr"] for group in held.optimizer.param_groups]
    batches = task.batches(machine.device)
    losses: list[float] = []
    valid_losses: dict[int, float] = {}
    resumed = held.restore(checkpoint) if checkpoint is not None else None
    if resumed is not None:
        losses, start = _go_on(resumed, batches, on_step), start - resumed.seconds
        valid_losses = resumed.valid_losses
    diverged_step = None
    for step in range(len(losses), config.steps):
        factor = lr_factor(config.schedule, step, config.steps, config.warmup)
        for group, rate in zip(held.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        losses.append(held.loss(next(batches), step))
        if on_step is not None:
            on_step(step, losses[-1])
        if diverged(losses):
            diverged_step = step
            break
        held.update()
        if isinstance(task, Validated) and (step + 1) % task.epoch == 0:
            valid_loss = held.measure(task.validate)
            if math.isfinite(valid_loss):
                valid_losses[step] = valid_loss
        if step + 1 == config.steps:
            diverged_step = step if held.spoiled() else None
        elif checkpoint is not None:
            held.keep(checkpoint, losses, time.perf_counter() - start, valid_losses)
    final: float = math.nan
    metrics: Mapping[str, Metric] = {}
    if diverged_step is None:
        final = final_loss(losses)
        metrics = held.measure(task.evaluate)
    seconds = time.perf_counter() - start
    return RunResult(tuple(losses), diverged_step, final, seconds, metrics, valid_losses)


def choose_products(config: RunConfig, machine: Machine) -> None:
    """Let a GPU round products of float32 to TF32 if and only if the configuration says so.

    Raises:
        UserError: it does, and there is no GPU.
    """
    tf32 = config.precision == "tf32"
    if tf32 and machine.device != "cuda":
        raise UserError(
            f"{config.family}: precision: tf32 is a GPU's; give float32 or bfloat16 on this machine"
        )
    if machine.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32  # which torch allows unless told otherwise


def precision(config: RunConfig, machine: Machine) -> AbstractContextManager[Any]:
    """Autocast where the configuration asks for it; parameters and updates stay float32."""
    if config.precision in ("float32", "tf32"):
        return nullcontext()
    return torch.autocast(machine.device, getattr(torch, config.precision))


def loss_scaler(config: RunConfig, machine: Machine) -> GradScaler:
    """What scales the loss in float16, so that small gradients are not rounded to zero."""
    return GradScaler(machine.device, enabled=config.precision == "float16")


@contextmanager
def evaluating(model: nn.Module, config: RunConfig, machine: Machine) -> Iterator[None]:
    """The model in evaluation mode, without gradients; it is in training mode afterwards."""
    model.eval()
    with torch.no_grad(), precision(config, machine):
        yield
    model.train()


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    grad_clip: float | None,
    scaler: GradScaler,
) -> None:
    """Change the parameters by the gradient of a loss."""
    for group in optimizer.param_groups:  # as `zero_grad` does, in less time
        for p in group["params"]:
            p.grad = None
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    apply_gradients(model, optimizer, grad_clip, scaler)


def apply_gradients(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    grad_clip: float | None,
    scaler: GradScaler,
) -> None:
    """Change the parameters by their gradients, whose norm over all of them is bounded."""
    scaler.unscale_(optimizer)
    if grad_clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    if _is_plain_sgd(optimizer) and not scaler.is_enabled():
        _plain_sgd(optimizer)
    else:
        scaler.step(optimizer)
    scaler.update()


def _is_plain_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step is that of torch's fused SGD on a CPU, without momentum."""
    return isinstance(optimizer, torch.optim.SGD) and all(
        group["fused"] and group["momentum"] == 0 and group["params"][0].device.type == "cpu"
        for group in optimizer.param_groups
    )


@torch.no_grad()
def _plain_sgd(optimizer: torch.optim.Optimizer) -> None:
    """The operator that such an optimizer's `step` calls, after the guard of its rates.

    There is no state to keep, and what else `step` does takes a tenth of a narrow MLP's step.
    """
    guard(optimizer)
    for group in optimizer.param_groups:
        if params := [p for p in group["params"] if p.grad is not None]:
            torch._fused_sgd_(
                params,
                [p.grad for p in params],
                [],
                weight_decay=group["weight_decay"],
                momentum=0.0,
                lr=group["lr"],
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
            )


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


def spoiled(model: nn.Module, gradients: bool = True) -> bool:
    """Whether a parameter of the model, or one of its `gradients`, holds infinity or NaN."""
    held = [p.detach() for p in model.parameters()]
    held += [p.grad for p in model.parameters() if gradients and p.grad is not None]
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


def make_optimizer(
    model: nn.Module, config: RunConfig, fused: bool = True
) -> torch.optim.Optimizer:
    """The optimizer of a configuration with the rates of the model's parametrization.

    In SP every dimension of the model is finite, so the same call gives the plain optimizer. A
    model may have factors of its own for Adam's rates, by name (`adam_factor`).

    Args:
        model, config: what is trained.
        fused: use torch's fused kernels where they are right.
    """
    lr = 2.0**config.log2lr
    # A step that is left out would spoil the momentum of torch's fused SGD.
    fused = fused and config.precision != "float16"
    if config.optimizer == "sgd":
        return mupkit.MuSGD(
            model,
            lr=lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    make = mupkit.MuAdamW if config.optimizer == "adamw" else mupkit.MuAdam
    return make(
        _by_factor(model, lr),
        lr=lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused,
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
