"""How all models are built: with base shapes, in µP or in SP, and then initialized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import mupkit
from mupkit import TABLE_8, Rules


class Shape(Protocol):
    """The dimensions of a model that scale."""

    def all_different(self) -> Self:
        """A shape that shares no dimension with this one."""


class Model(nn.Module):
    """A model that draws its own weights, which it does after it is parametrized."""

    def init_weights(self) -> None:
        """Draw all weights under the rules of the model's parametrization."""
        raise NotImplementedError


class _Shapes(TorchFunctionMode):
    """Where shapes alone count, what gives values is left out.

    On the meta device torch does these in Python, for which it loads its compiler: a second.
    """

    VALUES = (Tensor.normal_, nn.init.normal_, Tensor.triu)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.VALUES:  # each gives a tensor as it was given
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


ShapeT = TypeVar("ShapeT", bound=Shape)
ModelT = TypeVar("ModelT", bound=Model)


def build(
    make: Callable[[ShapeT], ModelT], shape: ShapeT, base: ShapeT | None, rules: Rules = TABLE_8
) -> ModelT:
    """A parametrized and initialized model, on torch's default device.

    Args:
        make: function of a shape to a model that is not parametrized yet.
        shape: of the model.
        base: the shape at which µP equals SP; None for SP.
        rules: the scaling rules of a model that has a base.
    """
    model = make(shape)
    if base is None:
        mupkit.set_base_shapes(model, None, rescale_params=False)
    else:
        with torch.device("meta"), _Shapes():
            base_model, delta_model = make(base), make(base.all_different())
        mupkit.parametrize(model, base_model, delta_model, rules=rules, rescale_params=False)
    model.init_weights()
    return model


def times(x: Tensor, factor: float | Tensor) -> Tensor:
    """`x` times a factor; `x` itself for 1, which has the same bits without a pass over them.

    The factor is a tensor where models are stacked that differ in it (`train.stacked`).
    """
    return x if not isinstance(factor, Tensor) and factor == 1 else x * factor
