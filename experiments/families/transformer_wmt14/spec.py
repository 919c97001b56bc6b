"""The encoder-decoder Transformer on WMT14 En-De: what is trained and shown."""

from __future__ import annotations

from experiments.data.translation_source import WMT_SOURCES, choose_wmt
from experiments.declare.family import Family
from experiments.declare.product import Table
from experiments.families.transformer_wmt14.config import CENTRE, QUARTER, VALUES, Wmt14Config
from experiments.translation.spec_search import CAPTION, Tuning

TUNING = Tuning(
    name="wmt14",
    config=Wmt14Config,
    target=VALUES,
    proxy=QUARTER,
    centre=CENTRE,
    at_target={"paper": 9, "gpu": 8, "small": 8, "smoke": 2},
    at_proxy={"paper": 192, "gpu": 32, "small": 32, "smoke": 3},
    seeds={"paper": 1, "gpu": 5, "small": 1, "smoke": 1},
    budgets=(3,),
    one=3,
    trials=3,
    percentiles=(0, 50, 100),
)
TABLE5 = Table(
    name="table5",
    title="Tuning on WMT14 En-De: worst, median and best BLEU of three trials",
    caption=CAPTION,
    source="Table 5; Section 7.2 and Appendix F.2",
    sweeps=TUNING.sweeps,
    follow_up=TUNING.follow_up,
    render=TUNING.render(
        ("worst", "median", "best"),
        (
            ("fairseq default, paper", "–", "–", "–", "–", "26.40"),
            ("Tuning on 1x, paper", "1x", "3", "diverged", "diverged", "25.69"),
            ("Naive transfer from 0.25x, paper", "1x", "64", *["diverged"] * 3),
            ("µTransfer from 0.25x, paper", "1x", "64", "25.94", "26.34", "26.42"),
        ),
    ),
    claims=(
        TUNING.least_gain("Section 7.2, Table 5"),
        TUNING.spread(
            "Section 7.2, Table 5",
            paper="0.48 BLEU for µTransfer; two of three trials of tuning on 1x diverge (Table 5)",
        ),
        TUNING.naive("Section 7.2, Table 5"),
    ),
)

FAMILY = Family(
    title="Transformer on WMT14 En-De",
    config=Wmt14Config,
    example={**VALUES["small"], "log2lr": CENTRE["small"]},
    base_from={
        "gpu": "base hyperparameters of no search, those of the scale small",
        "paper": "base hyperparameters of fairseq's recipe, multipliers 1",
    },
    data_sources=WMT_SOURCES,
    choose_data=choose_wmt,
    tables=(TABLE5,),
)
