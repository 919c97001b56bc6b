"""Sizes of activations, of their changes and of updates, over a few steps at several widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mupkit.base_shapes import canonical
from mupkit.coord_check.capture import Loss, capture
from mupkit.coord_check.theory import Stored, expected_updates, stored_parameters

Kind = Literal["activation", "change", "update"]
Build = Callable[[int], nn.Module]
MakeOptimizer = Callable[[Any], Optimizer]
Measured = tuple[int, str, Kind, float, tuple[int, ...]]  # step, tensor, kind, value, shape
MASKED = -1e8
"""Smaller entries are masks of attention, -inf or the like, and are left out."""


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        width: that of the model.
        seed: that of its initialization.
        step: 0 at initialization, then the number of updates.
        tensor: the activation's name (see `capture`) or the parameter's.
        kind: "activation": the tensor x_t; "change": x_t - x_0; "update": the stored parameter,
            p_t - p_(t-1).
        value: root mean square over the entries.
        finite: whether the tensor's shape is the same at all widths.
        expected: log2 of the size that theory gives an update, up to a constant.
    """

    width: int
    seed: int
    step: int
    tensor: str
    kind: Kind
    value: float
    finite: bool
    expected: float | None = None


def record(
    build: Build,
    widths: Iterable[int],
    *,
    make_optimizer: MakeOptimizer,
    loss: Loss,
    steps: int = 3,
    seeds: Iterable[int] = range(5),
    dtype: torch.dtype | None = torch.float64,
) -> list[Row]:
    """Train models of several widths for a few steps and measure every tensor.

    Args:
        build: build(width) returns the parametrized and initialized model of a width; each
            dimension that is a width has to differ between the narrowest and the widest model.
        widths: at least two; three or more, spread over a factor of eight or more, tell more.
        make_optimizer: make_optimizer(model) returns its optimizer.
        loss: loss(model) returns the scalar loss on a batch that is the same at every call.
        steps: number of updates; after one, only the readout may have moved the output.
        seeds: one model per width and seed.
        dtype: the type to which models and their floating-point inputs are converted, since
            rounding noise would look like signal; None converts nothing.

    Raises:
        ValueError: for fewer than two widths, no seeds or steps, or if a tensor is missing at some
            widths, naming it.
    """
    widths, seeds = sorted(set(widths)), list(dict.fromkeys(seeds))
    if len(widths) < 2 or not seeds or steps < 1:
        raise ValueError("a coordinate check needs at least two widths, a seed and a step")
    measured: dict[tuple[int, int], list[Measured]] = {}
    stored: dict[int, dict[str, Stored]] = {}
    for width in widths:
        for seed in seeds:
            torch.manual_seed(seed)
            model = build(width)
            if dtype is not None:
                model = _convert(model, dtype)
            stored[width] = stored_parameters(model)
            optimizer = make_optimizer(model)
            measured[width, seed] = list(_measure(model, optimizer, loss, steps, seed))
    finite = _finite(measured)
    rows = []
    for (width, seed), found in measured.items():
        expected = expected_updates(stored[width], stored[widths[0]], stored[widths[-1]])
        for step, tensor, kind, value, _ in found:
            theory = expected[tensor] if kind == "update" else None
            rows.append(Row(width, seed, step, tensor, kind, value, finite[kind, tensor], theory))
    return rows


def train_step(model: nn.Module, optimizer: Optimizer, loss: Loss) -> float:
    """One step of training; returns the loss before it."""
    optimizer.zero_grad()
    value = loss(model)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(value.detach())


def rms(x: Tensor, hidden: Tensor | None = None) -> float:
    """Root mean square over the entries that the mask `hidden` leaves; 0 if there are none."""
    if hidden is not None and hidden.any():
        x = x[~hidden]
    return float(x.norm()) / math.sqrt(x.numel()) if x.numel() else 0.0


def _measure(
    model: nn.Module, optimizer: Optimizer, loss: Loss, steps: int, seed: int
) -> Iterator[Measured]:
    """The measurements of one model; only the tensors of step 0 are kept in memory."""
    start: dict[str, Tensor] = {}
    for step in range(steps + 1):
        if step:
            before = _parameters(model)
            train_step(model, optimizer, loss)
            for name, p in _parameters(model).items():
                yield step, name, "update", rms(p - before[name]), tuple(p.shape)
        activations = capture(model, loss, seed)
        start = start or activations
        for name, x in activations.items():
            shape = tuple(x.shape)
            yield step, name, "activation", rms(x, x < MASKED), shape
            if step and start[name].shape == x.shape:
                hidden = (x < MASKED) | (start[name] < MASKED)
                yield step, name, "change", rms(x - start[name], hidden), shape


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {
        canonical(n): p.detach().to(torch.float64, copy=True) for n, p in model.named_parameters()
    }


def _convert(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model in `dtype`, with its floating inputs converted when it is called."""

    def cast(x: Any) -> Any:
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    def cast_inputs(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(cast(x) for x in args), {k: cast(x) for k, x in kwargs.items()}

    model.register_forward_pre_hook(cast_inputs, with_kwargs=True, prepend=True)
    return model.to(dtype)


def _finite(
    measured: Mapping[tuple[int, int], Sequence[Measured]],
) -> dict[tuple[Kind, str], bool]:
    """Whether each tensor has the same shape in all models; it has to be in all of them."""
    shapes: dict[tuple[Kind, str], set[tuple[int, ...]]] = {}
    met: dict[tuple[Kind, str], set[tuple[int, int]]] = {}
    for run, found in measured.items():
        for _, tensor, kind, _, shape in found:
            shapes.setdefault((kind, tensor), set()).add(shape)
            met.setdefault((kind, tensor), set()).add(run)
    for (_, tensor), runs in met.items():
        if missing := sorted({width for width, _ in measured.keys() - runs}):
            raise ValueError(
                f"{tensor} is missing at width {missing[0]} and present at others: the models must "
                "differ in width alone"
            )
    return {key: len(found) == 1 for key, found in shapes.items()}
