"""A decoder-only Transformer whose every dimension is free, in SP or µP.

Axes: B batch, L sequence, D d_model, H n_head, K d_k, W d_head (of values), F d_ffn, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupkit
from experiments.models.building import Model, build, times
from experiments.models.readout import Readout, SharedReadout
from mupkit import init


@dataclass(frozen=True)
class TransformerShape:
    """The dimensions of a Transformer; the base model differs from the target in these alone."""

    d_model: int
    n_head: int
    d_head: int
    d_k: int
    d_ffn: int

    def all_different(self) -> TransformerShape:
        """A shape that shares no dimension with this one."""
        return TransformerShape(
            self.d_model + 1, self.n_head + 1, self.d_head + 1, self.d_k + 1, self.d_ffn + 1
        )


@dataclass(frozen=True)
class TransformerOptions:
    """What does not scale with width; multipliers and std are hyperparameters that transfer."""

    vocab_size: int
    seq_len: int
    n_layer: int
    base_n_layer: int | None = None
    norm: Literal["pre", "post"] = "post"
    activation: Literal["relu", "gelu"] = "relu"
    tied: bool = False
    bias: bool = False
    output_mult: float = 1.0
    attn_mult: float = 1.0
    embed_mult: float = 1.0
    init_std: float = 1.0
    zero_readout: bool = True
    zero_query: bool = False

    @property
    def depth_factor(self) -> float:
        """The factor of residual branches and of Adam's rates in them: depth-µP's, or 1 without it.

        sqrt(base_n_layer / n_layer), with the initialization of the branches as it is.

        Source: Tensor Programs VI (arXiv:2310.02244), Table 1, "Depth-µP", for Adam.
        """
        return 1.0 if self.base_n_layer is None else (self.base_n_layer / self.n_layer) ** 0.5


class Attention(nn.Module):
    """Causal self-attention with logits scaled by 1/d in µP, 1/sqrt(d) in SP."""

    def __init__(self, shape: TransformerShape, options: TransformerOptions, base_d_k: int | None):
        super().__init__()
        self.n_head = shape.n_head
        self.scale = mupkit.attention_scale(shape.d_k, base_d_k, options.attn_mult)
        keys, values = shape.n_head * shape.d_k, shape.n_head * shape.d_head
        self.query = nn.Linear(shape.d_model, keys, bias=options.bias)
        self.key = nn.Linear(shape.d_model, keys, bias=options.bias)
        self.value = nn.Linear(shape.d_model, values, bias=options.bias)
        self.out = nn.Linear(values, shape.d_model, bias=options.bias)

    def forward(self, x_BLD: Tensor, mask_LL: Tensor) -> Tensor:
        # Plain products: at these sizes faster on a CPU than the fused kernel.
        q_BHLK, k_BHLK, v_BHLW = (
            proj(x_BLD).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for proj in (self.query, self.key, self.value)
        )
        logits_BHLL = (q_BHLK * self.scale) @ k_BHLK.transpose(-1, -2) + mask_LL
        y_BHLW = logits_BHLL.softmax(-1) @ v_BHLW
        y_BLD: Tensor = self.out(y_BHLW.transpose(1, 2).flatten(2))
        return y_BLD


class FeedForward(nn.Module):
    """Two linear maps around an activation."""

    def __init__(self, shape: TransformerShape, options: TransformerOptions):
        super().__init__()
        self.up = nn.Linear(shape.d_model, shape.d_ffn, bias=options.bias)
        self.down = nn.Linear(shape.d_ffn, shape.d_model, bias=options.bias)
        activations: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}
        self.activation = activations[options.activation]

    def forward(self, x_BLD: Tensor) -> Tensor:
        y_BLD: Tensor = self.down(self.activation(self.up(x_BLD)))
        return y_BLD


class Block(nn.Module):
    """Attention and feed-forward with residuals; normalization before (pre) or after (post)."""

    def __init__(self, shape: TransformerShape, options: TransformerOptions, base_d_k: int | None):
        super().__init__()
        self.pre = options.norm == "pre"
        self.branch_mult = options.depth_factor
        self.attention = Attention(shape, options, base_d_k)
        self.attention_norm = nn.LayerNorm(shape.d_model)
        self.feed_forward = FeedForward(shape, options)
        self.feed_forward_norm = nn.LayerNorm(shape.d_model)

    def forward(self, x_BLD: Tensor, mask_LL: Tensor) -> Tensor:
        if self.pre:
            y_BLD = self.attention(self.attention_norm(x_BLD), mask_LL)
            x_BLD = torch.add(x_BLD, y_BLD, alpha=self.branch_mult)
            y_BLD = self.feed_forward(self.feed_forward_norm(x_BLD))
            return torch.add(x_BLD, y_BLD, alpha=self.branch_mult)
        x_BLD = self.attention_norm(x_BLD + self.attention(x_BLD, mask_LL))
        x_BLD = self.feed_forward_norm(x_BLD + self.feed_forward(x_BLD))
        return x_BLD


class Transformer(Model):
    """Decoder-only language model. Build it with `build_transformer`, which parametrizes it.

    Source: Tensor Programs V, Definition 4.1 and Appendix B.1.
    """

    mask_LL: Tensor

    def __init__(self, shape: TransformerShape, options: TransformerOptions, base_d_k: int | None):
        super().__init__()
        self.options = options
        self.word = nn.Embedding(options.vocab_size, shape.d_model)
        self.position = nn.Embedding(options.seq_len, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape, options, base_d_k) for _ in range(options.n_layer))
        self.final_norm = nn.LayerNorm(shape.d_model) if options.norm == "pre" else nn.Identity()
        if options.tied:
            self.readout: mupkit.MuReadout = SharedReadout(
                cast(nn.Parameter, self.word.weight),
                bias=options.bias,
                output_mult=options.output_mult,
            )
        else:
            self.readout = Readout(
                shape.d_model,
                options.vocab_size,
                bias=options.bias,
                output_mult=options.output_mult,
            )
        mask_LL = torch.full((options.seq_len, options.seq_len), float("-inf")).triu(1)
        self.register_buffer("mask_LL", mask_LL, persistent=False)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Logits (B, L, V) of token numbers (B, L)."""
        length = tokens_BL.shape[1]
        x_BLD = self.word(tokens_BL) + self.position.weight[:length]
        x_BLD = times(x_BLD, self.options.embed_mult)
        mask_LL = self.mask_LL[:length, :length]
        for block in self.blocks:
            x_BLD = block(x_BLD, mask_LL)
        logits_BLV: Tensor = self.readout(self.final_norm(x_BLD))
        return logits_BLV

    def adam_factor(self, name: str) -> float:
        """The factor of a parameter's rate in Adam, beside its factor of width."""
        return self.options.depth_factor if name.startswith("blocks.") else 1.0

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Gaussian weights of std init_std/sqrt(fan_in) under the rules, embeddings of init_std."""
        std = self.options.init_std
        for name, p in self.named_parameters():
            if self._starts_at_zero(name):
                init.zeros_(p)
            elif name.startswith(("word", "position")):
                init.normal_(p, std=std)
            elif "norm" in name:
                init.ones_(p)
            else:
                init.fan_in_normal_(p, std)

    def _starts_at_zero(self, name: str) -> bool:
        return (
            name.endswith("bias")
            or (name == "readout.weight" and self.options.zero_readout)
            or (name.endswith("query.weight") and self.options.zero_query)
        )


def build_transformer(
    shape: TransformerShape, options: TransformerOptions, base: TransformerShape | None
) -> Transformer:
    """A parametrized and initialized Transformer.

    Args:
        shape: its dimensions.
        options: everything else.
        base: the dimensions at which µP equals SP; None for SP.
    """
    base_d_k = base.d_k if base else None
    return build(lambda shape: Transformer(shape, options, base_d_k), shape, base)
