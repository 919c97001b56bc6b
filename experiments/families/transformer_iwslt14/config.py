"""One training on IWSLT14 De-En or its stand-in: its usual values by scale."""

from __future__ import annotations

import math
from typing import Any

from experiments.declare.scales import Scale
from experiments.translation.config import TranslationConfig


class Iwslt14Config(TranslationConfig):
    """A model that translates German to English."""


# Appendix F.1, and fairseq's recipe for IWSLT14 (examples/translation/README.md), where the paper
# points to it: 100 epochs of about 1,100 steps, and d_ffn = 2 d_model, which gives the paper's 40M
# parameters. The target is the base model.
TARGET: dict[str, Any] = {
    "width": 512,
    "base_width": 512,
    "d_ffn": 1024,
    "base_d_ffn": 1024,
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
    "backend": "fairseq",
}
SMALL: dict[str, Any] = {
    "width": 128,
    "base_width": 128,
    "d_ffn": 256,
    "base_d_ffn": 256,
    "n_head": 2,
    "n_encoder_layer": 2,
    "n_decoder_layer": 2,
    "steps": 700,
    "batch_size": 1024,
    "vocab_size": 2_000,
    "weight_decay": 0.0,
    "warmup": 70,
    "dropout": 0.0,
    "backend": "here",
}
WIDER: dict[str, int] = {"width": 256, "base_width": 256, "d_ffn": 512, "base_d_ffn": 512}
SMOKE: dict[str, Any] = {
    **SMALL,
    "width": 16,
    "base_width": 16,
    "d_ffn": 32,
    "base_d_ffn": 32,
    "n_encoder_layer": 1,
    "n_decoder_layer": 1,
    "steps": 4,
    "batch_size": 256,
    "vocab_size": 300,
    "warmup": 2,
}
VALUES: dict[Scale, dict[str, Any]] = {
    "paper": TARGET,
    "gpu": {**TARGET, **SMALL, **WIDER},
    "small": {**TARGET, **SMALL},
    "smoke": {**TARGET, **SMOKE},
}
"""A run of the target by scale."""
QUARTER: dict[Scale, dict[str, int]] = {
    "paper": {"width": 128, "d_ffn": 256},
    "gpu": {"width": 64, "d_ffn": 128},
    "small": {"width": 32, "d_ffn": 64},
    "smoke": {"width": 8, "d_ffn": 16},
}
"""The proxy of 0.25x: all dimensions but the number of heads are a quarter."""
CENTRE: dict[Scale, float] = {"paper": math.log2(5e-4), "gpu": -8.0, "small": -8.0, "smoke": -8.0}
"""log2 of the rate around which the grids lie: fairseq's at `paper`."""
