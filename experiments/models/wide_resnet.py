"""Wide ResNet of bottleneck blocks (WRN-50-2), with channels that scale, in SP or µP.

Axes: B batch, C channels, H height, W width of an image, D channels of the last stage, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupkit
from experiments.models.building import Model, build
from mupkit import init

Stages = tuple[int, int, int, int]


@dataclass(frozen=True)
class WideResNetShape:
    """The dimensions that scale.

    Args:
        stem: channels after the first convolution.
        inner: channels of the 3x3 convolutions of each stage.
        outer: channels of the residual stream of each stage.
    """

    stem: int
    inner: Stages
    outer: Stages

    @classmethod
    def of(cls, width_mult: float) -> WideResNetShape:
        """WRN-50-2's channels times a width multiplier, which must leave whole numbers."""
        stem = 64 * width_mult
        if stem < 1 or stem != int(stem):
            raise ValueError(f"the width multiplier {width_mult} gives {stem} channels")
        c = int(stem)
        return cls(c, (2 * c, 4 * c, 8 * c, 16 * c), (4 * c, 8 * c, 16 * c, 32 * c))

    def all_different(self) -> WideResNetShape:
        """A shape that shares no dimension with this one."""
        i, o = self.inner, self.outer
        return WideResNetShape(
            self.stem + 1,
            (i[0] + 1, i[1] + 1, i[2] + 1, i[3] + 1),
            (o[0] + 1, o[1] + 1, o[2] + 1, o[3] + 1),
        )


@dataclass(frozen=True)
class WideResNetOptions:
    """What does not scale with width; multiplier and std are hyperparameters that transfer.

    Args:
        classes: number of outputs.
        in_channels: of an image.
        blocks: of each stage; WRN-50-2's by default.
        small_images: a 3x3 stem that keeps the size and no pooling after it, for 64 x 64 images,
            instead of a 7x7 one with stride 2 and pooling for 224 x 224.
        output_mult: multiplies the output.
        init_std: of all weights, times 1/sqrt(fan_in).
        zero_readout: the readout starts at zero.
        zero_gain: the gain of each block's last normalization starts at zero, so that blocks start
            as the identity.
    """

    classes: int = 1000
    in_channels: int = 3
    blocks: Stages = (3, 4, 6, 3)
    small_images: bool = False
    output_mult: float = 1.0
    init_std: float = 1.0
    zero_readout: bool = True
    zero_gain: bool = False


class ConvNorm(nn.Module):
    """A convolution and batch normalization."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(
            fan_in, fan_out, kernel, stride=stride, padding=kernel // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(fan_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.norm(self.conv(x_BCHW))
        return y_BCHW


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut, the identity or a 1x1 convolution."""

    def __init__(self, fan_in: int, inner: int, outer: int, stride: int, project: bool):
        super().__init__()
        self.down = ConvNorm(fan_in, inner, 1)
        self.middle = ConvNorm(inner, inner, 3, stride)
        self.up = ConvNorm(inner, outer, 1)
        self.shortcut = ConvNorm(fan_in, outer, 1, stride) if project else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = F.relu(self.down(x_BCHW), inplace=True)
        y_BCHW = F.relu(self.middle(y_BCHW), inplace=True)
        return F.relu(self.up(y_BCHW) + self.shortcut(x_BCHW), inplace=True)


class WideResNet(Model):
    """Build it with `build_wide_resnet`, which parametrizes it.

    Source: Tensor Programs V, Appendix G.1.2; the model is WRN-50-2-bottleneck of Zagoruyko and
    Komodakis 2016 (arXiv:1605.07146), with the parameters of torchvision's wide_resnet50_2.
    """

    def __init__(self, shape: WideResNetShape, options: WideResNetOptions):
        super().__init__()
        self.options = options
        small = options.small_images
        self.stem = ConvNorm(options.in_channels, shape.stem, 3 if small else 7, 1 if small else 2)
        blocks, fan_in = [], shape.stem
        stages = zip(shape.inner, shape.outer, options.blocks, strict=True)
        for stage, (inner, outer, depth) in enumerate(stages):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(Bottleneck(fan_in, inner, outer, stride, project=not block))
                fan_in = outer
        self.blocks = nn.Sequential(*blocks)
        self.readout = mupkit.MuReadout(fan_in, options.classes, output_mult=options.output_mult)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        x_BCHW = F.relu(self.stem(images_BCHW), inplace=True)
        if not self.options.small_images:
            x_BCHW = F.max_pool2d(x_BCHW, 3, stride=2, padding=1)
        x_BD = F.adaptive_avg_pool2d(self.blocks(x_BCHW), 1).flatten(1)
        logits_BK: Tensor = self.readout(x_BD)
        return logits_BK

    @torch.no_grad()
    def init_weights(self) -> None:
        """Gaussian weights of std init_std/sqrt(fan_in) under the rules; gains 1, biases 0."""
        for name, p in self.named_parameters():
            if self._starts_at_zero(name):
                init.zeros_(p)
            elif name.endswith("norm.weight"):
                init.ones_(p)
            else:
                init.fan_in_normal_(p, self.options.init_std)

    def _starts_at_zero(self, name: str) -> bool:
        return (
            name.endswith("bias")
            or (name == "readout.weight" and self.options.zero_readout)
            or (name.endswith("up.norm.weight") and self.options.zero_gain)
        )


def build_wide_resnet(
    shape: WideResNetShape, options: WideResNetOptions, base: WideResNetShape | None
) -> WideResNet:
    """A parametrized and initialized wide ResNet.

    Args:
        shape: its channels.
        options: everything else.
        base: the channels at which µP equals SP; None for SP.
    """
    return build(lambda shape: WideResNet(shape, options), shape, base)
