"""One training of an encoder-decoder Transformer on pairs of sentences."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from experiments.declare.config import LARGEST_DIM
from experiments.declare.dimensions import TransformerDims
from experiments.declare.references import Reference


class TranslationConfig(TransformerDims):
    """A translation model; `batch_size` counts tokens."""

    task: ClassVar[str] = f"{__package__}.backends:task"
    overhead: ClassVar[float] = 0.02
    counts: ClassVar[Literal["examples", "tokens"]] = "tokens"
    tokens: ClassVar[str] = "byte pairs"
    layer_norm: ClassVar[Literal["pre", "post", ""]] = "post"
    measures: ClassVar[tuple[str, ...]] = ("beam", "backend")
    idle_in_sweeps: ClassVar[frozenset[str]] = frozenset({"length_penalty"})

    # fairseq's encoding of positions has two wavelengths or more.
    width: int = Field(ge=4, le=LARGEST_DIM, description="width of the model")
    base_width: int = Field(ge=4, le=LARGEST_DIM, description="width at which µP equals SP")
    batch_size: int = Field(gt=0, description="tokens a step, at most, padding included")
    vocab_size: int = Field(gt=4, description="byte pairs and signs, of both languages together")
    n_encoder_layer: int = Field(6, gt=0, description="blocks of the encoder")
    n_decoder_layer: int = Field(6, gt=0, description="blocks of the decoder")
    shared: Literal["none", "decoder", "all"] = Field(
        "decoder", description="embeddings that are one matrix: of the decoder with the readout"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of activations that are dropped")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the training loss")
    output_mult: float = Field(1.0, gt=0, description="multiplier of the logits")
    attn_mult: float = Field(1.0, gt=0, description="multiplier of the attention logits")
    init_std: float = Field(1.0, gt=0, description="std of weights, times 1/sqrt(fan_in)")
    beam: int = Field(
        0, ge=0, le=100, description="of the search for translations at the end; 0: none"
    )
    length_penalty: float = Field(
        1.0, ge=-100, le=100, description="exponent of the length in beam search"
    )
    backend: Literal["here", "fairseq"] = Field("here", description="what trains the model")

    @model_validator(mode="after")
    def _fairseq_trains_with_adam_in_float32(self) -> Self:
        if self.backend == "fairseq":
            for key, only in (("precision", "float32"), ("optimizer", "adam")):
                if getattr(self, key) != only:
                    raise ValueError(f"{key}: with backend=fairseq it is {only}")
        return self

    def idle(self) -> dict[str, str]:
        return super().idle() | ({} if self.beam else {"length_penalty": "beam=0"})

    def model(self) -> Reference:
        return f"{__package__}.task:build"

    def flops(self) -> float:
        """Training FLOPs: 6 for each matrix weight and token; attention products are few."""
        d = self.dims()
        attention = d["d_model"] * d["n_head"] * (2 * d["d_k"] + 2 * d["d_head"])
        feed_forward = 2 * d["d_model"] * d["d_ffn"]
        encoder = self.n_encoder_layer * (attention + feed_forward)
        decoder = self.n_decoder_layer * (2 * attention + feed_forward)
        weights = encoder + decoder + d["d_model"] * self.vocab_size
        return 6.0 * weights * self.batch_size * self.steps
