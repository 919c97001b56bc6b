"""Readouts: the layers that map a width dimension to a finite one."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from mupkit.base_shapes import RESCALED, Rescaled, infshape_of


class MuReadout(nn.Linear):
    """Linear readout, y = W (output_mult / width_mult) x + b.

    `mup` has the same class. A model of plain layers does not need it: `mupkit.parametrize` takes
    the model as it is.

    Args:
        in_features: width, the dimension that scales.
        out_features: classes or words, finite.
        bias: whether there is a bias b.
        readout_zero_init: initialize W and b to zero (paper, Appendix D.2).
        output_mult: the tunable multiplier of the output, constant in width.

    Shapes: x is (..., in_features), y (..., out_features).

    Source: Tensor Programs V, Table 8, column "output weights".
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        readout_zero_init: bool = False,
        output_mult: float = 1.0,
        **kwargs: Any,
    ):
        self.readout_zero_init = readout_zero_init
        self.output_mult = output_mult
        self._width_mult: float | None = None
        super().__init__(in_features, out_features, bias=bias, **kwargs)

    def reset_parameters(self) -> None:
        """PyTorch's default initialization, or zeros."""
        if not self.readout_zero_init:
            return super().reset_parameters()
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        return None

    def width_mult(self) -> float:
        """`in_features` over its base size.

        Raises:
            ValueError: if `set_base_shapes` was not called on the model.
        """
        if self._width_mult is None:
            raise ValueError(
                "MuReadout has no base shape; call mupkit.set_base_shapes(model, base)"
            )
        return self._width_mult

    def set_width_mult(self, width_mult: float) -> None:
        """Called by `set_base_shapes`; a plain float, which copies and compilers keep."""
        self._width_mult = width_mult

    def forward(self, input: Tensor) -> Tensor:
        """Logits (..., out_features) of activations (..., in_features)."""
        # In this order float32 rounds as in the mup package at any width ratio. A factor of 1
        # changes no bit, and would cost a pass forward and one backward.
        width_mult = self.width_mult()
        x = input if _is_one(self.output_mult) else self.output_mult * input
        return super().forward(x if _is_one(width_mult) else x / width_mult)


def _is_one(mult: float | Tensor) -> bool:
    """Whether a factor is the number 1; what a tensor holds is not looked at."""
    return not isinstance(mult, Tensor) and mult == 1


class MuSharedReadout(MuReadout):
    """`MuReadout` whose weight is that of an embedding.

    The embedding keeps its initialization and its rate, which Table 8 makes equal for input and
    output weights; only the logits are multiplied. Deviation: the `mup` package multiplies the
    shared weight by sqrt(width_mult), which breaks the embedding.

    Args:
        weight: (vocabulary, width), the embedding's parameter.
        bias: whether there is a bias of its own, zero at first.
        output_mult: as in `MuReadout`.
    """

    def __init__(self, weight: nn.Parameter, bias: bool = True, output_mult: float = 1.0):
        super().__init__(
            weight.shape[1],
            weight.shape[0],
            bias=bias,
            readout_zero_init=True,
            output_mult=output_mult,
            device="meta",
        )
        self.weight = weight
        if bias:
            self.bias = nn.Parameter(weight.new_zeros(weight.shape[0]))

    def reset_parameters(self) -> None:
        """Zero the bias; the weight is initialized by the embedding."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def rescale_linear_bias(linear: nn.Module) -> None:
    """Rescale the bias of a layer of one's own from PyTorch's default to a constant std, once.

    `set_base_shapes` and `parametrize` do so for PyTorch's layers, and it does nothing to these.

    Args:
        linear: with a `bias` and a `weight` (fan_out, fan_in, ...) that has a base shape.

    Raises:
        ValueError: if the weight has none.
    """
    weight, bias = cast(Tensor, linear.weight), cast(Tensor | None, linear.bias)
    factor = infshape_of(weight, "weight")[1].width_mult() ** 0.5
    done: dict[str, Rescaled] = vars(linear).setdefault(RESCALED, {})
    if bias is None or "bias" in done:
        return
    with torch.no_grad():
        bias.mul_(factor)
    done["bias"] = Rescaled(factor)
