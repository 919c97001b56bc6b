"""What a forward pass does with weights, scalars and widths, seen from outside.

A `TorchFunctionMode` sees every call of torch with its operands, on any device, the meta device
included, so that what a model's code only implies is read off: whether a parameter is multiplied as
(fan_out, fan_in) or as (fan_in, fan_out), which scalars multiply activations, and over which
dimensions activations are contracted with each other, as queries with keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mupkit.base_shapes import canonical

_MULTIPLY = {"mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__", "__imul__"}
_DIVIDE = {"div", "div_", "divide", "true_divide", "__truediv__", "__itruediv__"}
_PRODUCTS = {"matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm"}
_ALONG = {"add", "add_", "__add__", "__radd__", "__iadd__", "cat", "concat"}  # a bias, a sink
_TRANSPOSE = {"t", "transpose", "swapaxes", "mT", "T"}
_REDUCTIONS = {"sum", "norm", "vector_norm", "linalg_norm", "linalg_vector_norm"}
_SOFTMAX, _ATTENTION = {"softmax", "_softmax"}, "scaled_dot_product_attention"


class Logits(NamedTuple):
    """What a softmax reads: queries times keys.

    Attributes:
        size: over which they were contracted, that of a head.
        factor: the product of the scalars that multiplied them.
    """

    size: int
    factor: float

    @property
    def relative(self) -> float:
        """The factor over that of 1/d attention, which is the same at all widths."""
        return self.size * self.factor


@dataclass
class Observed:
    """One forward pass.

    Attributes:
        layouts: how a parameter is stored, by name, where the pass multiplies activations by it.
        attention: the logits of each softmax, by module and in the order of the pass.
        factors: the scalars that multiply activations of at least two dimensions, likewise, but
            not on their way to a softmax, nor what was summed, since a sum over a size is a mean.
        contracted: sizes over which two activations are contracted, likewise.
    """

    layouts: dict[str, Literal["out_in", "in_out"]] = field(default_factory=dict)
    attention: dict[str, list[Logits]] = field(default_factory=dict)
    factors: dict[str, list[float]] = field(default_factory=dict)
    contracted: dict[str, list[float]] = field(default_factory=dict)


class _Path(NamedTuple):
    """How an activation came about since a weight was last multiplied."""

    factor: float
    size: int | None  # of the last contraction
    scalars: frozenset[tuple[str, int]] = frozenset()  # by module and position in its factors


_START = _Path(1.0, None)


def observe(model: nn.Module, call: Callable[[], Any]) -> Observed:
    """What happens in `call`, which makes a forward pass of `model`.

    The pass is in evaluation mode, without gradients; modes and random generators are restored.
    """
    found, path = Observed(), [""]
    names = {id(p): canonical(name) for name, p in model.named_parameters()}
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        stack.enter_context(torch.random.fork_rng(devices=_devices(model)))
        for name, module in model.named_modules():
            enter, leave = _hooks(name, path)
            stack.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
            stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        model.eval()
        stack.enter_context(torch.no_grad())
        observer = stack.enter_context(_Observer(found, path, names))
        call()
    for name, factors in found.factors.items():
        attending = (i for module, i in observer.attending if module == name)
        for i in sorted(attending, reverse=True):
            del factors[i]
    return found


def _devices(model: nn.Module) -> list[int]:
    return sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})


def _hooks(name: str, path: list[str]) -> tuple[Callable[..., None], Callable[..., None]]:
    def enter(module: nn.Module, args: Any) -> None:
        path.append(canonical(name))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        path.pop()

    return enter, leave


class _Observer(TorchFunctionMode):
    def __init__(self, found: Observed, path: list[str], names: dict[int, str]):
        super().__init__()
        self.found, self.path, self.names = found, path, names
        # What is computed from parameters alone, by id, with its name and whether it is transposed,
        # and the paths of activations. The tensors are kept, so that no id is used twice.
        self.weights: dict[int, tuple[str, bool]] = {}
        self.paths: dict[int, _Path] = {}
        self.reduced: set[int] = set()
        self.attending: set[tuple[str, int]] = set()  # the scalars on the way to a softmax
        self.kept: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in ("__bool__", "__contains__") and args[0].is_meta:
            return False  # whether ids contain padding, and the like
        result = func(*args, **kwargs)
        if name == "__get__":  # of a property, such as Tensor.T
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        tensors = list(_tensors([*args, *kwargs.values()]))
        weights = [x for x in tensors if self._is_weight(x)]
        if weights and len(weights) == len(tensors):
            self._derive(result, weights[0], flipped=name in _TRANSPOSE)
        elif weights and name not in _ALONG:
            self._see_layout(name, args, tensors)
        elif tensors:
            if name in _REDUCTIONS and isinstance(result, Tensor):
                self.reduced.add(id(result))
                self.kept.append(result)
            known = self._follow(name, tensors, args, kwargs)
            for x in _tensors([result]) if known != _START else ():
                self.paths[id(x)] = known
                self.kept.append(x)
        return result

    def _is_weight(self, x: Tensor) -> bool:
        return id(x) in self.names or id(x) in self.weights

    def _derive(self, result: Any, origin: Tensor, flipped: bool) -> None:
        name, was = self.weights.get(id(origin)) or (self.names[id(origin)], False)
        for x in _tensors([result]):
            if id(x) not in self.names:
                self.weights[id(x)] = name, was != flipped
                self.kept.append(x)

    def _see_layout(self, name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
        if name == "linear":
            self._stored(tensors[1], "out_in")
        elif "grouped_mm" in name:  # of rows with those of a stack of matrices
            self._stored(tensors[1], "in_out")
        elif name in _PRODUCTS:
            left, right = tensors[-2:]
            self._stored(right, "in_out")
            self._stored(left, "out_in")
        elif name == "einsum" and (letters := _letters(args, tensors)):
            for own, x in zip(letters[:2], tensors, strict=True):
                ends = [c in letters[2] for c in (own[0], own[-1])]
                if ends[0] != ends[1]:
                    self._stored(x, "in_out" if ends[0] else "out_in")

    def _stored(self, weight: Tensor, layout: Literal["out_in", "in_out"]) -> None:
        if not self._is_weight(weight):
            return
        name, flipped = self.weights.get(id(weight)) or (self.names[id(weight)], False)
        other: Literal["out_in", "in_out"] = "in_out" if layout == "out_in" else "out_in"
        self.found.layouts.setdefault(name, other if flipped else layout)

    def _follow(
        self, name: str, tensors: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Path:
        """The path of the result of an operation on activations."""
        paths = [self.paths.get(id(x), _START) for x in tensors]
        scalars = frozenset[tuple[str, int]]().union(*(path.scalars for path in paths))
        if name in _PRODUCTS:
            left, right = paths[-2:]
            alpha = float(kwargs.get("alpha", 1))
            return self._contract(tensors[-2].shape[-1], left, right, alpha)
        if name == "einsum" and (letters := _letters(args, tensors)) and letters[2]:
            sizes = dict(zip(letters[0], tensors[0].shape, strict=True))
            return self._contract(math.prod(sizes[c] for c in letters[2]), paths[0], paths[1])
        if name == _ATTENTION:
            size, scale = tensors[0].shape[-1], kwargs.get("scale")
            scale = size**-0.5 if scale is None else float(scale)
            self._attend(self._contract(size, paths[0], paths[1], scale))
            return _START
        if name in _MULTIPLY | _DIVIDE and len(args) == 2:
            divides = name in _DIVIDE
            scalar = _scalar(args)
            if scalar is not None:
                factor = 1 / scalar if divides else scalar
                if not any(id(x) in self.reduced for x in tensors):
                    scalars |= {self._multiplied(factor)}
                known = paths[0] if paths[0] != _START else paths[-1]
                return _Path(known.factor * factor, known.size, scalars)
            left, right = (*paths, _START)[:2]
            factor = left.factor * (1 / right.factor if divides else right.factor)
            return _Path(factor, left.size or right.size, scalars)
        known = next((x for x in paths if x.size), paths[0])
        known = _Path(known.factor, known.size, scalars)
        if name in _SOFTMAX:
            self._attend(known)
            return _START
        return known

    def _contract(self, size: int, left: _Path, right: _Path, factor: float = 1.0) -> _Path:
        self.found.contracted.setdefault(self.path[-1], []).append(size)
        scalars = left.scalars | right.scalars
        if factor != 1:
            scalars |= {self._multiplied(factor)}
        return _Path(left.factor * right.factor * factor, size, scalars)

    def _multiplied(self, factor: float) -> tuple[str, int]:
        factors = self.found.factors.setdefault(self.path[-1], [])
        factors.append(factor)
        return self.path[-1], len(factors) - 1

    def _attend(self, known: _Path) -> None:
        if known.size is not None:
            self.attending |= known.scalars
            logits = Logits(known.size, known.factor)
            self.found.attention.setdefault(self.path[-1], []).append(logits)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for x in values:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, tuple | list):
            yield from _tensors(x)


def _scalar(args: tuple[Any, ...]) -> float | None:
    """The scalar that an activation of at least two dimensions is multiplied by or divided by."""
    one, other = args if isinstance(args[0], Tensor) and args[0].ndim > 1 else args[::-1]
    if not isinstance(one, Tensor) or one.ndim < 2 or not one.is_floating_point():
        return None
    if isinstance(other, Tensor):
        if other.ndim or other.is_meta:
            return None
        other = other.item()
    return float(other) if isinstance(other, int | float) and other else None


def _letters(args: tuple[Any, ...], tensors: list[Tensor]) -> tuple[str, str, str] | None:
    """The dimensions of both operands of an einsum, and those that it sums over."""
    equation = str(args[0]).replace(" ", "")
    if len(tensors) != 2 or "->" not in equation or "." in equation:
        return None
    inputs, output = equation.split("->")
    left, right = inputs.split(",")
    return left, right, "".join(c for c in left if c in right and c not in output)


def changed(base: Sequence[float], wide: Sequence[float]) -> list[tuple[float, float]]:
    """The numbers of a module that differ between two widths, as pairs of base and wide.

    They are paired by their order. If one has more of them, as where the input decides what is
    called, what both have is left out and the rest paired by size, with NaN for what is missing.
    """
    if len(base) != len(wide):
        base, wide = (
            sorted({x for x in own if not any(_same(x, y) for y in other)})
            for own, other in ((base, wide), (wide, base))
        )
    pairs = zip_longest(base, wide, fillvalue=math.nan)
    return [(a, b) for a, b in pairs if not _same(a, b)]


def _same(x: float, y: float) -> bool:
    return abs(x - y) <= 1e-4 * max(abs(x), abs(y))
