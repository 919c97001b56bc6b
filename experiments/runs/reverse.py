"""Reverse µTransfer: a wide run is replayed in a narrow model, to see what makes it unstable.

`RunConfig.narrowed` says which narrow run replays which wide one. What is recorded here is read
and drawn by `experiments.analysis.instability`.

Source: Tensor Programs V, Appendix I.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor, nn

from experiments.analysis.instability import JUMP
from experiments.declare.config import RunConfig
from experiments.declare.references import load
from experiments.runs.memory import refuse_too_large
from experiments.train import engine, process
from mupkit.coord_check import capture
from mupkit.coord_check.record import MASKED, rms

LAST = 10  # steps before a jump and before a divergence, all of which are recorded


@dataclass(frozen=True)
class Replay:
    """What the narrow run showed.

    Attributes:
        result: of its training.
        trace: columns step, tensor (name of an activation), size (its root mean square, without
            what attention masks) and loss (nats). A step that was not recorded has one row,
            without tensor and size. The last steps before a jump of the loss or a divergence are
            always recorded.
    """

    result: engine.RunResult
    trace: pd.DataFrame


def replay(
    config: RunConfig, every: int, on_step: Callable[[int, float], None] | None = None
) -> Replay:
    """Train a narrow run and record its activations, each time on the batch of the step.

    Args:
        config: of the narrow run (`RunConfig.narrowed`).
        every: steps from one recording to the next.
        on_step: called with the number of each step and its loss.
    """
    refuse_too_large(config)
    machine = process.set_up()
    task = load(config.task, config.family)(config)
    return record(config, task, machine, every, on_step)


def record(
    config: RunConfig,
    task: engine.Task,
    machine: process.Machine,
    every: int,
    on_step: Callable[[int, float], None] | None = None,
) -> Replay:
    """`replay` of a given task on a given machine."""
    recorder = Recorder(task, config, machine, every)

    def see(step: int, loss: float) -> None:
        recorder.see_loss(loss)
        if on_step is not None:
            on_step(step, loss)

    result = engine.train(config, recorder, machine, see)
    if result.diverged_step is not None:
        recorder.measure_last()
    return Replay(result, _trace(result.losses, recorder.sizes))


class Recorder:
    """A task that measures activations while it is trained.

    It looks at copies of the model, so that the training has the same bits as without it.

    Args:
        task: what is trained.
        config, machine: as in the training.
        every: steps from one recording to the next.

    Attributes:
        sizes: root mean square by step and by name of the activation.
    """

    def __init__(self, task: engine.Task, config: RunConfig, machine: process.Machine, every: int):
        self.task, self.every = task, every
        self.fingerprint = task.fingerprint
        self.config, self.machine = config, machine
        self.sizes: dict[int, dict[str, float]] = {}
        self.last: deque[tuple[int, nn.Module, Any]] = deque(maxlen=LAST)
        self.step, self.lowest, self.jumped = 0, math.inf, False

    def build(self) -> nn.Module:
        return self.task.build()

    def batches(self, device: str) -> Iterator[Any]:
        return self.task.batches(device)

    def evaluate(self, model: nn.Module) -> Mapping[str, engine.Metric]:
        return self.task.evaluate(model)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.last.append((self.step, copy.deepcopy(model), batch))
        if self.step % self.every == 0:
            self._measure(*self.last[-1])
        self.step += 1
        return self.task.loss(model, batch)

    def see_loss(self, loss: float) -> None:
        """Record the last steps when the loss jumps for the first time (`instability.jump`)."""
        if not self.jumped and not loss <= self.lowest + JUMP:
            self.jumped = True
            self.measure_last()
        self.lowest = min(self.lowest, loss)

    def measure_last(self) -> None:
        """Record those of the last steps that are not recorded yet."""
        for step, model, batch in self.last:
            if step not in self.sizes:
                self._measure(step, model, batch)

    def _measure(self, step: int, model: nn.Module, batch: Any) -> None:
        with engine.precision(self.config, self.machine):
            found = capture(model, lambda copied: self.task.loss(copied, batch))
        self.sizes[step] = {name: rms(x, x < MASKED) for name, x in found.items()}


def _trace(losses: tuple[float, ...], sizes: dict[int, dict[str, float]]) -> pd.DataFrame:
    rows = [
        {"step": step, "tensor": tensor, "size": size, "loss": loss}
        for step, loss in enumerate(losses)
        for tensor, size in sizes.get(step, {None: math.nan}).items()
    ]
    return pd.DataFrame(rows, columns=["step", "tensor", "size", "loss"])
