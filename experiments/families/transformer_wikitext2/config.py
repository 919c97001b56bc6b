"""One training of the Transformer on WikiText-2: its keys, its cost, its usual values by scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from experiments.declare.dimensions import TransformerDims
from experiments.declare.scales import SCALES, Scale
from experiments.declare.tuned import Tuned, tuned_at


class TransformerConfig(TransformerDims):
    """A language model."""

    task: ClassVar[str] = f"{__package__}.task:LanguageModeling"
    overhead: ClassVar[float] = 0.009
    idle_in_sweeps: ClassVar[frozenset[str]] = frozenset({"base_n_layer"})
    of_model: ClassVar[frozenset[str] | None] = frozenset(
        {"output_mult", "attn_mult", "embed_mult", "init_std", "zero_readout", "zero_query"}
    )

    seq_len: int = Field(gt=0, description="tokens a sequence")
    vocab_size: int = Field(gt=1, description="words, the most frequent ones")
    n_layer: int = Field(2, gt=0, description="blocks of attention and feed-forward")
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

    def idle(self) -> dict[str, str]:
        found = super().idle()
        if self.tied:
            found["zero_readout"] = "tied=True"
        if self.base_n_layer == self.n_layer:
            found["base_n_layer"] = f"n_layer={self.n_layer}, at which depth-µP is none"
        return found

    def flops(self) -> float:
        """Training FLOPs: 6 for each matrix weight and token, and the attention products."""
        d = self.dims()
        heads = d["n_head"] * (2 * d["d_k"] + 2 * d["d_head"])
        per_layer = d["d_model"] * heads + 2 * d["d_model"] * d["d_ffn"]
        attention = self.n_layer * d["n_head"] * (d["d_k"] + d["d_head"]) * self.seq_len
        weights = self.n_layer * per_layer + d["d_model"] * self.vocab_size
        return 6.0 * (weights + attention) * self.seq_len * self.batch_size * self.steps


TUNED: dict[Scale, Tuned] = {
    scale: tuned_at(Path(__file__).parent, TransformerConfig, scale) for scale in SCALES
}


def tuned(scale: Scale) -> dict[str, Any]:
    """Multipliers and init std as `python -m experiments tune` found them at base width."""
    return {k: v for k, v in TUNED[scale].best.items() if k != "log2lr"}


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
    "paper": {**PAPER, **tuned("paper")},
    "gpu": {**SMALL, **tuned("gpu")},
    "small": {**SMALL, **tuned("small")},
    "smoke": {**SMOKE, **tuned("smoke")},
}
"""Values of a base run: those of `paper`, and what the other scales override."""
LOG2LR: dict[Scale, float] = {
    **dict.fromkeys(SCALES, -7),
    "paper": TUNED["paper"].best.get("log2lr", -7),
}
"""log2 of the rate where it is not swept: the best one of the search."""
