"""An MLP with two hidden layers of one width, in SP, µP or between the two.

Axes: B batch, C channels, H height, W width of an image, I inputs (C H W), D width of the layers,
K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

import mupkit
from experiments.models.building import Model, build, times
from experiments.models.readout import plain
from mupkit import SP, TABLE_8, Rules, init, interpolate

Activation = Literal["relu", "tanh"]
INPUTS, OUTPUTS = 1024, 128  # fewer of either gain nothing


@dataclass(frozen=True)
class MlpShape:
    """The width of both hidden layers; the base model differs from the target in it alone."""

    width: int

    def all_different(self) -> MlpShape:
        """A shape that shares no dimension with this one."""
        return MlpShape(self.width + 1)


@dataclass(frozen=True)
class MlpOptions:
    """What does not scale with width; multipliers and std are hyperparameters that transfer.

    Args:
        d_in: numbers in an image.
        classes: number of outputs.
        activation: of the hidden layers.
        bias: biases in the hidden layers, zero at first.
        input_mult: multiplies the first layer's SGD rate and nothing else: the layer is multiplied
            by its root, and its initialization divided by that.
        output_mult: multiplies the output.
        init_std: of all weights, times 1/sqrt(fan_in).
        zero_readout: the readout starts at zero.
    """

    d_in: int
    classes: int
    activation: Activation = "relu"
    bias: bool = False
    input_mult: float = 1.0
    output_mult: float = 1.0
    init_std: float = 1.0
    zero_readout: bool = True


class FirstLayer(nn.Linear):
    """A linear layer whose output is (W x^T)^T on a CPU: the product of many inputs that is faster.

    It has the bits of x W^T at all sizes of `benchmarks/products.py`.
    """

    def forward(self, input: Tensor) -> Tensor:
        large = self.in_features >= INPUTS and self.out_features >= OUTPUTS
        if not large or self.bias is not None or not plain(input, self.weight):
            return super().forward(input)
        return (self.weight @ input.t()).t().contiguous()


class Mlp(Model):
    """Two hidden layers and a readout. Build it with `build_mlp`, which parametrizes it.

    Source: Tensor Programs V, Equations 2 to 4.
    """

    def __init__(self, shape: MlpShape, options: MlpOptions):
        super().__init__()
        self.options = options
        self.input = FirstLayer(options.d_in, shape.width, bias=options.bias)
        self.hidden = nn.Linear(shape.width, shape.width, bias=options.bias)
        self.readout = mupkit.MuReadout(
            shape.width, options.classes, bias=False, output_mult=options.output_mult
        )
        self.activation = {"relu": torch.relu, "tanh": torch.tanh}[options.activation]

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Outputs (B, K) of images (B, C, H, W)."""
        x_BI = images_BCHW.flatten(1)
        x_BD = self.activation(times(self.input(x_BI), self.options.input_mult**0.5))
        outputs_BK: Tensor = self.readout(self.activation(self.hidden(x_BD)))
        return outputs_BK

    @torch.no_grad()
    def init_weights(self) -> None:
        """Gaussian weights of std init_std/sqrt(fan_in) under the rules, biases of zero."""
        std, input_mult = self.options.init_std, self.options.input_mult
        init.fan_in_normal_(self.input.weight, std / input_mult**0.5)
        init.fan_in_normal_(self.hidden.weight, std)
        init.fan_in_normal_(self.readout.weight, std)
        if self.options.zero_readout:
            init.zeros_(self.readout.weight)
        for p in self.parameters():
            if p.ndim == 1:
                init.zeros_(p)


def build_mlp(
    shape: MlpShape,
    options: MlpOptions,
    base: MlpShape | None,
    t: float = 1.0,
    rules: Rules = TABLE_8,
) -> Mlp:
    """A parametrized and initialized MLP.

    Args:
        shape: its width.
        options: everything else.
        base: the width at which µP, SP and all between them are equal; None for SP.
        t: where between SP (0) and µP (1) the exponents of width are: of initialization,
            multiplier and rates.
        rules: the formulation of µP. Which one makes no difference at any t, but for rounding:
            Lemma J.1 shifts exponents linearly, so it turns the interpolation to one formulation
            into that to another.

    Source: the announcement post's interpolation between PyTorch's default and µP.
    """
    base = None if t == 0 else base  # SP needs no base, and without it nothing is rounded
    return build(lambda shape: Mlp(shape, options), shape, base, interpolate(SP, rules, t))
