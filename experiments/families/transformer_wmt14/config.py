"""One training on WMT14 En-De or its stand-in: its usual values by scale."""

from __future__ import annotations

import math
from typing import Any

from experiments.declare.scales import Scale
from experiments.translation.config import TranslationConfig


class Wmt14Config(TranslationConfig):
    """A model that translates English to German."""


# Appendix F.2, and the large Transformer of Vaswani et al. 2017: 300,000 steps of 25,000 tokens.
TARGET: dict[str, Any] = {
    "width": 1024,
    "base_width": 1024,
    "n_head": 16,
    "shared": "all",
    "steps": 300_000,
    "batch_size": 25_000,
    "vocab_size": 32_768,
    "beta2": 0.98,
    "schedule": "inv_sqrt",
    "warmup": 4_000,
    "dropout": 0.3,
    "beam": 5,
    "backend": "fairseq",
    "length_penalty": 0.6,
}
SMALL: dict[str, Any] = {
    "width": 128,
    "base_width": 128,
    "n_head": 4,
    "n_encoder_layer": 2,
    "n_decoder_layer": 2,
    "steps": 500,
    "batch_size": 1024,
    "vocab_size": 2_000,
    "warmup": 50,
    "dropout": 0.0,
    "backend": "here",
}
SMOKE: dict[str, Any] = {
    **SMALL,
    "width": 32,
    "base_width": 32,
    "n_encoder_layer": 1,
    "n_decoder_layer": 1,
    "steps": 4,
    "batch_size": 512,
    "vocab_size": 300,
    "warmup": 2,
}
VALUES: dict[Scale, dict[str, Any]] = {
    "paper": TARGET,
    "gpu": {**TARGET, **SMALL, "width": 256, "base_width": 256, "n_head": 8},
    "small": {**TARGET, **SMALL},
    "smoke": {**TARGET, **SMOKE},
}
"""A run of the target by scale."""
QUARTER: dict[Scale, dict[str, int]] = {
    "paper": {"width": 256, "d_ffn": 256, "n_head": 4, "base_n_head": 16, "base_d_ffn": 4096},
    "gpu": {"width": 64, "d_ffn": 64, "n_head": 2, "base_n_head": 8, "base_d_ffn": 1024},
    "small": {"width": 32, "d_ffn": 32, "n_head": 1, "base_n_head": 4, "base_d_ffn": 512},
    "smoke": {"width": 8, "d_ffn": 8, "n_head": 1, "base_n_head": 4, "base_d_ffn": 128},
}
"""The proxy of 0.25x: d_k stays, the number of heads shrinks, and d_ffn more than d_model."""
CENTRE: dict[Scale, float] = {"paper": math.log2(6e-4), "gpu": -8.0, "small": -8.0, "smoke": -8.0}
"""log2 of the rate around which the grids lie."""
