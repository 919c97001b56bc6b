"""BERT: one search at a proxy for two targets of other width and depth."""

from __future__ import annotations

import math
from typing import Any

from experiments.data.pretraining_source import PRETRAINING_SOURCES, choose_pretraining
from experiments.declare.claims import Claim
from experiments.declare.family import Family
from experiments.declare.product import Table
from experiments.declare.references import Call
from experiments.declare.scales import SCALES, Scale
from experiments.declare.sweep import Override, Sweep, draw_points
from experiments.errors import UserError
from experiments.families.bert.config import (
    DEFAULT_RATE,
    FINETUNING,
    PROXY,
    TARGETS,
    VALUES,
    BertConfig,
)

FIGURES = f"{__package__}.figures"
SAMPLES: dict[Scale, int] = {"paper": 256, "gpu": 40, "small": 40, "smoke": 3}
SEEDS: dict[Scale, int] = {"paper": 1, "gpu": 5, "small": 2, "smoke": 2}
# The default of a short training is ours: Megatron's rate is for a million steps.
RATE: dict[Scale, float] = {"paper": DEFAULT_RATE, "gpu": -10.0, "small": -10.0, "smoke": -10.0}


def space(scale: Scale) -> dict[str, tuple[float, ...]]:
    """The grid of the search, in the terms of a run.

    The paper's multipliers of gains and biases, 2^8.5 to 2^10.5, and of the output, 2^2 to 2^6, are
    relative to scales that it does not state. It says that the ranges include the choices of BERT
    in SP. Here their middle is that choice: ours is 1 where the paper's is 2^9.5 or 2^4. Its
    attention multiplier is of q·k / d. At the other scales, with a thousandth of the steps, rates
    are higher and farther apart.

    Source: Tensor Programs V, Appendix F.3.
    """
    rates: tuple[float, ...]
    if scale == "paper":
        rates = tuple(DEFAULT_RATE + z for z in (1.5, 2.0, 2.5, 3.0, 3.5))
        embedding = tuple(DEFAULT_RATE + z for z in (-1.0, -0.5, 0.0, 0.5, 1.0))
    else:
        rates = (-10.0, -9.0, -8.0, -7.0, -6.0)
        embedding = (-12.0, -11.0, -10.0, -9.0, -8.0)
    keys = PROXY[scale]["width"] // PROXY[scale]["n_head"]
    return {
        "log2lr": rates,
        "embed_log2lr": embedding,
        "output_mult": tuple(2.0 ** (z - 4) for z in (2, 4, 6)),
        "attn_mult": tuple(2.0**z / math.sqrt(keys) for z in (3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7)),
        "gain_mult": tuple(2.0 ** (z - 9.5) for z in (8.5, 9, 9.5, 10, 10.5)),
        "bias_mult": tuple(2.0 ** (z - 9.5) for z in (8.5, 9, 9.5, 10, 10.5)),
    }


KEYS = tuple(space("paper"))


def proxy(scale: Scale) -> dict[str, Any]:
    """A run of the proxy, which is the base model: SP and µP are equal there."""
    warmup = max(1, VALUES[scale]["warmup"] * PROXY[scale]["steps"] // VALUES[scale]["steps"])
    return {**VALUES[scale], **PROXY[scale], "warmup": warmup, "parametrization": "mup"}


def search(scale: Scale) -> Override:
    """The random search at the proxy."""
    return Override(proxy(scale), {}, draw_points(space(scale), SAMPLES[scale], seed=0), seeds=1)


def default(scale: Scale) -> Override:
    """Both targets with the default hyperparameters, in SP."""
    base = {**VALUES[scale], **FINETUNING[scale], "parametrization": "sp", "log2lr": RATE[scale]}
    return Override(base, {}, [sizes[scale] for sizes in TARGETS.values()], SEEDS[scale])


def target_of(width: int) -> tuple[str, Scale]:
    """The target, and the scale at which it has this width.

    Raises:
        UserError: no target has this width; it had one when older tables were made.
    """
    for name, sizes in TARGETS.items():
        for scale in SCALES:
            if sizes[scale]["width"] == width:
                return name, scale
    raise UserError(
        f"table6: no target has the width {width} now, so its runs were declared otherwise; "
        "`snakemake table6` makes it anew"
    )


def speedups(name: str, scale: Scale) -> tuple[float, float]:
    """How often the FLOPs of a target are those of the proxy, for equal steps and in all."""
    target, small = (
        BertConfig.make(**values, log2lr=RATE[scale], data="").flops()
        for values in ({**VALUES[scale], **TARGETS[name][scale]}, proxy(scale))
    )
    steps = VALUES[scale]["steps"] / PROXY[scale]["steps"]
    return target / small / steps, target / small


def claim(id: str, statement: str, left: str, right: str, paper: str) -> Claim:
    """The method `left` has no higher test loss than `right`, for either target."""
    return Claim(
        id=id,
        statement=statement,
        source="Section 7.3, Table 6",
        paper=paper,
        measure=Call(f"{FIGURES}:largest_difference", {"left": left, "right": right}),
        relation="<=",
        threshold=0.0,
        unit="nats",
    )


TABLE6 = Table(
    name="table6",
    title="BERT: hyperparameters of one small proxy for two targets",
    caption=(
        "Test loss of masked word pieces of two targets that are wider and deeper than the proxy: "
        "with default hyperparameters in SP, with those of the proxy's best sample in SP (naive "
        "transfer), and with the same in µP (µTransfer). The speedups say how much cheaper a "
        "training of the proxy is, for equal steps and in all, by floating-point operations and, "
        "in brackets, measured. Accuracies are of held-out examples after finetuning on each task."
    ),
    source="Table 6; Section 7.3 and Appendix F.3",
    sweeps=(
        Sweep.by_scale("bert_search", BertConfig, search),
        Sweep.by_scale("bert_default", BertConfig, default),
    ),
    follow_up=f"{FIGURES}:carry",
    render=f"{FIGURES}:render_table6",
    claims=(
        claim(
            "mup-is-not-worse-than-the-default",
            "µTransfer gives each target a test loss not above the default hyperparameters'",
            "mup",
            "default",
            "-0.025 and -0.048 nats, BERT-base and BERT-large (Table 6)",
        ),
        claim(
            "mup-is-better-than-naive-transfer",
            "µTransfer gives each target a test loss not above naive transfer's",
            "mup",
            "naive",
            "naive transfer diverges (Table 6)",
        ),
        claim(
            "naive-transfer-is-not-better-than-the-default",
            "Naive transfer diverges, or gives each target a test loss not below the default's",
            "default",
            "naive",
            "naive transfer diverges (Table 6)",
        ),
    ),
)

FAMILY = Family(
    title="BERT",
    config=BertConfig,
    example={**VALUES["small"], **TARGETS["base"]["small"], "log2lr": RATE["small"]},
    base_from={
        "gpu": "hyperparameters of its own search, or small's defaults",
        "paper": "hyperparameters of the search of Appendix F.3, or Megatron-LM's defaults",
    },
    data_sources=PRETRAINING_SOURCES,
    choose_data=choose_pretraining,
    tables=(TABLE6,),
)
