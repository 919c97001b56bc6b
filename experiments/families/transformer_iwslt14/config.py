"""One training on IWSLT14 De-En or its stand-in: its usual values by scale."""

from __future__ import annotations

import math
from typing import Any

from experiments.declare.scales import Scale
from experiments.translation.config import TranslationConfig


class Iwslt14Config(TranslationConfig):
    """A model that translates German to English."""


# Appendix F.1, and fairseq's recipe for IWSLT14 (examples/translation/README.md), where the paper
# points to it: 100 epochs of about 1,100 steps. The paper's d_ffn is 4 d_model; fairseq's
# architecture has 2 d_model. The target is the base model.
TARGET: dict[str, Any] = {
    "width": 512,
    "base_width": 512,
    "n_head": 4,
    "steps": 110_000,
    "batch_size": 4096,
    "vocab_size": 10_000,
    "beta2": 0.98,
    "weight_decay": 1e-4,
    "schedule": "inv_sqrt",
    "warmup": 4_000,
    "dropout": 0.3,
    "beam": 5,
}
SMALL: dict[str, Any] = {
    "width": 128,
    "base_width": 128,
    "n_head": 2,
    "n_encoder_layer": 2,
    "n_decoder_layer": 2,
    "steps": 1_000,
    "batch_size": 1024,
    "vocab_size": 2_000,
    "weight_decay": 0.0,
    "warmup": 100,
    "dropout": 0.0,
}
SMOKE: dict[str, Any] = {
    **SMALL,
    "width": 16,
    "base_width": 16,
    "n_encoder_layer": 1,
    "n_decoder_layer": 1,
    "steps": 4,
    "batch_size": 256,
    "vocab_size": 300,
    "warmup": 2,
}
VALUES: dict[Scale, dict[str, Any]] = {
    "paper": {**TARGET, "backend": "fairseq"},
    "small": {**TARGET, **SMALL},
    "smoke": {**TARGET, **SMOKE},
}
"""A run of the target by scale."""
QUARTER: dict[Scale, dict[str, int]] = {
    "paper": {"width": 128},
    "small": {"width": 32},
    "smoke": {"width": 8},
}
"""The proxy of 0.25x: all dimensions but the number of heads are a quarter."""
CENTRE: dict[Scale, float] = {"paper": math.log2(5e-4), "small": -8.0, "smoke": -8.0}
"""log2 of the rate around which the grids lie: fairseq's at `paper`."""
