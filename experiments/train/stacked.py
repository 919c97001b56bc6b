"""Runs of one shape trained together: parameters stacked, one batched step for all of them.

A small model leaves a GPU idle. The members of a stack have the same shapes and the same number of
steps, and differ in rates, seeds, multipliers and parametrization. Each is a model and an optimizer
of its own, as if it were trained alone; its parameters and buffers are slices of stacked ones, with
which `torch.func.vmap` computes the losses of all members at once.

What a member's numbers depend on is the same as in `engine.train`. Products are batched ones, so
that their rounding may differ; docs/performance.md says by how much.

Axes: N members.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from experiments.declare.config import RunConfig
from experiments.errors import Interrupted
from experiments.train import engine, updates
from experiments.train.checkpoint import Checkpoint
from experiments.train.engine import RunResult, Task
from experiments.train.process import Machine
from experiments.train.schedules import lr_factor
from mupkit.base_shapes import REGISTRY, RESCALED
from mupkit.parametrization import INITS, LAYOUT

FETCHED = 50
"""Steps after which the losses are read; a member that diverged is trained on until then."""
LARGEST = 256  # members of a stack whose size is chosen
SHARE = 0.5  # of the GPU's memory that the stacks of all jobs may take
COPIES = 3  # of its weights that a member has beside steps: before them, and gradients around them
RECORDED = {"cuda"}  # devices on which a step is recorded
WARM_UP = 3  # steps before a CUDA graph is captured, as torch asks for
NOTES = {REGISTRY, RESCALED, INITS, LAYOUT}
"""What the core notes on modules, and no forward pass reads."""
_MODULE = set(vars(nn.Module()))
Place = tuple[str, str, str | None]
"""Of a number: the module's name, the attribute, and the field if that is a dataclass."""


@dataclass(eq=False)
class Member:
    """One run of a stack.

    Attributes:
        config, task: of the run.
        checkpoint: of the run; None for none.
        model, optimizer: its own, made from its seed; the optimizer's rates are those before the
            schedule.
        losses: of the steps that were fetched.
        spent: seconds before an interruption.
    """

    config: RunConfig
    task: Task
    checkpoint: Checkpoint | None
    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    spent: float = 0.0

    def free(self) -> None:
        """Let go of tensors that are slices of a whole stack's."""
        del self.model, self.optimizer


def make_member(
    config: RunConfig, task: Task, machine: Machine, checkpoint: Checkpoint | None = None
) -> Member:
    """A member as `engine.train` begins it: from its seed, or from its checkpoint."""
    engine.choose_products(config, machine)
    torch.manual_seed(config.seed)
    model = task.build().to(machine.device)
    optimizer = engine.make_optimizer(model, config)
    rates = [group["lr"] for group in optimizer.param_groups]
    member = Member(config, task, checkpoint, model, optimizer)
    resumed = checkpoint.restore(model, optimizer, config.steps) if checkpoint else None
    if resumed is not None:
        member.losses, member.spent = resumed.losses, resumed.seconds
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate  # a checkpoint may have those of a step
    return member


def structure(member: Member) -> tuple[Any, ...]:
    """What has to be equal for members to be stacked: all of a model but numbers and its state."""
    return (
        len(member.losses),
        *(
            (
                name,
                type(module),
                tuple((n, p.shape, p.dtype) for n, p in module.named_parameters(recurse=False)),
                tuple((n, b.shape, b.dtype) for n, b in module.named_buffers(recurse=False)),
                len(module._forward_pre_hooks),
                tuple(repr(value) for _, value in _attributes(module, numbers=False)),
            )
            for name, module in member.model.named_modules()
        ),
    )


def largest(members: Sequence[Member], machine: Machine, jobs: int = 1) -> int:
    """How many such members a GPU holds at once, measured by steps of these.

    Args:
        members: as of `taken`.
        machine: where they are.
        jobs: that share the GPU.
    """

    def peak(steps: Callable[[], None]) -> int:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        steps()
        return torch.cuda.max_memory_allocated() - before

    each, measuring = taken(members, machine, peak)
    free, whole = torch.cuda.mem_get_info()
    return fitting(each, measuring, free, whole, jobs)


def fitting(each: float, measuring: float, free: int, whole: int, jobs: int) -> int:
    """Members in the memory of a GPU that jobs share.

    A job's share is of the whole memory, so that jobs that start at once do not count on the same
    bytes, and no more than the same share of what is free.

    Args:
        each, measuring: as of `taken`.
        free, whole: bytes of the GPU's memory.
        jobs: that share it.
    """
    room = SHARE * min(free, whole / jobs)
    return max(1, min(LARGEST, int((room - measuring) / each)))


def taken(
    members: Sequence[Member], machine: Machine, peak: Callable[[Callable[[], None]], int]
) -> tuple[float, float]:
    """The memory that a stack takes for each member, and once for measuring, beside shared data.

    What is measured at a run's end is measured of one member at a time, while the others wait.

    Args:
        members: a small stack, each of a seed of its own, since batches that all share take less;
            of no use afterwards.
        machine: where they are.
        peak: of the memory that is allocated while a function runs, in bytes.
    """
    first = members[0]

    def steps() -> None:
        stack = Stack(members, machine)
        batches = {m.config.seed: m.task.batches(machine.device) for m in members}
        for _ in range(2):
            stack.step(stack._inputs(batches), 0.0)

    def measure() -> None:
        with engine.evaluating(first.model, first.config, machine):
            first.task.evaluate(first.model)

    weights = sum(p.numel() * p.element_size() for p in first.model.parameters())
    next(first.task.batches(machine.device))  # the data set, which is not a member's
    return peak(steps) / len(members) + COPIES * weights, peak(measure)


def ran_out(error: BaseException | None) -> bool:
    """Whether an error is that a GPU's memory is full, or came of that."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__context__
    return error is not None


def train_stacked(
    members: Sequence[Member],
    machine: Machine,
    done: Callable[[Member, RunResult], None],
    on_steps: Callable[[int, int], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Train members of one `structure`, each as if it were alone.

    A member that diverges ends there. `engine.Stackable` says what their tasks have.

    Args:
        members: at least two.
        machine: where they are.
        done: called with each member and its result, as soon as it is known. The seconds of a
            member are its share of the stack's.
        on_steps: called with the number of steps done and of members left, every `FETCHED` steps.
        stopped: whether to stop, asked every `FETCHED` steps.

    Raises:
        Interrupted: it was told to stop; the members that are left have checkpoints.
        torch.OutOfMemoryError: the stack is too large for the GPU.
    """
    config, first = members[0].config, len(members[0].losses)
    batches = {m.config.seed: m.task.batches(machine.device) for m in members}
    for iterator in batches.values():
        for _ in islice(iterator, first):
            pass
    left, step = sorted(members, key=lambda m: updates.kind(m.optimizer)), first
    while left and step < config.steps:
        stack = Stack(left, machine)
        diverged: list[Member] = []
        while not diverged and step < config.steps:
            start = time.perf_counter()
            until = min(step + FETCHED, config.steps)
            fetched = stack.advance(batches, step, until)
            for member, losses in zip(left, fetched, strict=True):
                for loss in losses:
                    member.losses.append(loss)
                    if engine.diverged(member.losses):
                        diverged.append(member)
                        break
            step = until
            share = (time.perf_counter() - start) / len(left)
            for member in left:
                member.spent += share
            if step < config.steps:
                stop = stopped()
                stack.keep([m for m in left if m not in diverged], stop)
                if stop:
                    raise Interrupted
            if on_steps is not None:
                on_steps(step, len(left) - len(diverged))
        stack.release()
        del stack
        for member in diverged:
            done(member, _result(member, machine, len(member.losses) - 1))
            member.free()
        left = [m for m in left if m not in diverged]
    for member in left:
        spoiled = engine.spoiled(member.model)
        done(member, _result(member, machine, config.steps - 1 if spoiled else None))


def _result(member: Member, machine: Machine, diverged_step: int | None) -> RunResult:
    metrics, final, start = {}, math.nan, time.perf_counter()
    if diverged_step is None:
        final = engine.final_loss(member.losses)
        with engine.evaluating(member.model, member.config, machine):
            metrics = dict(member.task.evaluate(member.model))
    seconds = member.spent + time.perf_counter() - start
    return RunResult(tuple(member.losses), diverged_step, final, seconds, metrics)


class Stack:
    """Members whose parameters and buffers are slices of stacked tensors (N, ...)."""

    def __init__(self, members: Sequence[Member], machine: Machine):
        self.members, self.machine = members, machine
        self.config, self.task = members[0].config, members[0].task
        self.skeleton = members[0].model
        models = [m.model for m in members]
        # Gradients of batched products come by column, and are copied where their weights do not.
        linear = {
            f"{name}.weight" for name, m in models[0].named_modules() if isinstance(m, nn.Linear)
        }
        self.params = {
            name: updates.stacked(
                [_parameters(m)[name] for m in models], name in linear
            ).requires_grad_()
            for name in _parameters(models[0])
        }
        self.buffers = {
            name: updates.stacked([dict(m.named_buffers())[name] for m in models])
            for name, _ in models[0].named_buffers()
        }
        self.numbers = _differing(models, machine.device)
        seeds = sorted({m.config.seed for m in members})
        self.seeds = seeds
        places = torch.tensor([seeds.index(m.config.seed) for m in members])
        self.seed_of = places.to(machine.device)
        self.updates = updates.Updates(
            [m.optimizer for m in members],
            [[*_parameters(m).values()] for m in models],
            [*self.params.values()],
            [m.config.grad_clip for m in members],
            len(members[0].losses),
        )
        self.graph: _Graph | None = None

    def advance(
        self, batches: dict[int, Iterator[Any]], step: int, until: int
    ) -> list[list[float]]:
        """Do the steps from `step` to before `until`; the losses of each member."""
        history = []
        for now in range(step, until):
            inputs = self._inputs(batches)
            config = self.config
            factor = lr_factor(config.schedule, now, config.steps, config.warmup)
            if self.machine.device not in RECORDED:
                history.append(self.step(inputs, factor))
                continue
            if self.graph is None:
                self.graph = _Graph(self, inputs)
            history.append(self.graph.step(inputs, factor))
        columns: list[list[float]] = torch.stack(history).T.double().tolist()
        return columns

    def keep(self, members: Sequence[Member], now: bool) -> None:
        """Write the members' checkpoints, now or where they are due."""
        for member in members:
            if member.checkpoint is not None:
                if now:
                    member.checkpoint.hurry()
                member.checkpoint.keep(
                    member.model, member.optimizer, member.losses, member.spent, {}
                )

    def release(self) -> None:
        """Give the members their last gradients, and free the graph."""
        for name, whole in self.params.items():
            assert whole.grad is not None
            grads = whole.grad if self.graph is None else whole.grad.clone()
            for member, grad in zip(self.members, grads.unbind(), strict=True):
                _parameters(member.model)[name].grad = grad
            whole.grad = None
        self.graph = None

    def _inputs(self, batches: dict[int, Iterator[Any]]) -> tuple[Tensor, ...]:
        """The inputs of each seed (seeds, ...), of one seed without that axis."""
        device = torch.device(self.machine.device)
        assert isinstance(self.task, engine.Stackable)
        found = [self.task.inputs(next(batches[seed]), device) for seed in self.seeds]
        if len(found) == 1:
            return found[0]
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

    def step(self, inputs: tuple[Tensor, ...], factor: float | Tensor) -> Tensor:
        """The losses (N,) of a batch, and the updates with rates times a factor."""
        one_seed = len(self.seeds) == 1
        if not one_seed:
            inputs = tuple(part.index_select(0, self.seed_of) for part in inputs)
        for p in self.params.values():
            p.grad = None
        in_dims = (0, 0, 0, *((None if one_seed else 0,) * len(inputs)))
        with engine.precision(self.config, self.machine):
            losses = vmap(self._loss, in_dims)(self.params, self.buffers, self.numbers, *inputs)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.updates.apply(factor)
        detached: Tensor = losses.detach()
        return detached

    def _loss(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        numbers: dict[Place, Tensor],
        *inputs: Tensor,
    ) -> Tensor:
        """The loss of one member, as vmap asks for it."""
        assert isinstance(self.task, engine.Stackable)

        def model(*args: Tensor) -> Any:
            return functional_call(self.skeleton, {**params, **buffers}, args)

        with _set(self.skeleton, numbers):
            return self.task.objective(model, *inputs)


Recorded = tuple[Callable[[], None], Tensor]
"""What does a step again, and where its losses (N,) are."""


def record(step: Callable[[], Tensor]) -> Recorded:
    """A step as a CUDA graph, after steps for the allocator."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = step()
    return graph.replay, losses


class _Graph:
    """A stacked step that is recorded: the processor launches one thing instead of hundreds.

    The factor of the rates is a tensor, so that a schedule can change it.
    """

    def __init__(self, stack: Stack, inputs: tuple[Tensor, ...]):
        device = stack.machine.device
        self.inputs = tuple(part.clone() for part in inputs)
        self.factor = torch.zeros((), dtype=torch.float64, device=device)
        changed = [*stack.params.values(), *stack.buffers.values(), *stack.updates.state]
        kept = [t.detach().to("cpu", copy=True) for t in changed]
        self.replay, self.losses = record(lambda: stack.step(self.inputs, self.factor))
        with torch.no_grad():  # put back what the steps of recording changed
            for own, before in zip(changed, kept, strict=True):
                own.copy_(before)

    def step(self, inputs: tuple[Tensor, ...], factor: float) -> Tensor:
        """A step with these inputs and this factor of the rates; its losses (N,)."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.factor.fill_(factor)
        self.replay()
        return self.losses.clone()


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def _attributes(module: nn.Module, numbers: bool) -> Iterator[tuple[tuple[str, str | None], Any]]:
    """A module's own attributes by place, those of dataclasses field by field.

    Args:
        module: its submodules are left out, and what torch and the core keep on it.
        numbers: whether those that are float are wanted, or all others.
    """
    for key, value in vars(module).items():
        if key in NOTES or (key in _MODULE and key != "training"):
            continue
        parts: dict[str | None, Any] = {None: value}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        for name, part in parts.items():
            if isinstance(part, float) == numbers:
                yield (key, name), part


def _differing(models: Sequence[nn.Module], device: str) -> dict[Place, Tensor]:
    """The numbers (N,) in which the models differ, in float64 as Python has them."""
    found: dict[Place, list[float]] = {}
    for model in models:
        for name, module in model.named_modules():
            for place, value in _attributes(module, numbers=True):
                found.setdefault((name, *place), []).append(value)
    return {
        place: torch.tensor(values, dtype=torch.float64, device=device)
        for place, values in found.items()
        if len(set(values)) > 1
    }


@contextmanager
def _set(model: nn.Module, numbers: dict[Place, Tensor]) -> Iterator[None]:
    """The model with these numbers in these places."""
    kept: dict[tuple[str, str], Any] = {}
    for (name, key, part), number in numbers.items():
        module = model.get_submodule(name)
        value = vars(module)[key]
        kept.setdefault((name, key), value)
        # Not by setattr, which torch's modules have their own of.
        vars(module)[key] = number if part is None else dataclasses.replace(value, **{part: number})
    try:
        yield
    finally:
        for (name, key), value in kept.items():
            vars(model.get_submodule(name))[key] = value
