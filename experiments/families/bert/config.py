"""One pretraining of BERT: its keys, its cost, its usual values by scale."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from experiments.declare.config import LARGEST_LOG2
from experiments.declare.dimensions import TransformerDims
from experiments.declare.references import Reference
from experiments.declare.scales import Scale

FINETUNED_LENGTH = 128  # tokens of an example in finetuning, at most (Appendix F.3)


class BertConfig(TransformerDims):
    """A masked language model."""

    task: ClassVar[str] = f"{__package__}.task:MaskedLanguageModeling"
    measures: ClassVar[tuple[str, ...]] = ("finetune_examples", "finetune_epochs")
    idle_in_sweeps: ClassVar[frozenset[str]] = frozenset({"embed_log2lr", "warmup"})
    overhead: ClassVar[float] = 0.03
    tokens: ClassVar[str] = "word pieces"

    seq_len: int = Field(gt=2, description="tokens a sequence, [CLS] and [SEP] among them")
    vocab_size: int = Field(gt=5, description="word pieces, the five special ones among them")
    n_layer: int = Field(gt=0, description="blocks of attention and feed-forward")
    dropout: float = Field(0.0, ge=0, lt=1, description="of hidden values and of attention")
    embed_log2lr: float | None = Field(
        None,
        ge=-LARGEST_LOG2,
        le=LARGEST_LOG2,
        description="base-2 logarithm of the embeddings' master rate (log2lr)",
    )
    output_mult: float = Field(1.0, gt=0, description="multiplier of the logits")
    attn_mult: float = Field(1.0, gt=0, description="multiplier of the attention logits")
    gain_mult: float = Field(
        1.0, gt=0, description="factor of Adam's rate of normalizations' gains"
    )
    bias_mult: float = Field(1.0, gt=0, description="factor of Adam's rate of biases")
    finetune_examples: int = Field(
        0,
        ge=0,
        description="of each task of GLUE, at most, on which a copy is finetuned at the end",
    )
    finetune_epochs: int = Field(5, gt=0, description="over those examples")
    finetune_log2lr: float = Field(
        math.log2(5e-5),
        ge=-LARGEST_LOG2,
        le=LARGEST_LOG2,
        description="base-2 logarithm of Adam's rate in finetuning",
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        for prefix in ("", "base_") if self.parametrization == "mup" else ("",):
            d = self.dims(base=bool(prefix))
            if not d["d_model"] == d["n_head"] * d["d_head"] == d["n_head"] * d["d_k"]:
                raise ValueError(
                    f"{prefix}d_head and {prefix}d_k: MegatronBert has {prefix}width / "
                    f"{prefix}n_head, not {d['d_head']} and {d['d_k']} with {prefix}width "
                    f"{d['d_model']} and {prefix}n_head {d['n_head']}"
                )
        return self

    def idle(self) -> dict[str, str]:
        found = super().idle()
        if self.optimizer == "sgd":  # factors of Adam's rates
            rates = ("embed_log2lr", "gain_mult", "bias_mult")
            found |= dict.fromkeys(rates, "optimizer=sgd")
        if not self.finetune_examples:
            keys = ("finetune_epochs", "finetune_log2lr")
            found |= dict.fromkeys(keys, "finetune_examples=0")
        if self.embed_log2lr == self.log2lr:
            found["embed_log2lr"] = f"log2lr={self.log2lr:g}, which it has anyway"
        return found

    def model(self) -> Reference:
        return f"{__package__}.unparametrized:build"

    def flops(self) -> float:
        """Training FLOPs: 6 for each matrix weight and token, and the attention products.

        Finetuning is counted as if every example of its three tasks had the greatest length.
        """
        d = self.dims()
        keys = d["n_head"] * d["d_k"]
        per_layer = 4 * d["d_model"] * keys + 2 * d["d_model"] * d["d_ffn"]
        head = d["d_model"] * (d["d_model"] + self.vocab_size)
        weights = self.n_layer * (per_layer + 2 * keys * self.seq_len) + head
        tokens = self.seq_len * self.batch_size * self.steps
        examples = 3 * self.finetune_examples * self.finetune_epochs
        return 6.0 * weights * (tokens + examples * min(FINETUNED_LENGTH, self.seq_len))


# Section 7.3, Appendix F.3; where they are silent, Megatron-LM's BERT (arXiv:1909.08053, Section
# 4.2 and its scripts): linear decay after a warm-up of 1 %, weight decay 0.01, gradients clipped
# at 1, dropout 0.1. Ours: the base model is the proxy.
PAPER: dict[str, Any] = {
    "base_width": 256,
    "base_n_head": 8,
    "base_d_ffn": 256,
    "steps": 1_000_000,
    "batch_size": 256,
    "seq_len": 512,
    "vocab_size": 30_522,
    "dropout": 0.1,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "grad_clip": 1.0,
    "schedule": "linear",
    "warmup": 10_000,
}
SMALL: dict[str, Any] = {
    "base_width": 32,
    "base_n_head": 2,
    "base_d_ffn": 32,
    "steps": 1_800,
    "batch_size": 16,
    "seq_len": 64,
    "vocab_size": 2_000,
    "dropout": 0.0,
    "warmup": 18,
}
SMOKE: dict[str, Any] = {
    "base_width": 16,
    "base_n_head": 2,
    "base_d_ffn": 16,
    "steps": 6,
    "batch_size": 4,
    "seq_len": 16,
    "vocab_size": 400,
    "dropout": 0.0,
    "warmup": 1,
}
VALUES: dict[Scale, dict[str, Any]] = {
    "paper": PAPER,
    "gpu": {**PAPER, **SMALL},
    "small": {**PAPER, **SMALL},
    "smoke": {**PAPER, **SMOKE},
}
"""Values of a target's run by scale, without its size."""
FINETUNING: dict[Scale, dict[str, Any]] = {
    "paper": {"finetune_examples": 1_000_000},
    "gpu": {"finetune_examples": 400, "finetune_epochs": 1, "finetune_log2lr": -11.0},
    "small": {"finetune_examples": 400, "finetune_epochs": 1, "finetune_log2lr": -11.0},
    "smoke": {"finetune_examples": 64, "finetune_epochs": 1, "finetune_log2lr": -10.0},
}
"""Of a target. At `paper` all examples there are; below it little was learned before, so that the
rate is higher."""
Size = dict[str, int]
PROXY: dict[Scale, Size] = {
    "paper": {"width": 256, "d_ffn": 256, "n_head": 8, "n_layer": 10, "steps": 100_000},
    "gpu": {"width": 32, "d_ffn": 32, "n_head": 2, "n_layer": 2, "steps": 750},
    "small": {"width": 32, "d_ffn": 32, "n_head": 2, "n_layer": 2, "steps": 750},
    "smoke": {"width": 16, "d_ffn": 16, "n_head": 2, "n_layer": 2, "steps": 4},
}
"""BERT-prototype, which is trained for a tenth of the targets' steps at `paper`."""
TARGETS: dict[str, dict[Scale, Size]] = {
    "base": {
        "paper": {"width": 768, "d_ffn": 3072, "n_head": 12, "n_layer": 12},
        "gpu": {"width": 512, "d_ffn": 2048, "n_head": 32, "n_layer": 4},
        "small": {"width": 64, "d_ffn": 256, "n_head": 4, "n_layer": 3},
        "smoke": {"width": 32, "d_ffn": 64, "n_head": 2, "n_layer": 2},
    },
    "large": {
        "paper": {"width": 1024, "d_ffn": 4096, "n_head": 16, "n_layer": 24},
        "gpu": {"width": 896, "d_ffn": 3584, "n_head": 56, "n_layer": 6},
        "small": {"width": 96, "d_ffn": 384, "n_head": 6, "n_layer": 4},
        "smoke": {"width": 48, "d_ffn": 96, "n_head": 3, "n_layer": 3},
    },
}
DEFAULT_RATE = math.log2(1e-4)
"""Megatron's, with which all multipliers are 1."""
