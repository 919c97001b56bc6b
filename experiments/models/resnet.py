"""ResNet-9 for small images ("Davidnet"), with channels that scale, in SP or µP.

Axes: B batch, C channels, H height, W width of an image, D channels of the last layer, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupkit
from experiments.models.building import Model, build
from mupkit import init

Channels = tuple[int, int, int, int]


@dataclass(frozen=True)
class ResNetShape:
    """Channels after the first convolution and of the three layers."""

    channels: Channels

    @classmethod
    def of(cls, width_mult: float) -> ResNetShape:
        """The original's channels times a width multiplier, which must leave whole numbers."""
        prep, layer1, layer2, layer3 = (_whole(c * width_mult) for c in (64, 128, 256, 512))
        return cls((prep, layer1, layer2, layer3))

    def all_different(self) -> ResNetShape:
        """A shape that shares no dimension with this one."""
        prep, layer1, layer2, layer3 = (c + 1 for c in self.channels)
        return ResNetShape((prep, layer1, layer2, layer3))


@dataclass(frozen=True)
class ResNetOptions:
    """What does not scale with width; multiplier and std are hyperparameters that transfer.

    Args:
        classes: number of outputs.
        in_channels: of an image.
        output_mult: multiplies the output, on top of `logit_scale`.
        logit_scale: the original's constant factor of the output.
        init_std: of all weights, times 1/sqrt(fan_in).
        zero_readout: the readout starts at zero, as in the ResNet example of the paper's authors.
    """

    classes: int = 10
    in_channels: int = 3
    output_mult: float = 1.0
    logit_scale: float = 0.125
    init_std: float = 1.0
    zero_readout: bool = True


class ConvNorm(nn.Module):
    """A 3x3 convolution, batch normalization, ReLU."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(fan_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x_BCHW)), inplace=True)


class Layer(nn.Module):
    """A convolution that halves the image, and perhaps a residual of two."""

    def __init__(self, fan_in: int, fan_out: int, residual: bool):
        super().__init__()
        self.conv = ConvNorm(fan_in, fan_out)
        self.residual = (
            nn.Sequential(ConvNorm(fan_out, fan_out), ConvNorm(fan_out, fan_out))
            if residual
            else None
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = F.max_pool2d(self.conv(x_BCHW), 2)
        return x_BCHW if self.residual is None else x_BCHW + self.residual(x_BCHW)


class ResNet(Model):
    """Build it with `build_resnet`, which parametrizes it.

    Source: Tensor Programs V, Appendix G.1.1; the model is that of github.com/davidcpage/
    cifar10-fast (dawn.py).
    """

    def __init__(self, shape: ResNetShape, options: ResNetOptions):
        super().__init__()
        self.options = options
        prep, layer1, layer2, layer3 = shape.channels
        self.prep = ConvNorm(options.in_channels, prep)
        self.layer1 = Layer(prep, layer1, residual=True)
        self.layer2 = Layer(layer1, layer2, residual=False)
        self.layer3 = Layer(layer2, layer3, residual=True)
        self.readout = mupkit.MuReadout(
            layer3,
            options.classes,
            bias=False,
            output_mult=options.output_mult * options.logit_scale,
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W), at least 8 x 8."""
        x_BCHW = self.layer3(self.layer2(self.layer1(self.prep(images_BCHW))))
        x_BD = F.adaptive_max_pool2d(x_BCHW, 1).flatten(1)
        logits_BK: Tensor = self.readout(x_BD)
        return logits_BK

    @torch.no_grad()
    def init_weights(self) -> None:
        """Gaussian weights of std init_std/sqrt(fan_in) under the rules; gains 1, biases 0."""
        for name, p in self.named_parameters():
            if name.endswith("bias") or (name == "readout.weight" and self.options.zero_readout):
                init.zeros_(p)
            elif name.endswith("norm.weight"):
                init.ones_(p)
            else:
                init.fan_in_normal_(p, self.options.init_std)


def build_resnet(shape: ResNetShape, options: ResNetOptions, base: ResNetShape | None) -> ResNet:
    """A parametrized and initialized ResNet-9.

    Args:
        shape: its channels.
        options: everything else.
        base: the channels at which µP equals SP; None for SP.
    """
    return build(lambda shape: ResNet(shape, options), shape, base)


def _whole(channels: float) -> int:
    if channels < 1 or channels != int(channels):
        raise ValueError(f"the width multiplier gives {channels} channels")
    return int(channels)
