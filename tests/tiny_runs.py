"""A configuration small enough to train in a tenth of a second."""

from experiments.families.transformer_wikitext2.config import TransformerConfig

TINY = {
    "data": "wikitext2",
    "width": 32,
    "base_width": 16,
    "log2lr": -7.0,
    "steps": 5,
    "batch_size": 4,
    "seq_len": 8,
    "vocab_size": 100,
}


def tiny_run(**changes) -> TransformerConfig:
    return TransformerConfig.make(**{**TINY, **changes})
