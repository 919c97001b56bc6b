"""Figs. 4, 13, 17, 18, 19: hyperparameters across width, depth, batch size, length and steps.

A figure is a grid of panels (`experiments.panels`). Each panel is a sweep of one hyperparameter
and one dimension, everything else at its usual value; where two panels or figures meet they share
their runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.schedules import SCHEDULES
from experiments.spec import Claim, Figure, Override, Scale, Sweep
from experiments.transformer_wikitext2.config import (
    NAME,
    PAPER,
    SMALL,
    SMOKE,
    TransformerConfig,
    tuned,
)

FIGURES = f"experiments.{NAME}.figures"
MOST = 0.05  # nats that a transfer may cost, as in Fig. 1

# The caption of Fig. 4: width 256, depth 2, batch 20, length 256, 10,000 steps, base width 128.
LOG2LR = -7
USUAL: dict[str, Any] = {**PAPER, **tuned(), "log2lr": LOG2LR, "width": 256, "steps": 10_000}
USUAL_AT: dict[Scale, dict[str, Any]] = {
    "small": {**SMALL, "width": 64},
    "smoke": {**SMOKE, "width": 16},
}
SEEDS: dict[Scale, int] = {"paper": 5, "small": 2, "smoke": 2}


def around(key: str, steps: Mapping[Scale, range]) -> dict[Scale, tuple[float, ...]]:
    """A hyperparameter's usual value times powers of two."""
    return {scale: tuple(USUAL.get(key, 1.0) * 2.0**k for k in ks) for scale, ks in steps.items()}


FACTORS: dict[Scale, range] = {"paper": range(-5, 6), "small": range(-2, 3), "smoke": range(-1, 1)}
VALUES: dict[str, dict[Scale, tuple[Any, ...]]] = {
    "log2lr": {
        "paper": tuple(range(-20, -5)),
        "small": tuple(range(LOG2LR - 2, LOG2LR + 3)),
        "smoke": (LOG2LR - 1, LOG2LR),
    },
    "output_mult": around("output_mult", FACTORS),
    "attn_mult": around("attn_mult", FACTORS),
    "init_std": around("init_std", FACTORS),
    "schedule": {"paper": SCHEDULES, "small": SCHEDULES, "smoke": ("linear", "constant")},
    "beta2": {
        "paper": tuple(1 - 2.0**-k for k in range(2, 13)),
        "small": (0.9, 0.97, 0.99, 0.997, 0.999),
        "smoke": (0.99, 0.999),
    },
}
SIZES: dict[str, dict[Scale, tuple[int, ...]]] = {
    "width": {
        "paper": (128, 256, 512, 1024, 2048, 4096),
        "small": (32, 64, 128),
        "smoke": (16, 32),
    },
    "n_layer": {"paper": (2, 4, 8, 16, 32), "small": (2, 4, 8), "smoke": (2, 3)},
    "batch_size": {"paper": (20, 40, 80, 160), "small": (8, 16, 32), "smoke": (2, 4)},
    "seq_len": {"paper": (64, 128, 256, 512), "small": (32, 64, 128), "smoke": (8, 16)},
    "steps": {"paper": (2_500, 5_000, 10_000, 20_000), "small": (125, 250, 500), "smoke": (3, 6)},
}


@dataclass(frozen=True)
class Panels:
    """The sweeps of a figure: hyperparameters by dimensions `along`, with `base` values."""

    name: str
    keys: tuple[str, ...]
    along: tuple[str, ...]
    base: Mapping[str, Any]
    parametrizations: tuple[str, ...] = ("mup",)

    @property
    def sweeps(self) -> tuple[Sweep, ...]:
        """One for each panel; of both parametrizations where there are two."""
        return tuple(self._sweep(key, along) for along in self.along for key in self.keys)

    def _sweep(self, key: str, along: str) -> Sweep:
        def grid(scale: Scale) -> dict[str, Any]:
            return {
                "parametrization": self.parametrizations,
                along: SIZES[along][scale],
                key: VALUES[key][scale],
            }

        return Sweep(
            name=f"{self.name}_{key}_{along}",
            config=TransformerConfig,
            base={**USUAL, **self.base},
            grid=grid("paper"),
            seeds=SEEDS["paper"],
            scales={
                scale: Override({**USUAL_AT[scale], **self.base}, grid(scale), seeds=SEEDS[scale])
                for scale in USUAL_AT
            },
        )


def transfers(what: str, source: str, measure: str, id: str) -> Claim:
    """The claim that the smallest model's best value costs the largest at most 0.05 nats."""
    return Claim(
        id=id,
        statement=(
            f"{what}, the best value of the smallest model costs the largest at most {MOST:g} nats"
        ),
        source=source,
        measure=f"{FIGURES}:{measure}",
        relation="<=",
        threshold=MOST,
        unit="nats",
        decided_by="interval",
    )


MARKS = "Dots mark each size's minimum, crosses at the top values at which a run diverged."
PRE: dict[str, Any] = {"norm": "pre"}
PRE_KEYS = ("log2lr", "output_mult", "init_std", "schedule")
FOUR = "learning rate, output multiplier, std of initialization and learning-rate schedule"

FIG4 = Figure(
    name="fig4",
    title="Four hyperparameters across width and depth, in µP",
    caption=(
        f"Training loss of pre-layernorm Transformers in µP against {FOUR}, one at a time, across "
        f"width and depth. Schedules: linear decay, two step decays, cosine, constant, inverse "
        f"square root. {MARKS}"
    ),
    source="Figure 4; Section 6.1; the announcement post, Figure 3",
    sweeps=Panels("fig4", PRE_KEYS, ("width", "n_layer"), PRE).sweeps,
    draw=f"{FIGURES}:draw_fig4",
    claims=(
        transfers(
            "Across width, for each of the four hyperparameters",
            "Section 6.1, Fig. 4 top",
            "fig4_across_width",
            "transfers-across-width",
        ),
        transfers(
            "Across depth, for learning rate, output multiplier and schedule",
            "Section 6.1, Fig. 4 bottom",
            "fig4_across_depth",
            "transfers-across-depth",
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

DEPTH_MUP = Figure(
    name="depth_mup",
    title="The std of initialization across depth, with depth-µP",
    caption=(
        "Training loss of pre-layernorm Transformers in µP against learning rate and std of "
        "initialization across depth: as in Figure 4, and with depth-µP, where residual branches "
        f"and Adam's rates inside them fall as one over the root of the depth. {MARKS}"
    ),
    source="the row of Figure 4 that does not transfer, mended by Tensor Programs VI "
    "(arXiv:2310.02244), Table 1",
    work="",
    sweeps=(
        *Panels("fig4", ("log2lr", "init_std"), ("n_layer",), PRE).sweeps,
        *Panels(
            "depth_mup", ("log2lr", "init_std"), ("n_layer",), {**PRE, "base_n_layer": 2}
        ).sweeps,
    ),
    draw=f"{FIGURES}:draw_depth_mup",
    claims=(
        transfers(
            "With depth-µP, across depth, for learning rate and std of initialization",
            "Tensor Programs VI, Section 1",
            "depth_mup_regret",
            "transfers-across-depth",
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

ACROSS = {
    "batch_size": "batch size",
    "seq_len": "sequence length",
    "steps": "training steps",
}
FIG19 = Figure(
    name="fig19",
    title="Four hyperparameters across batch size, sequence length and training time, in µP",
    caption=(
        f"Training loss of pre-layernorm Transformers in µP against {FOUR}, one at a time, across "
        f"batch size, sequence length and number of training steps. {MARKS}"
    ),
    source="Figure 19; Appendix G.2.1; the announcement post, Figure 4",
    sweeps=Panels("fig19", PRE_KEYS, tuple(ACROSS), PRE).sweeps,
    draw=f"{FIGURES}:draw_fig19",
    claims=tuple(
        transfers(
            f"Across {what}, for each of the four hyperparameters",
            "Appendix G.2.1, Fig. 19",
            f"fig19_across_{along}",
            f"transfers-across-{along.replace('_', '-')}",
        )
        for along, what in ACROSS.items()
    ),
)

POST: dict[str, Any] = {"norm": "post"}
POST_KEYS = ("log2lr", "output_mult", "init_std", "beta2")
FIG17 = Figure(
    name="fig17",
    title="Four hyperparameters of post-layernorm Transformers across four dimensions, in µP",
    caption=(
        "Training loss of post-layernorm Transformers in µP against learning rate, output "
        "multiplier, std of initialization and Adam's second decay rate, one at a time, across "
        f"width, batch size, sequence length and number of training steps. {MARKS}"
    ),
    source="Figure 17; Appendix G.2.2",
    sweeps=Panels("fig17", POST_KEYS, ("width", *ACROSS), POST).sweeps,
    draw=f"{FIGURES}:draw_fig17",
    claims=tuple(
        transfers(
            f"Across {what}, for each of the four hyperparameters",
            "Appendix G.2.2, Fig. 17",
            f"fig17_across_{along}",
            f"transfers-across-{along.replace('_', '-')}",
        )
        for along, what in {"width": "width", **ACROSS}.items()
    ),
)

WIDTH_KEYS = ("log2lr", "output_mult", "attn_mult", "init_std")
FIG18 = Figure(
    name="fig18",
    title="Four hyperparameters across width: standard parametrization against µP",
    caption=(
        "Training loss of post-layernorm Transformers against learning rate, output multiplier, "
        "attention multiplier and std of initialization, one at a time, across width, in SP (top) "
        f"and in µP (bottom). {MARKS}"
    ),
    source="Figure 18; Appendix G.2.3, with the message of Figure 20 on WikiText-2",
    sweeps=Panels("fig18", WIDTH_KEYS, ("width",), POST, ("sp", "mup")).sweeps,
    draw=f"{FIGURES}:draw_fig18",
    claims=(
        transfers(
            "In µP, across width, for each of the four hyperparameters",
            "Appendix G.2.3, Fig. 18",
            "fig18_mup",
            "mup-transfers",
        ),
        Claim(
            id="sp-does-not-transfer",
            statement=(
                "In SP, across width, one of the four hyperparameters costs the largest model more "
                f"than {MOST:g} nats"
            ),
            source="Appendix G.2.3, Figs. 18 and 20",
            measure=f"{FIGURES}:fig18_sp",
            relation=">=",
            threshold=MOST,
            unit="nats",
            decided_by="interval",
        ),
    ),
)

HEADS: dict[Scale, tuple[int, tuple[int, ...]]] = {  # d_head, and numbers of heads
    "paper": (32, (4, 8, 16, 32, 64)),
    "small": (8, (4, 8, 16)),
    "smoke": (4, (4, 8)),
}


def fixed_head(key: str) -> Sweep:
    """A hyperparameter across width with d_head fixed: more heads, not larger ones."""

    def points(scale: Scale) -> list[dict[str, int]]:
        d_head, counts = HEADS[scale]
        return [{"n_head": n, "width": n * d_head, "d_head": d_head} for n in counts]

    def base(scale: Scale) -> dict[str, Any]:
        d_head, counts = HEADS[scale]
        return {"base_n_head": counts[0], "base_d_head": d_head, "base_width": counts[0] * d_head}

    return Sweep(
        name=f"fig13_{key}",
        config=TransformerConfig,
        base={**USUAL, **base("paper")},
        grid={key: VALUES[key]["paper"]},
        points=points("paper"),
        seeds=SEEDS["paper"],
        scales={
            scale: Override(
                {**USUAL_AT[scale], **base(scale)},
                {key: VALUES[key][scale]},
                points=points(scale),
                seeds=SEEDS[scale],
            )
            for scale in USUAL_AT
        },
    )


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
    draw=f"{FIGURES}:draw_fig13",
    claims=(
        transfers(
            "With d_head fixed, across width, for each of the four hyperparameters",
            "Appendix E.2, Fig. 13",
            "fig13_regret",
            "transfers-across-heads",
        ),
    ),
)

ACROSS_FIGURES = (FIG4, DEPTH_MUP, FIG13, FIG17, FIG18, FIG19)
