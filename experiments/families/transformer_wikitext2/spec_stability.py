"""Figs. 7 and 21: loss over training across widths; instability at actual and simulated widths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from experiments.declare.claims import Claim
from experiments.declare.layout import MARKS
from experiments.declare.product import Figure
from experiments.declare.references import Call
from experiments.declare.scales import Scale
from experiments.declare.sweep import Override, Sweep
from experiments.families.transformer_wikitext2.config import BASE, TransformerConfig

FIGURES = f"{__package__}.figures"

# Fig. 7 has µP at 0.001, SP at a quarter of it and at the same. Below `paper`, where 0.001 is not
# the best rate, the best one of Fig. 1 stands for it.
HIGH: dict[Scale, float] = {"paper": math.log2(0.001), "small": -7, "smoke": -7}
LOW: dict[Scale, float] = {scale: rate - 2 for scale, rate in HIGH.items()}
WIDTHS: dict[Scale, tuple[int, ...]] = {
    "paper": (128, 256, 512, 1024, 2048, 4096),
    "small": (32, 64, 128, 256),
    "smoke": (16, 32),
}
SELDOM = 0.05  # share of the steps in which a wider model may be worse
WIDENING_SEEDS: dict[Scale, int] = {"paper": 5, "small": 5, "smoke": 2}


def widening(name: str, parametrization: str, rate: Mapping[Scale, float]) -> Sweep:
    """One rate over widths, in the set-up of Fig. 1, whose runs it shares."""

    def at(scale: Scale) -> Override:
        base = {**BASE[scale], "parametrization": parametrization, "log2lr": rate[scale]}
        return Override(base, {"width": WIDTHS[scale]}, seeds=WIDENING_SEEDS[scale])

    return Sweep.by_scale(name, TransformerConfig, at)


FIG7 = Figure(
    name="fig7",
    title="Loss over training across widths: µP and SP",
    caption=(
        "Training loss over the steps of post-layernorm Transformers of several widths: µP at the "
        "narrowest model's best learning rate, SP at a quarter of it, and SP at the same. Mean "
        "over seeds, smoothed over a fiftieth of the steps; bands: range over seeds. Below: the "
        "share of the training in which a wider model is worse beyond seed noise."
    ),
    source="Figure 7; Section 8",
    sweeps=(
        widening("fig7_mup", "mup", HIGH),
        widening("fig7_sp_low", "sp", LOW),
        widening("fig7_sp_high", "sp", HIGH),
    ),
    over_steps=True,
    draw=f"{FIGURES}:draw_fig7",
    claims=(
        Claim(
            id="mup-wider-is-better-at-every-step",
            statement=(
                "In µP a wider model is worse beyond seed noise in at most "
                f"{100 * SELDOM:g} % of the steps"
            ),
            source="Section 8, Fig. 7 left",
            paper="0 of the steps, up to noise (Section 8)",
            measure=Call(f"{FIGURES}:violated", {"name": "mup"}),
            relation="<=",
            threshold=SELDOM,
            unit="of the steps",
        ),
        Claim(
            id="sp-fails-at-a-low-rate",
            statement=(
                f"In SP at a low rate a wider model is worse in more than {100 * SELDOM:g} % "
                "of the steps"
            ),
            source="Section 8, Fig. 7 middle",
            paper="no share; the order fails at width 2048 (caption of Fig. 7)",
            measure=Call(f"{FIGURES}:violated", {"name": "sp_low"}),
            relation=">=",
            threshold=SELDOM,
            unit="of the steps",
        ),
        Claim(
            id="sp-fails-at-a-high-rate",
            statement="In SP at a high rate a wider model is worse in at least half of the steps",
            source="Section 8, Fig. 7 right",
            measure=Call(f"{FIGURES}:violated", {"name": "sp_high"}),
            relation=">=",
            threshold=0.5,
            unit="of the steps",
        ),
    ),
)
# Appendix I: width is d_model = d_ffn; a narrow µP model whose base width is that of the wide one.
REPLAYED: dict[Scale, tuple[int, ...]] = {
    "paper": (256, 512, 1024, 2048, 4096, 8192),
    "small": (32, 64, 128, 256),
    "smoke": (16, 32),
}
RATES: dict[Scale, tuple[int, ...]] = {
    "paper": tuple(range(-20, -5)),
    "small": tuple(range(-11, -2)),
    "smoke": (-8, -6, -4),
}
REPLAY_SEEDS: dict[Scale, int] = {"paper": 5, "small": 2, "smoke": 2}


def replay(name: str, parametrization: str) -> Sweep:
    """Rates over actual widths in SP, or over simulated ones in a narrow µP model."""

    def points(scale: Scale) -> list[dict[str, Any]]:
        narrow = REPLAYED[scale][0]
        if parametrization == "sp":
            return [{"width": n, "d_ffn": n} for n in REPLAYED[scale]]
        same = {"width": narrow, "d_ffn": narrow}
        return [{**same, "base_width": n, "base_d_ffn": n} for n in REPLAYED[scale]]

    def at(scale: Scale) -> Override:
        base = {**BASE[scale], "parametrization": parametrization}
        return Override(base, {"log2lr": RATES[scale]}, points(scale), REPLAY_SEEDS[scale])

    return Sweep.by_scale(name, TransformerConfig, at)


FIG21 = Figure(
    name="fig21",
    title="Training instability at actual widths and at simulated ones",
    caption=(
        "Training loss against learning rate of post-layernorm Transformers (d_ffn = d_model): on "
        "the left SP models of several widths, on the right one narrow µP model whose base width "
        f"is the simulated width. {MARKS} Squares: the lowest rate above the best at which "
        "training is unstable."
    ),
    source="Figure 21; Appendix I",
    sweeps=(replay("fig21_actual", "sp"), replay("fig21_simulated", "mup")),
    draw=f"{FIGURES}:draw_fig21",
    claims=(
        Claim(
            id="instability-is-replayed",
            statement=(
                "At every width the learning rate at which training becomes unstable is the same "
                "in the narrow model to within one grid step"
            ),
            source="Appendix I, Fig. 21",
            paper="0 grid steps: unstable in one exactly if in the other (caption of Fig. 21)",
            measure=f"{FIGURES}:fig21_onset_difference",
            relation="<=",
            threshold=1.0,
            unit="grid steps",
            decided_by="value",
        ),
    ),
)

STABILITY_FIGURES = (FIG7, FIG21)
