"""The encoder-decoder Transformer on IWSLT14 De-En: what is trained and shown."""

from __future__ import annotations

from typing import Any

from experiments.data.translation_source import IWSLT_SOURCES, choose_iwslt
from experiments.declare.claims import Claim
from experiments.declare.family import Family
from experiments.declare.layout import MARKS, Layout
from experiments.declare.product import Figure, Table
from experiments.declare.references import Call
from experiments.declare.scales import Scale
from experiments.declare.statements import (
    LANDSCAPES,
    does_not_transfer,
    falls,
    keeps_gain,
    loses_gain,
    stays,
    transfers,
)
from experiments.declare.sweep import Override, Sweep
from experiments.families.transformer_iwslt14.config import (
    CENTRE,
    QUARTER,
    VALUES,
    Iwslt14Config,
)
from experiments.translation.spec_search import CAPTION, MEASURES, POOL, Tuning

FIGURES = f"{__package__}.figures"
TUNING = Tuning(
    name="iwslt14",
    config=Iwslt14Config,
    target=VALUES,
    proxy=QUARTER,
    centre=CENTRE,
    at_target={"paper": 125, "gpu": 16, "small": 16, "smoke": 2},
    at_proxy={"paper": 1600, "gpu": 48, "small": 48, "smoke": 3},
    seeds={"paper": 5, "gpu": 5, "small": 1, "smoke": 1},
    budgets=(3, 5, 10),
    one=5,
    trials=25,
    percentiles=(25, 50, 75, 100),
)
TABLE4 = Table(
    name="table4",
    title="Tuning on IWSLT14 De-En: percentiles of BLEU over trials",
    caption=CAPTION,
    source="Table 4; Section 7.1 and Appendix F.1",
    sweeps=TUNING.sweeps,
    follow_up=TUNING.follow_up,
    render=TUNING.render(
        ("25", "50", "75", "100"),
        (
            ("fairseq default, paper", "–", "–", "–", "–", "–", "35.40"),
            ("Tuning on 1x, paper", "1x", "5", "33.62", "35.00", "35.35", "35.45"),
            ("Naive transfer from 0.25x, paper", "1x", "64", *["diverged"] * 4),
            ("µTransfer from 0.25x, paper", "1x", "64", "35.27", "35.33", "35.45", "35.53"),
        ),
    ),
    claims=(
        TUNING.spread(
            "Section 7.1, Table 4",
            paper="0.26 BLEU for µTransfer and 1.83 for tuning on 1x (Table 4)",
        ),
        TUNING.naive("Section 7.1, Table 4"),
    ),
)
FIG6 = Figure(
    name="fig6",
    title="BLEU against the compute and the samples of tuning, on IWSLT14 De-En",
    caption=(
        "Median BLEU of the target over trials, with a band of quartiles. Left: against compute, "
        "where 1x is that of five trainings of the target; µTransfer and naive transfer pay for "
        "one, beside their samples at the proxy. Right: against the number of samples, from the "
        f"points that both sizes have tried. {POOL}"
    ),
    source="Figure 6; Section 7.1; the announcement post, Figure 5",
    sweeps=TUNING.sweeps,
    follow_up=TUNING.follow_up,
    draw=Call(f"{MEASURES}:draw_front", {"tuning": TUNING}),
    claims=(
        TUNING.least_gain("Section 7.1, Fig. 6 left"),
        TUNING.gap_shrinks("Section 7.1, Fig. 6 right"),
    ),
)
TRANSLATIONS = Table(
    name="translations",
    title="Sentences as the tuned models of Table 4 translate them",
    caption=(
        "Translations of the target with the hyperparameters of the best proxy in SP and of the "
        "best one in µP."
    ),
    source="what the BLEU of Table 4 means",
    work="",
    sweeps=TUNING.sweeps,
    follow_up=TUNING.follow_up,
    render=Call(f"{MEASURES}:render_examples", {"tuning": TUNING}),
)

# Figures of one hyperparameter at a time: short trainings, without translations.
WIDTHS: dict[Scale, tuple[int, ...]] = {
    "paper": (32, 64, 128, 256, 512),
    "gpu": (64, 256, 1024),
    "small": (32, 64, 128),
    "smoke": (8, 16),
}
SEEDS: dict[Scale, int] = {"paper": 5, "gpu": 5, "small": 2, "smoke": 2}
STEPS: dict[Scale, int] = {"paper": VALUES["paper"]["steps"], "gpu": 300, "small": 300, "smoke": 4}


def usual(scale: Scale) -> dict[str, Any]:
    """A run at the usual hyperparameters."""
    short = {"steps": STEPS[scale], "beam": 0, "log2lr": CENTRE[scale]}
    return {**VALUES[scale], **short}


ATTENTION: dict[Scale, tuple[float, ...]] = {
    "paper": tuple(2.0**z for z in range(-3, 9)),
    "gpu": tuple(2.0**z for z in range(-3, 6)),
    "small": tuple(2.0**z for z in range(-3, 6)),
    "smoke": (1.0, 2.0),
}
HEADS = 4
LEAST: dict[Scale, int] = {"paper": 128, "gpu": 256, "small": 32, "smoke": 4}
"""Of an enlarged d_k."""


def attention(enlarged: bool) -> Sweep:
    """Attention multipliers over widths, with d_k in proportion or of one size."""

    def at(scale: Scale) -> Override:
        points = [{"width": width, "d_ffn": 2 * width} for width in WIDTHS[scale]]
        for point in points if enlarged else ():
            point["d_k"] = max(point["width"] // HEADS, LEAST[scale])
        base = {**usual(scale), "n_head": HEADS, "parametrization": "mup"}
        return Override(base, {"attn_mult": ATTENTION[scale]}, points, SEEDS[scale])

    return Sweep.by_scale(f"fig10_{'enlarged' if enlarged else 'proportional'}", Iwslt14Config, at)


FIG10 = Figure(
    name="fig10",
    title="Attention multiplier across width, with d_k in proportion and enlarged",
    caption=(
        "Training loss minus its own minimum against the attention multiplier, one curve per "
        "width, in µP. Left: d_k = d_model / n_head. Right: d_k is at least that of the widest "
        f"model. {MARKS}"
    ),
    source="Figure 10; Appendix D.4",
    sweeps=(attention(enlarged=False), attention(enlarged=True)),
    draw=f"{FIGURES}:draw_fig10",
    claims=(
        Claim(
            id="enlarging-smooths",
            statement="The landscape is less rough with an enlarged d_k",
            source="Appendix D.4, Fig. 10",
            measure=f"{FIGURES}:fig10_roughness",
            relation="<=",
            threshold=0.0,
            unit="nats",
        ),
        Claim(
            id="enlarging-transfers",
            statement="The narrowest model's best multiplier costs the widest less if d_k is large",
            source="Appendix D.4, Fig. 10",
            measure=f"{FIGURES}:fig10_regret",
            relation="<=",
            threshold=0.0,
            unit="nats",
        ),
    ),
)

RATIOS: dict[Scale, tuple[int, ...]] = {
    "paper": (1, 2, 4, 8),
    "gpu": (1, 2, 4, 8),
    "small": (1, 2, 4),
    "smoke": (1, 2),
}
RATIO_WIDTH: dict[Scale, int] = {"paper": 128, "gpu": 256, "small": 64, "smoke": 8}
RATIO_KEYS = ("log2lr", "output_mult", "attn_mult")
AROUND: dict[Scale, tuple[int, ...]] = {
    "paper": tuple(range(-5, 6)),
    "gpu": tuple(range(-2, 3)),
    "small": tuple(range(-2, 3)),
    "smoke": (-1, 0),
}
RATIO_ROW = ("mup", "d_ffn")


def ratio(key: str) -> Sweep:
    """A hyperparameter over the sizes of the feed-forward layer, around its usual value."""

    def at(scale: Scale) -> Override:
        centre = CENTRE[scale]
        values = [centre + z if key == "log2lr" else 2.0**z for z in AROUND[scale]]
        width = RATIO_WIDTH[scale]
        sizes = tuple(ratio * width for ratio in RATIOS[scale])
        base = {
            **usual(scale),
            "width": width,
            "parametrization": "mup",
            "base_width": width,
            "base_d_ffn": sizes[-1],
        }
        return Override(base, {"d_ffn": sizes, key: values}, seeds=SEEDS[scale])

    return Sweep.by_scale(f"fig12_{key}", Iwslt14Config, at)


LAYOUT12 = Layout(RATIO_KEYS, (RATIO_ROW,))
FIG12 = Figure(
    name="fig12",
    title="Three hyperparameters across the size of the feed-forward layer, in µP",
    caption=(
        "Training loss against learning rate, output multiplier and attention multiplier, one at a "
        f"time, one curve per d_ffn at a fixed d_model. {MARKS}"
    ),
    source="Figure 12; Appendix E.2",
    sweeps=tuple(ratio(key) for key in RATIO_KEYS),
    draw=LAYOUT12.draw(),
    claims=(
        LAYOUT12.transfers(
            "Appendix E.2, Fig. 12",
            "Across d_ffn, for each of the three hyperparameters",
            id="transfers-across-d-ffn",
            row=RATIO_ROW,
        ),
        LAYOUT12.keeps_gain(
            "Appendix E.2, Fig. 12",
            "Across d_ffn, for each of the three hyperparameters",
            id="keeps-gain-across-d-ffn",
            row=RATIO_ROW,
        ),
    ),
)

RATES: dict[Scale, tuple[float, ...]] = {
    "paper": tuple(CENTRE["paper"] + z for z in range(-6, 7)),
    "gpu": tuple(CENTRE["gpu"] + z for z in range(-6, 4)),  # SP's best rate falls with width
    "small": tuple(CENTRE["small"] + z for z in range(-3, 4)),
    "smoke": (-10.0, -8.0),
}


def width_lr(scale: Scale) -> Override:
    """Learning rates over widths, in SP and in µP."""
    narrowest = WIDTHS[scale][0]  # so that it is the same in both
    base = {**usual(scale), "base_width": narrowest, "base_d_ffn": 2 * narrowest}
    points = [{"width": width, "d_ffn": 2 * width} for width in WIDTHS[scale]]
    axes = {"parametrization": ("sp", "mup"), "log2lr": RATES[scale]}
    return Override(base, axes, points, SEEDS[scale])


FIG20 = Figure(
    name="fig20",
    title="Learning rate across width on IWSLT14: standard parametrization against µP",
    caption=(
        "Training loss against the learning rate of encoder-decoder Transformers of several widths "
        "(d_model), in SP and, beyond the paper's figure, in µP. The dashed line is the lowest "
        f"loss of any µP model. {MARKS}"
    ),
    source="Figure 20; Appendix G.2.3",
    sweeps=(Sweep.by_scale("fig20", Iwslt14Config, width_lr),),
    draw=Call(f"{LANDSCAPES}:draw_pair", {"width": "width\n(d_model)"}),
    claims=(
        stays("Appendix G.2.3, Fig. 20"),
        falls("Appendix G.2.3, Fig. 20", octaves=0.33),
        transfers("Appendix G.2.3, Fig. 20"),
        does_not_transfer("Appendix G.2.3, Fig. 20"),
        keeps_gain("Appendix G.2.3, Fig. 20"),
        loses_gain("Appendix G.2.3, Fig. 20"),
    ),
)

FAMILY = Family(
    title="Transformer on IWSLT14 De-En",
    config=Iwslt14Config,
    example={**VALUES["small"], "log2lr": CENTRE["small"]},
    base_from={
        "gpu": "base hyperparameters of no search, those of the scale small",
        "paper": "base hyperparameters of fairseq's recipe, multipliers 1",
    },
    data_sources=IWSLT_SOURCES,
    choose_data=choose_iwslt,
    figures=(FIG6, FIG10, FIG12, FIG20),
    tables=(TABLE4, TRANSLATIONS),
)
