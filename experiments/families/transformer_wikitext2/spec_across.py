"""Figs. 4, 13, 17, 18, 19: hyperparameters across width, depth, batch size, length and steps.

Each panel of a figure is a sweep of one hyperparameter and one dimension, everything else at its
usual value; where two panels or figures meet they share their runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.declare.claims import Claim
from experiments.declare.layout import MARKS, Layout
from experiments.declare.product import Figure
from experiments.declare.references import Call
from experiments.declare.scales import SCALES, Scale
from experiments.declare.schedules import SCHEDULES
from experiments.declare.statements import (
    does_not_transfer,
    keeps_gain,
    loses_gain,
    transfers,
)
from experiments.declare.sweep import Override, Sweep
from experiments.families.transformer_wikitext2.config import BASE, LOG2LR, TransformerConfig

FIGURES = f"{__package__}.figures"

# The caption of Fig. 4: width 256, depth 2, batch 20, length 256, 10,000 steps, base width 128.
USUAL_AT: dict[Scale, dict[str, Any]] = {
    "paper": {**BASE["paper"], "log2lr": LOG2LR["paper"], "width": 256, "steps": 10_000},
    "gpu": {**BASE["gpu"], "log2lr": LOG2LR["gpu"], "width": 256},
    "small": {**BASE["small"], "log2lr": LOG2LR["small"], "width": 64},
    "smoke": {**BASE["smoke"], "log2lr": LOG2LR["smoke"], "width": 16},
}
Seeds = Mapping[Scale, int | Sequence[int]]
FIRST: Seeds = {"paper": 5, "gpu": 5, "small": 2, "smoke": 2}
# Kept gain was first looked at on the seeds 0 and 1, so that others judge it. Of SP in Fig. 18, the
# seeds 2 and 3 showed which hyperparameter has a gain to lose.
SEEDS: Seeds = {"paper": 5, "gpu": 5, "small": (2, 3), "smoke": 2}
WIDE_SEEDS: Seeds = {"paper": 5, "gpu": 5, "small": (4, 5), "smoke": 2}


def around(key: str, steps: Mapping[Scale, range]) -> dict[Scale, tuple[float, ...]]:
    """A hyperparameter's usual value times powers of two."""
    return {
        scale: tuple(BASE[scale].get(key, 1.0) * 2.0**k for k in ks) for scale, ks in steps.items()
    }


FACTORS: dict[Scale, range] = {
    "paper": range(-5, 6),
    "gpu": range(-2, 3),
    "small": range(-2, 3),
    "smoke": range(-1, 1),
}
VALUES: dict[str, dict[Scale, tuple[Any, ...]]] = {
    "log2lr": {
        "paper": tuple(range(-20, -5)),
        "gpu": tuple(range(-13, -4)),  # SP's best rate falls with width
        "small": (-9, -8, -7, -6, -5),
        "smoke": (-8, -7),
    },
    "output_mult": around("output_mult", FACTORS),
    "attn_mult": around("attn_mult", FACTORS),
    "init_std": around("init_std", FACTORS),
    "schedule": {**dict.fromkeys(SCALES, SCHEDULES), "smoke": ("linear", "constant")},
    "beta2": {
        "paper": tuple(1 - 2.0**-k for k in range(2, 13)),
        "gpu": (0.9, 0.97, 0.99, 0.997, 0.999),
        "small": (0.9, 0.97, 0.99, 0.997, 0.999),
        "smoke": (0.99, 0.999),
    },
}
SIZES: dict[str, Mapping[Scale, tuple[int, ...]]] = {
    "width": {
        "paper": (128, 256, 512, 1024, 2048, 4096),
        "gpu": (128, 256, 512, 1024),
        "small": (32, 64, 128),
        "smoke": (16, 32),
    },
    "n_layer": {
        "paper": (2, 4, 8, 16, 32),
        "gpu": (2, 4, 8, 16),
        "small": (2, 4, 8),
        "smoke": (2, 3),
    },
    "batch_size": {
        "paper": (20, 32, 64, 128),
        "gpu": (8, 16, 32, 64),
        "small": (8, 16, 32),
        "smoke": (2, 4),
    },
    "seq_len": {
        "paper": (64, 128, 256, 512),
        "gpu": (32, 64, 128, 256),
        "small": (32, 64, 128),
        "smoke": (8, 16),
    },
    "steps": {
        "paper": (2_500, 5_000, 10_000, 20_000),
        "gpu": (125, 250, 500),
        "small": (125, 250, 500),
        "smoke": (3, 6),
    },
}


@dataclass(frozen=True)
class Panels(Layout):
    """A layout whose every panel is a sweep of the Transformer, with `base` values.

    `sizes` has those of a dimension at some scales, where they are not the usual ones.
    """

    name: str
    base: Mapping[str, Any]
    seeds: Seeds = field(default_factory=lambda: SEEDS)
    sizes: Mapping[str, Mapping[Scale, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def sweeps(self) -> tuple[Sweep, ...]:
        """One for each hyperparameter and dimension; of both parametrizations if there are two."""
        dimensions = dict.fromkeys(along for _, along in self.rows)
        return tuple(self._sweep(key, along) for along in dimensions for key in self.keys)

    def _sweep(self, key: str, along: str) -> Sweep:
        sizes = {**SIZES[along], **self.sizes.get(along, {})}

        def at(scale: Scale) -> Override:
            grid = {
                "parametrization": tuple(p for p, dimension in self.rows if dimension == along),
                along: sizes[scale],
                key: VALUES[key][scale],
            }
            return Override({**USUAL_AT[scale], **self.base}, grid, seeds=self.seeds[scale])

        return Sweep.by_scale(f"{self.name}_{key}_{along}", TransformerConfig, at)


MUP_WIDTH, MUP_DEPTH = ("mup", "width"), ("mup", "n_layer")
PRE: dict[str, Any] = {"norm": "pre"}
PRE_KEYS = ("log2lr", "output_mult", "init_std", "schedule")
FOUR = "learning rate, output multiplier, std of initialization and learning-rate schedule"

PANELS4 = Panels(PRE_KEYS, (MUP_WIDTH, MUP_DEPTH), "fig4", PRE)
FIG4 = Figure(
    name="fig4",
    title="Four hyperparameters across width and depth, in µP",
    caption=(
        f"Training loss of pre-layernorm Transformers in µP against {FOUR}, one at a time, across "
        f"width and depth. Schedules: linear decay, two step decays, cosine, constant, inverse "
        f"square root. {MARKS}"
    ),
    source="Figure 4; Section 6.1; the announcement post, Figure 3",
    sweeps=PANELS4.sweeps,
    draw=PANELS4.draw(),
    claims=(
        PANELS4.transfers(
            "Section 6.1, Fig. 4 top",
            "Across width, for each of the four hyperparameters",
            id="transfers-across-width",
            row=MUP_WIDTH,
        ),
        PANELS4.transfers(
            "Section 6.1, Fig. 4 bottom",
            "Across depth, for learning rate, output multiplier and schedule",
            id="transfers-across-depth",
            row=MUP_DEPTH,
            keys=("log2lr", "output_mult", "schedule"),
        ),
        PANELS4.keeps_gain(
            "Section 6.1, Fig. 4 top",
            "Across width, for each of the four hyperparameters",
            id="keeps-gain-across-width",
            row=MUP_WIDTH,
        ),
        PANELS4.keeps_gain(
            "Section 6.1, Fig. 4 bottom",
            "Across depth, for learning rate, output multiplier and schedule",
            id="keeps-gain-across-depth",
            row=MUP_DEPTH,
            keys=("log2lr", "output_mult", "schedule"),
        ),
        Claim(
            id="init-std-less-across-depth",
            statement="The std of initialization transfers worse across depth than across width",
            source="Section 6.1, Fig. 4, second row, third column",
            measure=f"{FIGURES}:fig4_std_depth_against_width",
            relation=">=",
            threshold=0.0,
            unit="nats of regret",
        ),
    ),
)

DEPTH_KEYS = ("log2lr", "init_std")
DEPTH_MUP = Figure(
    name="depth_mup",
    title="The std of initialization across depth, with depth-µP",
    caption=(
        "Training loss of pre-layernorm Transformers in µP against learning rate and std of "
        "initialization across depth: as in Figure 4, and with depth-µP, where residual branches "
        f"and Adam's rates inside them fall as one over the root of the depth. {MARKS}"
    ),
    source="the depth row of Figure 4, with depth-µP of Tensor Programs VI (arXiv:2310.02244), "
    "Table 1",
    work="",
    sweeps=(
        *Panels(DEPTH_KEYS, (MUP_DEPTH,), "depth", PRE, FIRST).sweeps,
        *Panels(DEPTH_KEYS, (MUP_DEPTH,), "depth_mup", {**PRE, "base_n_layer": 2}, FIRST).sweeps,
    ),
    draw=f"{FIGURES}:draw_depth_mup",
    claims=(
        transfers(
            "Tensor Programs VI, Section 1",
            "With depth-µP, across depth, for learning rate and std of initialization",
            id="transfers-across-depth",
            measure=f"{FIGURES}:depth_mup_regret",
        ),
        Claim(
            id="mends-init-std",
            statement="The std of initialization transfers across depth no worse with depth-µP",
            source="Tensor Programs VI, Section 1",
            measure=f"{FIGURES}:depth_mup_gain",
            relation=">=",
            threshold=0.0,
            unit="nats of regret",
        ),
    ),
)


STD = ("init_std",)
DEPTHS = (2, 4, 8, 16, 32)
DEEP: dict[str, dict[Scale, tuple[int, ...]]] = {"n_layer": {"gpu": DEPTHS, "small": DEPTHS}}
DEPTH_MUP_DEEP = Figure(
    name="depth_mup_deep",
    title="The std of initialization to the paper's depth, with depth-µP",
    caption=(
        "Training loss of pre-layernorm Transformers in µP against the std of initialization "
        "across depth to 32 blocks, without depth-µP (top) and with it (bottom). "
        f"{MARKS}"
    ),
    source="the depth row of Figure 4, with depth-µP of Tensor Programs VI (arXiv:2310.02244), "
    "Table 1",
    work="",
    sweeps=(
        *Panels(STD, (MUP_DEPTH,), "deep", PRE, sizes=DEEP).sweeps,
        *Panels(STD, (MUP_DEPTH,), "deep_mup", {**PRE, "base_n_layer": 2}, sizes=DEEP).sweeps,
    ),
    draw=Call(f"{FIGURES}:draw_depth_mup", {"keys": STD}),
    claims=(
        does_not_transfer(
            "Section 6.1, Fig. 4, second row, third column",
            "Without depth-µP, the best std of initialization at depth 2 costs the deepest model",
            id="init-std-does-not-transfer",
            measure=Call(f"{FIGURES}:depth_mup_regret", {"parametrization": "mup", "keys": STD}),
        ),
        transfers(
            "Tensor Programs VI, Section 1",
            "With depth-µP, across depth, for the std of initialization",
            id="transfers-across-depth",
            measure=Call(f"{FIGURES}:depth_mup_regret", {"keys": STD}),
        ),
        keeps_gain(
            "Tensor Programs VI, Section 1",
            "With depth-µP, across depth, for the std of initialization",
            id="keeps-gain-across-depth",
            measure=Call(f"{FIGURES}:depth_mup_kept_gain", {"keys": STD}),
        ),
        replace(DEPTH_MUP.claims[1], measure=Call(f"{FIGURES}:depth_mup_gain", {"keys": STD})),
    ),
)


def across(panels: Panels, dimensions: Mapping[str, str], source: str) -> tuple[Claim, ...]:
    """That all four hyperparameters transfer across each of the dimensions."""
    return tuple(
        claim(
            source,
            f"Across {what}, for each of the four hyperparameters",
            id=f"{verb}-across-{along.replace('_', '-')}",
            row=("mup", along),
        )
        for along, what in dimensions.items()
        for verb, claim in (("transfers", panels.transfers), ("keeps-gain", panels.keeps_gain))
    )


ACROSS = {
    "batch_size": "batch size",
    "seq_len": "sequence length",
    "steps": "training steps",
}
TIMES = tuple(("mup", along) for along in ACROSS)
PANELS19 = Panels(PRE_KEYS, TIMES, "fig19", PRE)
FIG19 = Figure(
    name="fig19",
    title="Four hyperparameters across batch size, sequence length and training time, in µP",
    caption=(
        f"Training loss of pre-layernorm Transformers in µP against {FOUR}, one at a time, across "
        f"batch size, sequence length and number of training steps. {MARKS}"
    ),
    source="Figure 19; Appendix G.2.1; the announcement post, Figure 4",
    sweeps=PANELS19.sweeps,
    draw=PANELS19.draw(),
    claims=across(PANELS19, ACROSS, "Appendix G.2.1, Fig. 19"),
)

POST: dict[str, Any] = {"norm": "post"}
POST_KEYS = ("log2lr", "output_mult", "init_std", "beta2")
PANELS17 = Panels(POST_KEYS, (MUP_WIDTH, *TIMES), "fig17", POST)
FIG17 = Figure(
    name="fig17",
    title="Four hyperparameters of post-layernorm Transformers across four dimensions, in µP",
    caption=(
        "Training loss of post-layernorm Transformers in µP against learning rate, output "
        "multiplier, std of initialization and Adam's second decay rate, one at a time, across "
        f"width, batch size, sequence length and number of training steps. {MARKS}"
    ),
    source="Figure 17; Appendix G.2.2",
    sweeps=PANELS17.sweeps,
    draw=PANELS17.draw(),
    claims=across(PANELS17, {"width": "width", **ACROSS}, "Appendix G.2.2, Fig. 17"),
)

MUP_STEPS = ("mup", "steps")
RATE = ("log2lr",)
LONG = (125, 250, 500, 1000, 2000)
PANELS17_STEPS = Panels(
    RATE, (MUP_STEPS,), "fig17_steps", POST, sizes={"steps": {"gpu": LONG, "small": LONG}}
)
FIG17_STEPS = Figure(
    name="fig17_steps",
    title="Learning rate across the number of training steps, in µP",
    caption=(
        "Training loss of post-layernorm Transformers in µP against the learning rate, one curve "
        f"per number of training steps. {MARKS}"
    ),
    source="Figure 17, first column, last row; Appendix G.2.2",
    sweeps=PANELS17_STEPS.sweeps,
    draw=PANELS17_STEPS.draw(),
    claims=(
        PANELS17_STEPS.transfers(
            "Section 6.1; Appendix G.2.2, Fig. 17",
            "Across training steps, for the learning rate",
            id="transfers-across-steps",
            row=MUP_STEPS,
        ),
        PANELS17_STEPS.keeps_gain(
            "Section 6.1; Appendix G.2.2, Fig. 17",
            "Across training steps, for the learning rate",
            id="keeps-gain-across-steps",
            row=MUP_STEPS,
        ),
        Claim(
            id="optimum-falls-with-steps",
            statement=(
                "The best learning rate falls by at least a quarter of an octave per doubling of "
                "the number of steps, on average, against the paper"
            ),
            source="Bjorck et al. (arXiv:2409.19913)",
            measure=PANELS17_STEPS.drift(MUP_STEPS, "log2lr"),
            relation="<=",
            threshold=-0.25,
            unit="octaves per doubling",
            paper="0: the best rate stays from 5,000 steps on (Section 6.1)",
        ),
    ),
)

WIDTH_KEYS = ("log2lr", "output_mult", "attn_mult", "init_std")
SP_WIDTH = ("sp", "width")
PANELS18 = Panels(WIDTH_KEYS, (SP_WIDTH, MUP_WIDTH), "fig18", POST)
FIG18 = Figure(
    name="fig18",
    title="Four hyperparameters across width: standard parametrization against µP",
    caption=(
        "Training loss of post-layernorm Transformers against learning rate, output multiplier, "
        "attention multiplier and std of initialization, one at a time, across width, in SP (top) "
        f"and in µP (bottom). {MARKS}"
    ),
    source="Figure 18; Appendix G.2.3, with the message of Figure 20 on WikiText-2",
    sweeps=PANELS18.sweeps,
    draw=PANELS18.draw(("SP", "µP")),
    claims=(
        PANELS18.transfers(
            "Appendix G.2.3, Fig. 18",
            "In µP, across width, for each of the four hyperparameters",
            id="mup-transfers",
            row=MUP_WIDTH,
        ),
        does_not_transfer(
            "Appendix G.2.3, Figs. 18 and 20",
            "In SP, across width, one of the four hyperparameters costs the largest model",
            measure=PANELS18.regret(SP_WIDTH),
        ),
        PANELS18.keeps_gain(
            "Appendix G.2.3, Fig. 18",
            "In µP, across width, for each of the four hyperparameters",
            id="mup-keeps-gain",
            row=MUP_WIDTH,
        ),
        loses_gain(
            "Appendix G.2.3, Figs. 18 and 20",
            "In SP, across width, for one of the four hyperparameters",
            measure=PANELS18.kept_gain(SP_WIDTH),
        ),
    ),
)
PANELS18_WIDE = replace(
    PANELS18, name="fig18_wide", seeds=WIDE_SEEDS, sizes={"width": {"small": (32, 64, 128, 256)}}
)
FIG18_WIDE = replace(
    FIG18,
    name="fig18_wide",
    title="Four hyperparameters to a larger width: standard parametrization against µP",
    caption=f"As Figure 18, with one more width at the scale small. {FIG18.caption}",
    sweeps=PANELS18_WIDE.sweeps,
    claims=(
        *FIG18.claims[:-1],
        loses_gain(
            "Appendix G.2.3, Figs. 18 and 20",
            "In SP, across width, for the learning rate",
            measure=PANELS18_WIDE.kept_gain(SP_WIDTH, RATE),
        ),
    ),
)

HEADS: dict[Scale, tuple[int, tuple[int, ...]]] = {  # d_head, and numbers of heads
    "paper": (32, (4, 8, 16, 32, 64)),
    "gpu": (8, (4, 16, 64, 256)),
    "small": (8, (4, 8, 16)),
    "smoke": (4, (4, 8)),
}


def fixed_head(key: str) -> Sweep:
    """A hyperparameter across width with d_head fixed: more heads, not larger ones."""

    def at(scale: Scale) -> Override:
        d_head, counts = HEADS[scale]
        base = {"base_n_head": counts[0], "base_d_head": d_head, "base_width": counts[0] * d_head}
        points = [{"n_head": n, "width": n * d_head, "d_head": d_head} for n in counts]
        grid = {key: VALUES[key][scale]}
        return Override({**USUAL_AT[scale], **base}, grid, points, SEEDS[scale])

    return Sweep.by_scale(f"fig13_{key}", TransformerConfig, at)


LAYOUT13 = Layout(WIDTH_KEYS, (MUP_WIDTH,))
FIG13 = Figure(
    name="fig13",
    title="Four hyperparameters across the number of heads, in µP",
    caption=(
        "Training loss of post-layernorm Transformers in µP against learning rate, output "
        "multiplier, attention multiplier and std of initialization, one at a time, across width "
        f"where d_head is fixed and the number of heads grows. {MARKS}"
    ),
    source="Figure 13; Appendix E.2",
    sweeps=tuple(fixed_head(key) for key in WIDTH_KEYS),
    draw=LAYOUT13.draw(),
    claims=(
        LAYOUT13.transfers(
            "Appendix E.2, Fig. 13",
            "With d_head fixed, across width, for each of the four hyperparameters",
            id="transfers-across-heads",
            row=MUP_WIDTH,
        ),
        LAYOUT13.keeps_gain(
            "Appendix E.2, Fig. 13",
            "With d_head fixed, across width, for each of the four hyperparameters",
            id="keeps-gain-across-heads",
            row=MUP_WIDTH,
        ),
    ),
)

ACROSS_FIGURES = (
    FIG4,
    DEPTH_MUP,
    DEPTH_MUP_DEEP,
    FIG13,
    FIG17,
    FIG17_STEPS,
    FIG18,
    FIG18_WIDE,
    FIG19,
)
