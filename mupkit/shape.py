"""Base shapes under the names that the `mup` package has for them.

Source: the `mup` package, whose `mup.shape` this stands for.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mupkit.base_shapes import (
    ModelOrShapes,
    check_names,
    get_infshapes,
    get_shapes,
    make_base_shapes,
    read_shapes,
    save_base_shapes,
)
from mupkit.bsh import load as load_base_shapes
from mupkit.infshape import InfShape, zip_infshape
from mupkit.layer import MuReadout, rescale_linear_bias
from mupkit.parametrization import attach, check_readouts, set_base_shapes
from mupkit.rules import TABLE_8

__all__ = [
    "InfShape",
    "MuReadout",
    "apply_infshapes",
    "assert_hidden_size_inf",
    "clear_dims",
    "get_infshapes",
    "get_shapes",
    "load_base_shapes",
    "make_base_shapes",
    "rescale_linear_bias",
    "save_base_shapes",
    "set_base_shapes",
    "zip_infshape",
    "zip_infshapes",
]


def zip_infshapes(base: ModelOrShapes, target: ModelOrShapes) -> dict[str, InfShape]:
    """The `InfShape` of every parameter of `target`, by name; a size that both have is finite.

    Args:
        base, target: models, shapes by name, or .bsh files.

    Raises:
        ValueError: if names or numbers of dimensions disagree, naming the parameter.
    """
    shapes = read_shapes(target)
    base_shapes = read_shapes(base, like=shapes)
    check_names(base_shapes, shapes, "base", "target")
    sizes = {name: [size for size in shape if size is not None] for name, shape in shapes.items()}
    return {name: zip_infshape(base_shapes[name], own) for name, own in sizes.items()}


def clear_dims(infshapes: Mapping[str, InfShape]) -> dict[str, list[int | None]]:
    """Base shapes by name, as `make_base_shapes` returns them: what is left without sizes."""
    return {name: infshape.base_shape() for name, infshape in infshapes.items()}


def apply_infshapes(model: nn.Module, infshapes: Mapping[str, InfShape]) -> None:
    """Give every parameter of `model` its `InfShape`, without rescaling it; rules are Table 8's.

    Raises:
        KeyError: for a parameter that `infshapes` does not name.
    """
    attach(model, infshapes, TABLE_8)


def assert_hidden_size_inf(model: nn.Module) -> None:
    """Refuse a parametrized model with an output layer that is no `MuReadout`.

    Raises:
        ValueError: naming the layer, where `mup` has an AssertionError.
    """
    check_readouts(model, get_infshapes(model))
