"""Wide ResNet on ImageNet: what is trained and shown."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import Field

from experiments.data.image_source import IMAGENET_SOURCES, SHAPES, choose_imagenet
from experiments.declare.config import RunConfig
from experiments.declare.family import Family
from experiments.declare.product import Table
from experiments.declare.references import Call, Reference
from experiments.declare.scales import Scale
from experiments.declare.statements import searched_beats_sp
from experiments.declare.sweep import Override, Sweep, draw_points

FIGURES = f"{__package__}.figures"
BLOCKS = (3, 4, 6, 3)


class WideResNetConfig(RunConfig):
    """WRN-50-2-bottleneck; `width` is the channels after the first convolution, 64 at 1x."""

    task: ClassVar[str] = f"{__package__}.task:Classification"
    overhead: ClassVar[float] = 0.08
    of_model: ClassVar[frozenset[str] | None] = frozenset(
        {"output_mult", "init_std", "zero_readout"}
    )

    images: int | None = Field(None, gt=0, description="training images (all)")
    output_mult: float = Field(1.0, gt=0, description="multiplier of the output")
    init_std: float = Field(1.0, gt=0, description="std of weights, times 1/sqrt(fan_in)")
    zero_readout: bool = Field(True, description="readout starts at zero")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the training loss")

    def model(self) -> Reference:
        return Call(f"{__package__}.task:build", {"classes": SHAPES[self.data][1]})

    def flops(self) -> float:
        """Training FLOPs: 6 for each weight of a convolution, pixel and image."""
        inputs, classes = SHAPES[self.data]
        stem, pixels = self.width, inputs / 3
        total, fan_in = 3 * 49 * stem * pixels / 4, stem
        for stage, blocks in enumerate(BLOCKS):
            inner, outer = 2 * stem * 2**stage, 4 * stem * 2**stage
            area = pixels / 16 / 4**stage
            rest = blocks - 1
            first = fan_in * inner * (4 if stage else 1) + 9 * inner**2 + inner * outer
            total += area * (first + fan_in * outer)  # its shortcut is projected
            total += area * rest * (2 * inner * outer + 9 * inner**2)
            fan_in = outer
        return 6.0 * (total + fan_in * classes) * self.batch_size * self.steps


# Appendix G.1.2: SGD, 50 epochs, standard augmentation; batch, warm-up, schedule and smoothing are
# those of the training whose hyperparameters the paper's grid is centred on (2,048 images a step).
PAPER: dict[str, Any] = {
    "base_width": 8,
    "width": 8,
    "steps": 31_250,
    "batch_size": 2048,
    "optimizer": "sgd",
    "schedule": "cosine",
    "warmup": 5_000,
    "label_smoothing": 0.1,
}
SMALL: dict[str, Any] = {"steps": 300, "batch_size": 64, "warmup": 48, "images": 10_000}
SMOKE: dict[str, Any] = {
    "base_width": 2,
    "width": 2,
    "steps": 3,
    "batch_size": 8,
    "warmup": 2,
    "images": 32,
}
CENTRE = math.log2(2.048)
SPACE = {
    "log2lr": tuple(CENTRE + z for z in range(-5, 5)),
    "output_mult": tuple(10 * 2.0**z for z in range(-5, 5)),
    "weight_decay": tuple(3.05e-5 * 2 ** (z / 2) for z in range(-4, 4)),
    # The paper's grid goes on to 0.875 x 2^1.5; a momentum of 1 and above is none.
    "momentum": tuple(0.875 * 2 ** (z / 2) for z in range(-4, 1)),
}
# The same grid around the rate that the smaller batch asks for, in proportion.
SMALL_SPACE = {**SPACE, "log2lr": tuple(CENTRE - 5 + z for z in range(-5, 5))}
SMOKE_SPACE = {**SPACE, "log2lr": (-14.0, -13.0)}
KEYS = tuple(SPACE)
TARGET: dict[Scale, int] = {"paper": 64, "gpu": 64, "small": 32, "smoke": 4}
TARGET_SEEDS: dict[Scale, int] = {"paper": 1, "gpu": 5, "small": 2, "smoke": 2}

PROXY = Sweep(
    name="wide_resnet_proxy",
    config=WideResNetConfig,
    base=PAPER,
    grid={},
    seeds=1,
    points=draw_points(SPACE, 64, seed=0),
    scales={
        "gpu": Override(SMALL, points=draw_points(SMALL_SPACE, 64, seed=0)),
        "small": Override(SMALL, points=draw_points(SMALL_SPACE, 16, seed=0)),
        "smoke": Override(SMOKE, points=draw_points(SMOKE_SPACE, 2, seed=0)),
    },
)
TABLE13 = Table(
    name="table13",
    title="Wide ResNet on ImageNet: a narrow model's hyperparameters carried to a wide one",
    caption=(
        "Random search of learning rate, output multiplier, weight decay and momentum at a narrow "
        "width, where SP and µP are equal, by validation accuracy; the best combination is run at "
        "the wide one in both."
    ),
    source="Table 13; Appendix G.1.2",
    sweeps=(PROXY,),
    follow_up=f"{FIGURES}:carry",
    render=f"{FIGURES}:render_table13",
    claims=(
        searched_beats_sp(
            "Appendix G.1.2, Table 13",
            measure=f"{FIGURES}:mup_above_sp",
            paper="0.41 percentage points: 77.16 % in µP, 76.75 % in SP (Table 13)",
        ),
    ),
)

FAMILY = Family(
    title="Wide ResNet on ImageNet",
    config=WideResNetConfig,
    example={
        **PAPER,
        **SMALL,
        "log2lr": CENTRE - 5,
        "output_mult": 10.0,
        "weight_decay": 3.05e-5,
        "momentum": 0.875,
    },
    base_from={
        "gpu": "hyperparameters of its own search, in small's space",
        "paper": "hyperparameters of the search of Appendix G.1.2",
    },
    data_sources=IMAGENET_SOURCES,
    choose_data=choose_imagenet,
    tables=(TABLE13,),
)
