"""One pretraining of a GPT-3-like model: its keys, its cost, its usual values by scale."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from experiments.declare.dimensions import TransformerDims
from experiments.declare.scales import Scale


class GptConfig(TransformerDims):
    """A language model with relative positions."""

    task: ClassVar[str] = f"{__package__}.task:Pretraining"
    overhead: ClassVar[float] = 0.02
    of_model: ClassVar[frozenset[str] | None] = frozenset(
        {"init_scale", "attn_temperature", "output_temperature", "embed_mult", "relative_mult"}
    )
    tokens: ClassVar[str] = "byte pairs"
    measures: ClassVar[tuple[str, ...]] = ("count_exponents", "evaluations", "documents")
    layer_norm: ClassVar[Literal["pre", "post", ""]] = "pre"

    seq_len: int = Field(gt=0, description="tokens a sequence")
    vocab_size: int = Field(gt=1, description="byte pairs, and the end of a document")
    n_layer: int = Field(4, gt=0, description="blocks of attention and feed-forward")
    attention: Literal["relative", "absolute"] = Field(
        "relative", description="positions: Transformer-XL's, or a learned vector for each"
    )
    init_scale: float = Field(1.0, gt=0, description="factor of the std of all weights")
    attn_temperature: float = Field(1.0, gt=0, description="divides the attention logits")
    output_temperature: float = Field(1.0, gt=0, description="divides the logits")
    embed_mult: float = Field(1.0, gt=0, description="multiplier of the embeddings")
    relative_mult: float = Field(1.0, gt=0, description="multiplier of relative positions")
    count_exponents: bool = Field(
        False, description="count the binary exponents of the gradients at the end"
    )
    evaluations: str = Field(
        "", description="tasks of lm-eval at the end, as task:shots, separated by commas"
    )
    documents: int = Field(200, gt=0, description="of each local task, evenly spread over it")

    def idle(self) -> dict[str, str]:
        found = super().idle()
        if not self.evaluations:
            found["documents"] = "no evaluations"
        if self.attention == "absolute":
            found["relative_mult"] = "attention=absolute"
        return found

    def flops(self) -> float:
        """Training FLOPs: 6 for each matrix weight and token, and the attention products.

        Vectors of relative positions are projected once a block and batch.
        """
        d = self.dims()
        keys, values = d["n_head"] * d["d_k"], d["n_head"] * d["d_head"]
        terms = 2 if self.attention == "relative" else 1  # of content and of position
        per_layer = 2 * d["d_model"] * (keys + values) + 2 * d["d_model"] * d["d_ffn"]
        products = (terms * keys + values) * self.seq_len
        weights = d["d_model"] * self.vocab_size + self.n_layer * (per_layer + products)
        projected = (terms - 1) * self.n_layer * d["d_model"] * keys
        return 6.0 * self.seq_len * (weights * self.batch_size + projected) * self.steps


# Appendix F.4 and Section 8. Batch, length and vocabulary are those of GPT-3 (arXiv:2005.14165),
# whose batch of 2 M tokens is 1,024 sequences; heads have 128 numbers, as in its 6.7B model, whose
# tokens of training are 300 billion. So the horizons of 4 and 16 billion are 1,900 and 7,600 steps.
D_HEAD: dict[Scale, int] = {"paper": 128, "gpu": 32, "small": 32, "smoke": 8}
BASE_WIDTH: dict[Scale, int] = {"paper": 256, "gpu": 64, "small": 64, "smoke": 16}
"""Width of the proxy, at which µP equals SP."""
PAPER: dict[str, Any] = {
    "steps": 7_600,
    "batch_size": 1024,
    "seq_len": 2048,
    "vocab_size": 50_257,
    "n_layer": 32,
    "beta2": 0.95,
    "grad_clip": 1.0,
    "schedule": "linear",
}
SMALL: dict[str, Any] = {
    "steps": 400,
    "batch_size": 16,
    "seq_len": 64,
    "vocab_size": 2_000,
    "n_layer": 4,
}
SMOKE: dict[str, Any] = {
    "steps": 6,
    "batch_size": 4,
    "seq_len": 16,
    "vocab_size": 400,
    "n_layer": 2,
}
VALUES: dict[Scale, dict[str, Any]] = {
    "paper": PAPER,
    "gpu": {**PAPER, **SMALL},
    "small": {**PAPER, **SMALL},
    "smoke": {**PAPER, **SMOKE},
}
"""Values of a run by scale, without its width."""


def of_width(scale: Scale, width: int) -> dict[str, int]:
    """The dimensions of a width: heads of one size, as many as fit."""
    base = BASE_WIDTH[scale]
    heads, base_heads = (max(1, n // D_HEAD[scale]) for n in (width, base))
    return {"width": width, "n_head": heads, "base_width": base, "base_n_head": base_heads}
