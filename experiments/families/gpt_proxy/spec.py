"""GPT-3-like models: wider is better throughout training, a search at the proxy, its target."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from experiments.data.pretraining_source import PRETRAINING_SOURCES, choose_pretraining
from experiments.declare.claims import Claim
from experiments.declare.family import Family
from experiments.declare.product import Figure, Table
from experiments.declare.scales import Scale
from experiments.declare.sweep import Override, Sweep
from experiments.families.gpt_proxy.config import BASE_WIDTH, VALUES, GptConfig, of_width

FIGURES = f"{__package__}.figures"
# Tasks of Table 7, by their names in lm-eval.
SELECTED = {"LAMBADA": "lambada_openai", "HellaSwag": "hellaswag"}
# What the paper chose after its search: Appendix F.4.
CHOSEN = {"log2lr": math.log2(0.006), "init_scale": 2.5, "embed_mult": 10.0}

# Fig. 8: 4 layers at all scales, and 1.4 billion tokens at the paper's.
WIDTHS: dict[Scale, tuple[int, ...]] = {
    "paper": (256, 512, 1024, 2048, 4096, 8192, 16384, 32768),
    "gpu": (64, 128, 256, 512, 1024, 2048),
    "small": (32, 64, 128, 256, 512),
    "smoke": (16, 32),
}
WIDENING_STEPS: dict[Scale, int] = {"paper": 670, "gpu": 400, "small": 400, "smoke": 6}
WIDENING_SEEDS: dict[Scale, int] = {"paper": 1, "gpu": 5, "small": 3, "smoke": 2}
SELDOM = 0.05  # share of the steps in which a wider model may be worse, as in Fig. 7


def widening(scale: Scale) -> Override:
    """One set of hyperparameters over widths."""
    base = {**VALUES[scale], **CHOSEN, "steps": WIDENING_STEPS[scale], "parametrization": "mup"}
    base["n_layer"] = min(4, base["n_layer"])
    points = [of_width(scale, width) for width in WIDTHS[scale]]
    return Override(base, {}, points, WIDENING_SEEDS[scale])


FIG8 = Figure(
    name="fig8",
    title="Loss over training across widths of a GPT-3-like model in µP",
    caption=(
        "Training loss over the tokens of training of pre-layernorm Transformers with relative "
        "positions and four layers, in µP, with one set of hyperparameters: those that the paper "
        "chose for its 6.7B model. Mean over seeds, smoothed over a fiftieth of the steps; bands: "
        "range over seeds. Below: the share of the training in which a wider model is worse beyond "
        "seed noise."
    ),
    source="Figure 8; Section 8",
    sweeps=(Sweep.by_scale("fig8", GptConfig, widening),),
    over_steps=True,
    draw=f"{FIGURES}:draw_fig8",
    claims=(
        Claim(
            id="wider-is-better-at-every-step",
            statement=(
                f"A wider model is worse beyond seed noise in at most {100 * SELDOM:g} % of the "
                "steps"
            ),
            source="Section 8, Fig. 8",
            paper="a brief period around 1e8 of 1.4e9 tokens, with one seed (Section 8)",
            measure="experiments.analysis.training_curves:violated",
            relation="<=",
            threshold=SELDOM,
            unit="of the steps",
        ),
    ),
)

# Fig. 14: horizons of 4 and 16 billion tokens, of which 350 and 117 samples were trained.
# Each is drawn log-uniformly between its bounds.
SPACE = {
    "log2lr": (1e-4, 1e-1),  # of the rate
    "init_scale": (0.1, 10.0),
    "attn_temperature": (0.25, 4.0),
    "output_temperature": (0.25, 4.0),
    "embed_mult": (0.1, 10.0),
    "relative_mult": (0.1, 10.0),
}
SAMPLES: dict[Scale, tuple[int, int]] = {
    "paper": (350, 117),
    "gpu": (144, 48),
    "small": (144, 48),
    "smoke": (6, 4),
}
"""Of the short horizon and of the long one, which are the first of the former."""
HORIZONS: dict[Scale, tuple[int, int]] = {
    "paper": (1_900, 7_600),
    "gpu": (100, 400),
    "small": (100, 400),
    "smoke": (2, 6),
}
"""Steps; the paper's are 1 : 4 as here."""


def samples(count: int) -> list[dict[str, float]]:
    """Points of the random search, the first ones of the same sequence for any count.

    Source: Tensor Programs V, Appendix F.4.
    """
    draw = random.Random(0)
    found = []
    for _ in range(count):
        exponents = {
            key: draw.uniform(math.log2(low), math.log2(high)) for key, (low, high) in SPACE.items()
        }
        point = {key: x if key == "log2lr" else 2.0**x for key, x in exponents.items()}
        found.append({key: round(value, 4) for key, value in point.items()})
    return found


def search(long: bool) -> Sweep:
    """The random search at the proxy, at one horizon."""

    def at(scale: Scale) -> Override:
        proxy = {**VALUES[scale], **of_width(scale, BASE_WIDTH[scale]), "parametrization": "mup"}
        base = {**proxy, "steps": HORIZONS[scale][long]}
        return Override(base, {}, samples(SAMPLES[scale][long]), seeds=1)

    return Sweep.by_scale(f"gpt_{'long' if long else 'short'}", GptConfig, at)


SEARCHES = (search(long=False), search(long=True))
FIG14 = Figure(
    name="fig14",
    title="Random search at the proxy of a GPT-3-like model, at two horizons",
    caption=(
        "Training loss of every sample against each of the six hyperparameters, which were drawn "
        "at once, in µP. Above after the short horizon, below after the long one, four times as "
        "long. Green is the best tenth of each row; crosses above are samples that diverged. The "
        "samples of the long horizon are among those of the short one."
    ),
    source="Figure 14; Appendix F.4",
    sweeps=SEARCHES,
    draw=f"{FIGURES}:draw_fig14",
    claims=(
        Claim(
            id="horizons-agree",
            statement=(
                "The samples that both horizons have are ranked alike: their correlation of ranks "
                "is at least 0.8, divergences last"
            ),
            source="Appendix F.4, Fig. 14",
            measure=f"{FIGURES}:horizon_correlation",
            relation=">=",
            threshold=0.8,
            unit="(Spearman's rho)",
        ),
        Claim(
            id="rate-and-scale-matter-most",
            statement=(
                "At the short horizon, learning rate and initialization scale each explain more of "
                "the variance of the samples' ranks than any of the other four"
            ),
            source="Appendix F.4, Fig. 14",
            measure=f"{FIGURES}:importance_margin",
            relation=">=",
            threshold=0.0,
            unit="of the variance",
        ),
    ),
)

# Fig. 15: the target of 6.7B parameters, or as much wider as the budget allows.
TARGET: dict[Scale, int] = {"paper": 4096, "gpu": 1024, "small": 256, "smoke": 32}
TARGET_STEPS: dict[Scale, int] = {"paper": 143_000, "gpu": 800, "small": 800, "smoke": 6}
TARGET_SEEDS: dict[Scale, int] = {"paper": 1, "gpu": 5, "small": 2, "smoke": 2}
# GPT-3's for its 6.7B model; at the other scales that of its smallest one, of 125M.
ORIGINAL_RATE: dict[Scale, float] = {"paper": 1.2e-4, "gpu": 6e-4, "small": 6e-4, "smoke": 6e-4}
# Examples that are shown in few-shot evaluation. GPT-3 has as many as fit, by task.
FEW: dict[Scale, int] = {"paper": 16, "gpu": 4, "small": 4, "smoke": 2}
DOCUMENTS: dict[Scale, int] = {"paper": 10_000, "gpu": 200, "small": 200, "smoke": 4}


def evaluated(scale: Scale) -> str:
    """Local tasks at all scales; at the paper's those of lm-eval that Table 7 selects."""
    many = ["sst2"] + (list(SELECTED.values()) if scale == "paper" else [])
    shown = [f"{task}:{shots}" for task in many for shots in (0, 1, FEW[scale])]
    return ",".join(["wikitext2", "novels", "last_word", *shown])


def target(scale: Scale) -> dict[str, Any]:
    """Size and length of the target's training, and how it is evaluated."""
    evaluation = {"evaluations": evaluated(scale), "documents": DOCUMENTS[scale]}
    return {**of_width(scale, TARGET[scale]), "steps": TARGET_STEPS[scale], **evaluation}


def original(scale: Scale) -> Override:
    """The target with the original hyperparameters, in SP with a cosine."""
    rate = math.log2(ORIGINAL_RATE[scale])
    recipe = {"parametrization": "sp", "schedule": "cosine", "log2lr": rate}
    recipe |= {"optimizer": "adamw", "weight_decay": 0.1}
    grid = {"attention": ("absolute", "relative")}
    return Override({**VALUES[scale], **target(scale), **recipe}, grid, seeds=TARGET_SEEDS[scale])


def tuning_cost(scale: Scale) -> float:
    """The FLOPs of the whole search over those of one training of the target."""
    searched = sum(run.flops() for sweep in SEARCHES for run in sweep.runs(scale, data=""))
    values = {**VALUES[scale], **target(scale), "log2lr": 0.0, "data": ""}
    return searched / GptConfig.make(**values).flops()


FIG15 = Figure(
    name="fig15",
    title="Training curves of the µTransferred model and of the original recipe",
    caption=(
        "Training loss over the steps of a GPT-3-like model with the hyperparameters of the best "
        "sample that Fig. 14 has after the long horizon, in µP with a linear decay, and with the "
        "original recipe: SP, a cosine, the original rate, and absolute positions as in the "
        "paper's re-run, or, beyond the paper, relative ones as µTransfer has. Mean over seeds, "
        "smoothed over a fiftieth of the steps; bands: range over seeds."
    ),
    source="Figure 15; Section 7.4 and Appendix F.4",
    sweeps=(*SEARCHES, Sweep.by_scale("gpt_original", GptConfig, original)),
    follow_up=f"{FIGURES}:carry",
    over_steps=True,
    draw=f"{FIGURES}:draw_fig15",
    claims=(
        Claim(
            id="mup-beats-the-original-recipe",
            statement=(
                "At the end the µTransferred model has no higher validation loss than the original "
                "recipe with absolute positions"
            ),
            source="Section 7.4, Table 7; Appendix F.4, Fig. 15",
            paper="-0.05 nats: 1.98 against 2.03 (Table 7)",
            measure=f"{FIGURES}:mup_minus_original",
            relation="<=",
            threshold=0.0,
            unit="nats",
        ),
        Claim(
            id="mup-beats-it-with-relative-positions",
            statement=(
                "At the end the µTransferred model has no higher validation loss than the original "
                "recipe with relative positions"
            ),
            source="the confounder that Section 7.4 names",
            measure=f"{FIGURES}:mup_minus_relative",
            relation="<=",
            threshold=0.0,
            unit="nats",
        ),
    ),
)

# What float16 loses of the gradients: ours. The paper's µP target diverged by it.
PRECISION_WIDTHS: dict[Scale, tuple[int, ...]] = {
    "paper": (256, 1024, 4096),
    "gpu": (64, 256, 1024),
    "small": (64, 128, 256),
    "smoke": (16, 32),
}
PRECISION_RATES: dict[Scale, tuple[float, ...]] = {
    "paper": tuple(round(CHOSEN["log2lr"] - x, 4) for x in range(7)),
    "gpu": tuple(range(-12, -4)),
    "small": tuple(range(-10, -4)),
    "smoke": (-8, -6),
}
PRECISION_STEPS: dict[Scale, int] = {"paper": 1_900, "gpu": 100, "small": 100, "smoke": 4}
# A few trainings with the seed 0 suggested the claims, so that others judge them.
PRECISION_SEEDS: dict[Scale, Sequence[int]] = {
    "paper": (2, 3),
    "gpu": range(2, 7),
    "small": (2, 3),
    "smoke": (2, 3),
}


def precision(scale: Scale) -> Override:
    """SP and µP over widths and rates, each with its gradients' exponents at the end."""
    base = {**VALUES[scale], "steps": PRECISION_STEPS[scale], "count_exponents": True}
    base["n_layer"] = min(4, base["n_layer"])
    grid = {"parametrization": ("sp", "mup"), "log2lr": PRECISION_RATES[scale]}
    points = [of_width(scale, width) for width in PRECISION_WIDTHS[scale]]
    return Override(base, grid, points, PRECISION_SEEDS[scale])


UNDERFLOW = f"{__package__}.precision"
PRECISION = Figure(
    name="precision",
    title="Gradients of a GPT-3-like model in float16, over widths",
    caption=(
        "Share of the gradients' entries that float16 rounds to zero at the end of training, of SP "
        "and µP at each width's best learning rate. Above by layer: solid of the weights, dashed "
        "of the activations. Below of all entries against the factor by which the loss is "
        "multiplied: solid what is rounded to zero, dotted what is too large. Float16 is emulated: "
        "exact gradients are rounded entry by entry. Zeros are not counted."
    ),
    source="the underflow that Appendix F.4 reports",
    work="",
    sweeps=(Sweep.by_scale("gpt_precision", GptConfig, precision),),
    draw=f"{UNDERFLOW}:draw_precision",
    claims=(
        Claim(
            id="mup-underflows-more",
            statement=(
                "Each at its best learning rate, float16 rounds a larger share of the gradients of "
                "the widest µP model to zero than of those of the widest SP model"
            ),
            source="Appendix F.4, which suspects µTransfer's hyperparameters",
            measure=f"{UNDERFLOW}:mup_minus_sp",
            relation=">=",
            threshold=0.0,
            unit="of the entries",
        ),
        Claim(
            id="loss-scaling-is-enough",
            statement=(
                "With the largest power of two that makes no entry too large, float16 rounds at "
                "most 1 % of the widest µP model's gradients to zero"
            ),
            source="what Appendix F.4 did not need, since it went to float32",
            measure=f"{UNDERFLOW}:lost_at_best_scale",
            relation="<=",
            threshold=0.01,
            unit="of the entries",
        ),
        Claim(
            id="bfloat16-loses-nothing",
            statement="Bfloat16 and float32 round at most a millionth of any model's to zero",
            source="the range of their exponents",
            measure=f"{UNDERFLOW}:lost_otherwise",
            relation="<=",
            threshold=1e-6,
            unit="of the entries",
            decided_by="value",
        ),
    ),
)

EVALUATED = f"{__package__}.evaluations"
TABLE7 = Table(
    name="table7",
    title="The µTransferred GPT-3-like model beside the original recipe",
    caption=(
        "The paper's evaluations of 6.7B parameters (µTransfer, a re-run with the original "
        "hyperparameters, GPT-3) and of 13B (GPT-3), and ours of the models of Figure 15."
    ),
    source="Table 7; Section 7.4; the announcement post, Figure 6",
    sweeps=FIG15.sweeps,
    follow_up=FIG15.follow_up,
    render=f"{EVALUATED}:render_table7",
)
TABLE10 = Table(
    name="table10",
    title="The paper's evaluations of 6.7B parameters, in full",
    caption="Scores of the paper, times 100: µTransfer (µP), GPT-3 6.7B, and its re-run.",
    source="Table 10; Appendix F.4",
    render=f"{EVALUATED}:render_table10",
)
TABLE11 = Table(
    name="table11",
    title="The paper's evaluations of µTransfer with 6.7B parameters beside GPT-3 13B",
    caption="Scores of the paper, times 100.",
    source="Table 11; Appendix F.4",
    render=f"{EVALUATED}:render_table11",
)

FAMILY = Family(
    title="GPT-3-like models",
    config=GptConfig,
    example={**VALUES["small"], **of_width("small", 64), **CHOSEN},
    base_from={
        "gpu": "base hyperparameters of the paper's Appendix F.4, or of its own search",
        "paper": "base hyperparameters of the paper's Appendix F.4, or of its search there",
    },
    data_sources=PRETRAINING_SOURCES,
    choose_data=choose_pretraining,
    figures=(FIG8, FIG14, FIG15, PRECISION),
    tables=(TABLE7, TABLE10, TABLE11),
)
