"""One training of the Transformer on WikiText-2: its keys, its cost, its usual values by scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from experiments.declare.config import RunConfig
from experiments.declare.scales import Scale

TUNED = Path(__file__).with_name("tuned.json")
DIMS = ("n_head", "d_head", "d_k", "d_ffn")


class TransformerConfig(RunConfig):
    """A language model; `width` is d_model. Dimensions left at None follow from the width."""

    task: ClassVar[str] = f"{__package__}.task:LanguageModeling"
    overhead: ClassVar[float] = 0.009

    seq_len: int = Field(gt=0, description="tokens a sequence")
    vocab_size: int = Field(gt=1, description="words, the most frequent ones")
    n_layer: int = Field(2, gt=0, description="blocks of attention and feed-forward")
    n_head: int = Field(4, gt=0, description="attention heads")
    d_head: int | None = Field(None, gt=0, description="of a value (width / n_head)")
    d_k: int | None = Field(None, gt=0, description="of a query and a key (d_head)")
    d_ffn: int | None = Field(None, gt=0, description="of the feed-forward layer (4 width)")
    base_n_head: int | None = Field(None, gt=0, description="of the base model (n_head)")
    base_d_head: int | None = Field(None, gt=0, description="of the base model")
    base_d_k: int | None = Field(None, gt=0, description="of the base model")
    base_d_ffn: int | None = Field(None, gt=0, description="of the base model")
    base_n_layer: int | None = Field(
        None, gt=0, description="depth at which depth-µP changes nothing; none: no depth-µP"
    )
    norm: Literal["pre", "post"] = Field("post", description="place of the layer normalization")
    activation: Literal["relu", "gelu"] = Field("relu", description="of the feed-forward layer")
    tied: bool = Field(False, description="one matrix for embedding and readout")
    bias: bool = Field(False, description="biases in linear layers")
    output_mult: float = Field(1.0, gt=0, description="multiplier of the logits")
    attn_mult: float = Field(1.0, gt=0, description="multiplier of the attention logits")
    embed_mult: float = Field(1.0, gt=0, description="multiplier of the embeddings")
    init_std: float = Field(1.0, gt=0, description="std of weights, times 1/sqrt(fan_in)")
    zero_readout: bool = Field(True, description="readout starts at zero")
    zero_query: bool = Field(False, description="queries start at zero")

    @model_validator(mode="after")
    def _depth_mup_is_of_residual_branches(self) -> Self:
        if self.base_n_layer is not None and self.norm != "pre":
            raise ValueError("base_n_layer: depth-µP needs norm=pre: post-norm undoes its scaling")
        return self

    def dims(self, base: bool = False) -> dict[str, int]:
        """d_model, n_head, d_head, d_k and d_ffn of the model or of its base."""
        prefix, width = ("base_", self.base_width) if base else ("", self.width)
        given = {d: getattr(self, prefix + d) for d in DIMS}
        n_head = given["n_head"] or self.n_head
        d_head = given["d_head"] or max(1, width // n_head)
        return {
            "d_model": width,
            "n_head": n_head,
            "d_head": d_head,
            "d_k": given["d_k"] or d_head,
            "d_ffn": given["d_ffn"] or 4 * width,
        }

    def narrowed(self, width: int) -> Self:
        """As of any run; given dimensions shrink with the width, the number of heads stays."""
        narrow = super().narrowed(width)
        given = {d: getattr(self, d) for d in DIMS if d != "n_head"}
        dims = {d: max(1, round(x * width / self.width)) for d, x in given.items() if x is not None}
        if self.parametrization == "sp":
            wide = self.dims()
            dims |= {f"base_{d}": wide[d] for d in DIMS}
        return narrow.replace(**dims)

    def canonical(self) -> dict[str, Any]:
        values = super().canonical()
        for dim in DIMS:
            values.pop(dim, None)
            values.pop(f"base_{dim}", None)
        values["dims"] = self.dims()
        if self.parametrization == "mup":
            values["base_dims"] = self.dims(base=True)
        return values

    def flops(self) -> float:
        """Training FLOPs: 6 for each matrix weight and token, and the attention products."""
        d = self.dims()
        heads = d["n_head"] * (2 * d["d_k"] + 2 * d["d_head"])
        per_layer = d["d_model"] * heads + 2 * d["d_model"] * d["d_ffn"]
        attention = self.n_layer * d["n_head"] * (d["d_k"] + d["d_head"]) * self.seq_len
        weights = self.n_layer * per_layer + d["d_model"] * self.vocab_size
        return 6.0 * (weights + attention) * self.seq_len * self.batch_size * self.steps


def tuned() -> dict[str, Any]:
    """Multipliers and init std as `python -m experiments tune` found them at base width."""
    if not TUNED.exists():
        return {}
    best: dict[str, Any] = json.loads(TUNED.read_text(encoding="utf-8"))["best"]
    return {k: v for k, v in best.items() if k != "log2lr"}


# The paper's Fig. 1: 2 layers, 5 epochs of 2.09 M tokens; batch and length as in its Fig. 4.
PAPER: dict[str, Any] = {
    "base_width": 128,
    "steps": 2040,
    "batch_size": 20,
    "seq_len": 256,
    "vocab_size": 33278,
    "norm": "post",
    "optimizer": "adam",
}
SMALL: dict[str, Any] = {
    "base_width": 32,
    "steps": 250,
    "batch_size": 16,
    "seq_len": 64,
    "vocab_size": 2000,
}
SMOKE: dict[str, Any] = {
    "base_width": 16,
    "steps": 6,
    "batch_size": 4,
    "seq_len": 16,
    "vocab_size": 200,
}
BASE: dict[Scale, dict[str, Any]] = {
    "paper": {**PAPER, **tuned()},
    "small": SMALL,
    "smoke": SMOKE,
}
"""Values of a base run: those of `paper`, and what the other scales override."""
