"""Sizes of activations, of their changes and of updates, over a few steps at several widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mupkit.base_shapes import canonical
from mupkit.coord_check.capture import Loss, capture
from mupkit.coord_check.theory import Stored, expected_updates, stored_parameters
from mupkit.optim import family_of

Kind = Literal["activation", "change", "update", "clipping"]
Build = Callable[[int], nn.Module]
MakeOptimizer = Callable[[Any], Optimizer]
UNCLIPPED = 0.999
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
            p_t - p_(t-1); "clipping": what clipping leaves of the norm of all gradients, if there
            is any, for optimizers whose updates are not normalized.
        value: root mean square over the entries.
        finite: whether the tensor's shape is the same at all widths.
        expected: log2 of the size that theory gives an update, up to a constant.
        source: root mean square of the largest tensor that an activation's module got.
    """

    width: int
    seed: int
    step: int
    tensor: str
    kind: Kind
    value: float
    finite: bool
    expected: float | None = None
    source: float | None = None


class _Measured(NamedTuple):
    """A measurement of one model; without a value for a parameter that got no gradient."""

    step: int
    tensor: str
    kind: Kind
    value: float | None
    shape: tuple[int, ...]
    source: float | None = None


def record(
    build: Build,
    widths: Iterable[int],
    *,
    make_optimizer: MakeOptimizer,
    loss: Loss,
    steps: int = 3,
    seeds: Iterable[int] = range(5),
    clip: float | None = None,
    dtype: torch.dtype | None = torch.float64,
) -> list[Row]:
    """Train models of several widths for a few steps and measure every tensor.

    Where routing depends on data, as in a mixture of experts, a module may be called in some runs
    alone, and its tensors have sizes that data decide: then their changes are not measured.

    Args:
        build: build(width) returns the parametrized and initialized model of a width; each
            dimension that is a width has to differ between the narrowest and the widest model.
        widths: at least two; three or more, spread over a factor of eight or more, tell more.
        make_optimizer: make_optimizer(model) returns its optimizer.
        loss: loss(model) returns the scalar loss on a batch that is the same at every call.
        steps: number of updates; after one, only the readout may have moved the output.
        seeds: one model per width and seed.
        clip: the norm to which all gradients together are clipped, as in your training, or None.
        dtype: the type to which models and their floating-point inputs are converted, since
            rounding noise would look like signal; None converts nothing.

    Raises:
        ValueError: for fewer than two widths, no seeds or steps, or if a module or a parameter is
            missing at some widths, naming it.
    """
    widths, seeds = sorted(set(widths)), list(dict.fromkeys(seeds))
    if len(widths) < 2 or not seeds or steps < 1:
        raise ValueError("a coordinate check needs at least two widths, a seed and a step")
    measured: dict[tuple[int, int], list[_Measured]] = {}
    stored: dict[int, dict[str, Stored]] = {}
    parts: dict[int, set[str]] = {}
    for width in widths:
        for seed in seeds:
            torch.manual_seed(seed)
            model = build(width)
            if dtype is not None:
                model = _convert(model, dtype)
            stored[width] = stored_parameters(model)
            parts[width] = {*stored[width], *(canonical(name) for name, _ in model.named_modules())}
            _check_parts(parts)
            optimizer = make_optimizer(model)
            try:
                measured[width, seed] = list(_measure(model, optimizer, loss, steps, seed, clip))
            except RuntimeError as error:
                if dtype is not None and _runs(build, width, loss):
                    error.add_note(f"it runs in its own type: say dtype=None instead of {dtype}")
                raise
    shapes = _shapes(measured)
    finite = {key: _alike(list(by_width.values())) for key, by_width in shapes.items()}
    routed = {name for (_, name), found in shapes.items() if max(map(len, found.values())) > 1}
    seen = _with_gradient(measured)
    kept = [m.value for run in measured.values() for m in run if m.kind == "clipping"]
    clips = any(share is not None and share < UNCLIPPED for share in kept)
    rows = []
    for (width, seed), found in measured.items():
        expected = expected_updates(stored[width], stored[widths[0]], stored[widths[-1]])
        for step, tensor, kind, value, _, source in found:
            theory = expected[tensor] if kind == "update" else None
            if value is None and tensor in seen:
                continue  # routing left it out in this run
            if kind == "clipping" and not clips:
                continue
            if kind == "change" and tensor in routed:
                continue  # the rows of the two are of different inputs
            size, known = value or 0.0, finite[kind, tensor]
            rows.append(Row(width, seed, step, tensor, kind, size, known, theory, source))
    return rows


def _runs(build: Build, width: int, loss: Loss) -> bool:
    """Whether a forward pass works as the model is built."""
    try:
        capture(build(width), loss)
    except RuntimeError:
        return False
    return True


class Step(NamedTuple):
    """One step of training: the loss before it, and what clipping left of the gradients' norm."""

    loss: float
    kept: float


def train_step(
    model: nn.Module, optimizer: Optimizer, loss: Loss, clip: float | None = None
) -> Step:
    """Train one step; `clip` is the norm of all gradients at most, or None."""
    optimizer.zero_grad()
    value = loss(model)
    value.backward()  # type: ignore[no-untyped-call]
    norm, after = _norm(model), [0.0]
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    look = optimizer.register_step_pre_hook(lambda *_: after.append(_norm(model)))
    optimizer.step()  # its own hooks, which may clip too, come first
    look.remove()
    return Step(float(value.detach()), after[-1] / norm if norm else 1.0)


def _norm(model: nn.Module) -> float:
    grads = (p.grad for p in model.parameters() if p.grad is not None)
    return math.hypot(*(float(grad.norm()) for grad in grads))


def rms(x: Tensor, hidden: Tensor | None = None) -> float:
    """Root mean square over the entries that the mask `hidden` leaves; 0 if there are none."""
    if hidden is not None and hidden.any():
        x = x[~hidden]
    return float(x.norm()) / math.sqrt(x.numel()) if x.numel() else 0.0


def _measure(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    steps: int,
    seed: int,
    clip: float | None,
) -> Iterator[_Measured]:
    """The measurements of one model; only the tensors of step 0 are kept in memory."""
    normalized = family_of(type(optimizer)) not in (None, "sgd")
    start: dict[str, Tensor] = {}
    for step in range(steps + 1):
        if step:
            before = _parameters(model)
            kept = train_step(model, optimizer, loss, clip).kept
            if not normalized:
                yield _Measured(step, "(gradients)", "clipping", kept, ())
            idle = {
                canonical(n)
                for n, p in model.named_parameters()
                if p.requires_grad and p.grad is None
            }
            for name, p in _parameters(model).items():
                value = None if name in idle else rms(p - before[name])
                yield _Measured(step, name, "update", value, tuple(p.shape))
        sources: dict[str, float] = {}
        activations = capture(model, loss, seed, sources)
        start = start or activations
        for name, x in activations.items():
            shape = tuple(x.shape)
            size, source = rms(x, x < MASKED), sources.get(name)
            yield _Measured(step, name, "activation", size, shape, source)
            if step and name in start and start[name].shape == x.shape:
                hidden = (x < MASKED) | (start[name] < MASKED)
                yield _Measured(step, name, "change", rms(x - start[name], hidden), shape)


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


def _check_parts(parts: Mapping[int, set[str]]) -> None:
    """Refuse models that have not the same modules and parameters."""
    for width, names in parts.items():
        if missing := sorted(set().union(*parts.values()) - names):
            raise ValueError(
                f"{missing[0]} is missing at width {width} and present at others: the models must "
                "differ in width alone"
            )


def _shapes(
    measured: Mapping[tuple[int, int], Sequence[_Measured]],
) -> dict[tuple[Kind, str], dict[int, set[tuple[int, ...]]]]:
    """The shapes that each tensor has at each width: several ones if data decide."""
    shapes: dict[tuple[Kind, str], dict[int, set[tuple[int, ...]]]] = {}
    for (width, _), found in measured.items():
        for m in found:
            shapes.setdefault((m.kind, m.tensor), {}).setdefault(width, set()).add(m.shape)
    return shapes


def _alike(shapes: Sequence[set[tuple[int, ...]]]) -> bool:
    """Whether the dimensions that are one size at each width are the same at all widths."""
    if len({len(shape) for own in shapes for shape in own}) != 1:
        return False
    by_dimension = [list(zip(*own, strict=True)) for own in shapes]
    fixed = zip(*([set(sizes) for sizes in own] for own in by_dimension), strict=True)
    return all(len(set().union(*sizes)) == 1 for sizes in fixed if max(map(len, sizes)) == 1)


def _with_gradient(measured: Mapping[tuple[int, int], Sequence[_Measured]]) -> set[str]:
    """The parameters that got a gradient in some run."""
    found = (m for run in measured.values() for m in run if m.kind == "update")
    return {m.tensor for m in found if m.value is not None}
