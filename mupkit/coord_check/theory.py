"""How large the update of a parameter should be, from the shapes of the models alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from mupkit.base_shapes import ATTRIBUTE, canonical
from mupkit.infshape import InfDim, InfShape
from mupkit.multipliers import multiplier
from mupkit.rules import TABLE_3, scale, update_exponents
from mupkit.storage import free_parameters, is_embedding, own_parameters, transposed_parameters


@dataclass(frozen=True)
class Stored:
    """A parameter as a model stores it.

    Args:
        shape: its sizes.
        transposed: whether these are (fan_in, fan_out, *kernel).
        stacked: whether they are those of a stack of matrices.
        free: whether its use is unknown; with one width it then counts as an input weight.
        multiplier: the factor by which the model multiplies it in the forward pass.
    """

    shape: tuple[int, ...]
    transposed: bool
    stacked: bool
    free: bool
    multiplier: float


def stored_parameters(model: nn.Module) -> dict[str, Stored]:
    """Every parameter of `model` by name; one that is tied to an embedding is the embedding's."""
    transposed, free = transposed_parameters(model, {}), free_parameters(model, {})
    found: dict[int, Stored] = {}
    for _, module, local, p in own_parameters(model):
        if id(p) in found and not is_embedding(module):
            continue
        stored, stacked, told = id(p) in transposed, False, id(p) not in free
        declared = getattr(p, ATTRIBUTE, None)
        if isinstance(declared, InfShape) and declared.ninf():
            stored, stacked, told = declared.transposed, declared.stacked, True  # given by hand
        found[id(p)] = Stored(tuple(p.shape), stored, stacked, not told, multiplier(module, local))
    return {canonical(name): found[id(p)] for name, p in model.named_parameters()}


def expected_updates(
    model: Mapping[str, Stored], narrowest: Mapping[str, Stored], widest: Mapping[str, Stored]
) -> dict[str, float]:
    """log2 of the size that the stored entries of each update should have, up to a constant.

    A dimension is a width if it differs between the narrowest and the widest model. The model's own
    base shapes, which may be wrong, give only the layout. The weight in the forward pass,
    multiplier * stored, should move by a constant for input weights and by 1/fan_in for hidden and
    output weights; so expected = log2(that / multiplier).

    Only multipliers that mupkit set are known. If a model's `forward` contains another, the update
    of its weight will look wrong.

    Raises:
        ValueError: if the widths of a parameter cannot be read as fan-in and fan-out, naming it.

    Source: Tensor Programs V, Appendix J.2.1.
    """
    expected = {}
    for name, stored in model.items():
        sizes = zip(narrowest[name].shape, widest[name].shape, stored.shape, strict=True)
        dims = [InfDim(base if base != largest else None, size) for base, largest, size in sizes]
        try:
            infshape = InfShape(dims, stored.transposed, stored.stacked)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if stored.free and infshape.role() == "output":
            infshape = InfShape(dims, transposed=not stored.transposed)
        seen = scale(infshape, update_exponents(infshape.role(), TABLE_3))
        expected[name] = math.log2(seen / abs(stored.multiplier)) if stored.multiplier else 0.0
    return expected
