"""MLPs on CIFAR-10: what is trained and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from experiments.data.image_source import CIFAR10_SOURCES, SHAPES, choose_cifar10
from experiments.declare.claims import Claim
from experiments.declare.config import RunConfig
from experiments.declare.family import Family
from experiments.declare.layout import MARKS
from experiments.declare.product import Animation, Figure
from experiments.declare.references import Call, Reference
from experiments.declare.scales import Scale
from experiments.declare.statements import (
    LANDSCAPES,
    beats_sp,
    does_not_transfer,
    falls,
    keeps_gain,
    loses_gain,
    stays,
    transfers,
    wider_is_better,
)
from experiments.declare.sweep import Override, Sweep
from experiments.errors import UserError

FIGURES = f"{__package__}.figures"


class MlpConfig(RunConfig):
    """Two hidden layers of one width."""

    task: ClassVar[str] = f"{__package__}.task:ImageRegression"
    overhead: ClassVar[float] = 0.0005
    idle_in_sweeps: ClassVar[frozenset[str]] = frozenset({"t"})
    of_model: ClassVar[frozenset[str] | None] = frozenset(
        {"input_mult", "output_mult", "init_std", "zero_readout", "t"}
    )

    images: int | None = Field(None, gt=0, description="training images (all)")
    loss: Literal["xent", "mse"] = Field("xent", description="cross-entropy or squared error")
    activation: Literal["relu", "tanh"] = Field("relu", description="of the hidden layers")
    bias: bool = Field(False, description="biases in the hidden layers")
    input_mult: float = Field(1.0, gt=0, description="factor of the input layer's rate")
    output_mult: float = Field(1.0, gt=0, description="multiplier of the output")
    init_std: float = Field(1.0, gt=0, description="std of weights, times 1/sqrt(fan_in)")
    zero_readout: bool = Field(True, description="readout starts at zero")
    t: float = Field(1.0, ge=0, le=2, description="exponents of width from SP (0) to µP (1)")

    def canonical(self) -> dict[str, Any]:
        values = super().canonical()
        if self.parametrization == "sp" or self.t == 0:
            values["parametrization"] = "sp"
            for key in ("t", "base_width"):
                values.pop(key, None)
        return values

    def idle(self) -> dict[str, str]:
        found = super().idle()
        if self.parametrization == "sp":
            found["t"] = "parametrization=sp"
        elif self.t == 0:
            found["base_width"] = "t=0"
        elif self.width == self.base_width:
            found["t"] = f"width={self.width}, at which SP and µP are equal"
        return found

    def narrowed(self, width: int) -> Self:
        """As of any run, t = 0 being SP; between SP and µP no narrow run behaves as a wide one."""
        if self.parametrization == "sp" or self.t == 0:
            return super().narrowed(width).replace(base_width=self.width, t=1.0)
        if self.t != 1:
            raise UserError(
                f"{self.family}: t: {self.t:g} cannot be replayed narrow; give --t 0 or --t 1"
            )
        return super().narrowed(width)

    def describe(self) -> str:
        between = f" t {self.t:g}" if self.parametrization == "mup" and self.t != 1 else ""
        return f"{self.activation} {self.loss}{between} {super().describe()}"

    def model(self) -> Reference:
        d_in, classes = SHAPES[self.data]
        return Call(f"{__package__}.task:build", {"d_in": d_in, "classes": classes})

    def flops(self) -> float:
        """Training FLOPs: 6 for each weight and image, but the first layer passes nothing back."""
        d_in, classes = SHAPES[self.data]
        weights = 4 * d_in * self.width + 6 * (self.width**2 + self.width * classes)
        return float(weights * self.batch_size * self.steps)


# The paper's Section 3 and Fig. 3: SGD, 20 epochs of 781 steps. It does not give the multipliers:
# those of its authors' example (github.com/microsoft/mup, examples/MLP), by activation and loss.
PAPER: dict[str, Any] = {
    "base_width": 128,
    "steps": 15620,
    "batch_size": 64,
    "optimizer": "sgd",
}
SMALL: dict[str, Any] = {"base_width": 64}
EPOCH = 781  # steps
SMOKE: dict[str, Any] = {"base_width": 8, "steps": 6, "batch_size": 16, "images": 64}
RELU = {"activation": "relu", "loss": "xent", "input_mult": 2.0**-8, "output_mult": 2.0**5}
TANH = {"activation": "tanh", "loss": "xent", "input_mult": 2.0**-3, "output_mult": 2.0**5}
TANH_MSE = {"activation": "tanh", "loss": "mse", "input_mult": 2.0**3, "output_mult": 2.0**-3}

WIDTHS: dict[Scale, tuple[int, ...]] = {
    "paper": (256, 512, 1024, 2048, 4096, 8192),
    "gpu": (128, 512, 2048),
    "small": (64, 256, 1024),
    "smoke": (8, 16),
}
# The seeds 0 and 1 suggested some claims, so that others judge them.
FIRST: Sequence[int] = (0, 1)
UNSEEN: Sequence[int] = (2, 3)
Rates = dict[Scale, tuple[int, ...]]


def sweep(
    name: str,
    options: dict[str, Any],
    rates: Rates,
    epochs: int = 1,
    seeds: Sequence[int] = UNSEEN,
    **grid: Sequence[Any],
) -> Sweep:
    """Learning rates over widths, with options of the model, at all scales.

    `epochs` are those at the scales `gpu` and `small`, `seeds` those at `small`.
    """
    at_scale: dict[Scale, int | Sequence[int]] = {"paper": 5, "gpu": 5, "small": seeds, "smoke": 2}
    base: dict[Scale, dict[str, Any]] = {
        "paper": {**PAPER, **options},
        "gpu": {**SMALL, "steps": epochs * EPOCH},
        "small": {**SMALL, "steps": epochs * EPOCH},
        "smoke": SMOKE,
    }

    def at(scale: Scale) -> Override:
        axes = {**grid, "width": WIDTHS[scale], "log2lr": rates[scale]}
        return Override(base[scale], axes, seeds=at_scale[scale])

    return Sweep.by_scale(name, MlpConfig, at)


BOTH = ("sp", "mup")


def rates(highest: int, octaves: int = 8) -> Rates:
    """log2 rates up to one at which the base model diverges or is far past its best.

    At `gpu` and `small` over so many octaves: SP's best rate falls with width.
    """
    return {
        "paper": tuple(range(highest - 19, highest + 1)),
        "gpu": tuple(range(highest - octaves, highest + 1)),
        "small": tuple(range(highest - octaves, highest + 1)),
        "smoke": (highest - 6, highest - 4, highest - 2),
    }


RELU_RATES, TANH_RATES, TANH_MSE_RATES = rates(-2), rates(-5, octaves=12), rates(2)
WIDE_RATES = rates(-2, octaves=12)
WIDTH_LR = sweep("mlp_width_lr", RELU, WIDE_RATES, epochs=2, parametrization=BOTH)
TANH_XENT = sweep("mlp_tanh_xent", TANH, TANH_RATES, seeds=FIRST, parametrization=BOTH)
TANH_SQUARED = sweep("mlp_tanh_mse", TANH_MSE, TANH_MSE_RATES, seeds=FIRST, parametrization=BOTH)
WIDTH_LR_SHORT = sweep("mlp_width_lr_short", RELU, WIDE_RATES, seeds=FIRST, parametrization=BOTH)
BETWEEN = (0.25, 0.5, 0.75, 1.25, 1.5)
INTERPOLATION = sweep("mlp_interpolation", RELU, WIDE_RATES, seeds=FIRST, t=BETWEEN)

FIG3 = Figure(
    name="fig3",
    title="Learning rate across width of an MLP: standard parametrization against µP",
    caption=(
        "Training loss against the learning rate of MLPs with two hidden layers of several "
        "widths, ReLU, cross-entropy, trained with SGD on CIFAR-10. The dashed line is the lowest "
        f"loss of any µP model, drawn in both panels. {MARKS}"
    ),
    source="Figure 3; set-up in Sections 3 and 4",
    sweeps=(WIDTH_LR,),
    draw=f"{LANDSCAPES}:draw_pair",
    claims=(
        stays(
            "Section 4, Fig. 3 right",
            paper="0 grid steps: the best rate is the same from width 128 to 8192 (Section 4)",
        ),
        falls(
            "Section 3, Fig. 3 left",
            0.33,
            remark=", half of what the paper's figure shows",
            paper="about -0.66 octaves per doubling: an order of magnitude from width 256 to 8192 "
            "(Section 3)",
        ),
        wider_is_better("Section 4, Fig. 3 right"),
        beats_sp("Section 4, Fig. 3"),
        transfers(
            "Section 4, Fig. 3 right",
            paper="0 nats: the best rate is the same from width 128 to 8192 (Section 4)",
        ),
        does_not_transfer("Section 3, Fig. 3 left"),
        keeps_gain("Section 4, Fig. 3 right"),
        loses_gain("Section 3, Fig. 3 left"),
    ),
)

FIG9 = Figure(
    name="fig9",
    title="Learning rate across width of an MLP with tanh: standard parametrization against µP",
    caption=(
        "As Figure 3 with tanh instead of ReLU: cross-entropy on the left, squared error on the "
        f"right, SP beside µP. {MARKS}"
    ),
    source="Figure 9; Appendix D.3",
    sweeps=(TANH_XENT, TANH_SQUARED, WIDTH_LR_SHORT),
    draw=f"{FIGURES}:draw_fig9",
    claims=(
        beats_sp(
            "Appendix D.3, Fig. 9 left",
            id="mup-beats-sp-cross-entropy",
            measure=Call(f"{FIGURES}:mup_minus_sp", {"activation": "tanh", "loss": "xent"}),
            statement="With cross-entropy the widest µP model is not worse than the widest SP one",
        ),
        beats_sp(
            "Appendix D.3, Fig. 9 right",
            id="mup-beats-sp-squared-error",
            measure=Call(f"{FIGURES}:mup_minus_sp", {"activation": "tanh", "loss": "mse"}),
            statement="With squared error the widest µP model is not worse than the widest SP one",
            unit="squared error",
        ),
        Claim(
            id="tanh-converges-more-slowly",
            statement=(
                "With tanh the µP curves still change with width where those of ReLU change less: "
                "the last widening changes them by a larger share of the first one"
            ),
            source="Appendix D.3, Fig. 9",
            measure=f"{FIGURES}:slower_convergence",
            relation=">=",
            threshold=0.0,
            unit="difference of shares",
        ),
    ),
)

EPOCHS = 5
FIG9_LONG = replace(
    FIG9,
    name="fig9_long",
    title=f"Learning rate across width of an MLP with tanh and squared error after {EPOCHS} epochs",
    caption=f"As Figure 9 with squared error, after {EPOCHS} epochs at the scale small.",
    source="Figure 9 right; Appendix D.3",
    sweeps=(
        sweep("mlp_tanh_mse_long", TANH_MSE, TANH_MSE_RATES, epochs=EPOCHS, parametrization=BOTH),
    ),
    draw=f"{FIGURES}:draw_squared_error",
    claims=tuple(claim for claim in FIG9.claims if claim.id == "mup-beats-sp-squared-error"),
)

LITTLE = 0.02  # nats
BETWEEN_SP_AND_MUP = (WIDTH_LR_SHORT, INTERPOLATION)
POST_ANIMATION = Animation(
    name="post_animation",
    title="From the standard parametrization to µP",
    caption=(
        "Training loss against the learning rate over widths, while the exponents of width in "
        "initialization and learning rates go from SP (t = 0) to µP (t = 1) and "
        f"beyond. {MARKS}"
    ),
    draw=f"{FIGURES}:draw_frames",
    animate=f"{FIGURES}:animate",
    frames=f"{FIGURES}:by_t",
    source="the animation",
    work="the announcement post",
    sweeps=BETWEEN_SP_AND_MUP,
)
# What the post says of the animation beside where the best rate stays.
OF_THE_POST = (
    Claim(
        id="widest-is-best-at-mup",
        statement="The widest model at its best is not worse with µP than at any other t",
        source="the post, animation",
        paper="0 nats: µP is best for the model of width 8192 (the post, on its animation)",
        measure=f"{FIGURES}:widest_above_least",
        relation="<=",
        threshold=0.0,
        unit="nats",
    ),
    Claim(
        id="curves-do-not-cross-at-mup",
        statement=(
            "With µP, at every learning rate with which the narrowest model trains, wider is not "
            "worse beyond seed noise"
        ),
        source="the post, animation",
        paper="none: the curves do not intersect (the post, on its animation)",
        measure=f"{FIGURES}:crossing",
        relation="<=",
        threshold=1.0,
        unit="of what seed noise allows",
        decided_by="value",
    ),
)
POST_INTERPOLATION = Figure(
    name="post_interpolation",
    title="Drift and regret of the best learning rate between SP and µP",
    caption=(
        "Left: octaves by which the best learning rate moves per doubling of the width, against "
        "the interpolation t from SP (0) to µP (1) and beyond. Right: what the narrowest model's "
        "best learning rate costs the widest; crosses above where it diverged. Bars: interval "
        "over seeds."
    ),
    draw=f"{FIGURES}:draw_interpolation",
    claims=(
        Claim(
            id="drift-vanishes-at-mup",
            statement="The t at which the best learning rate stands still is 1 to within a quarter",
            source="the post, animation",
            paper="0: only µP keeps the best rate (the post, on its animation)",
            measure=f"{FIGURES}:still_at",
            relation="<=",
            threshold=0.25,
            unit="distance from t = 1",
        ),
        Claim(
            id="regret-least-at-mup",
            statement=f"No other t has a lower regret than µP by more than {LITTLE:g} nats",
            source="the post, animation",
            paper="0 nats: only µP keeps the best rate (the post, on its animation)",
            measure=f"{FIGURES}:regret_above_least",
            relation="<=",
            threshold=LITTLE,
            unit="nats",
        ),
    ),
    source="the animation",
    work="the announcement post",
    sweeps=BETWEEN_SP_AND_MUP,
)
POST_INTERPOLATION_LONG = replace(
    POST_INTERPOLATION,
    name="post_interpolation_long",
    title=f"From µP on: learning rate across width after {EPOCHS} epochs",
    caption=(
        f"As the post's animation, from µP (t = 1) on and after {EPOCHS} epochs at the scale small."
    ),
    draw=f"{FIGURES}:draw_frames",
    claims=OF_THE_POST,
    sweeps=(
        sweep("mlp_interpolation_long", RELU, RELU_RATES, epochs=EPOCHS, t=(1.0, *BETWEEN[-2:])),
    ),
)

FAMILY = Family(
    title="MLP on CIFAR-10",
    config=MlpConfig,
    example={**PAPER, **SMALL, **RELU, "steps": EPOCH, "width": 256, "log2lr": -5.0},
    base_from={
        "gpu": "base hyperparameters of the authors' example (microsoft/mup, examples/MLP)",
        "paper": "base hyperparameters of the authors' example (microsoft/mup, examples/MLP)",
    },
    data_sources=CIFAR10_SOURCES,
    choose_data=choose_cifar10,
    figures=(FIG3, FIG9, FIG9_LONG, POST_ANIMATION, POST_INTERPOLATION, POST_INTERPOLATION_LONG),
)
