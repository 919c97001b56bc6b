"""A decoder-only pre-layernorm Transformer with relative or absolute positions, in SP or µP.

Axes: B batch, L sequence, D d_model, H n_head, K d_k, W d_head (of values), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupkit
from experiments.models.building import Model, build, times
from experiments.models.readout import SharedReadout
from experiments.models.transformer import TransformerShape
from mupkit import init

EMBEDDING_STD = 0.02  # of GPT-2 and BERT


@dataclass(frozen=True)
class RelativeOptions:
    """What does not scale with width; all but the first four are hyperparameters that transfer.

    Args:
        vocab_size: ids.
        seq_len: tokens of the longest sequence.
        n_layer: blocks.
        attention: relative: logits have terms of content and of relative position; absolute: of
            content alone, and a learned vector for each position is added to the embeddings.
        init_scale: multiplies the std of all weights.
        attn_temperature: divides the attention logits.
        output_temperature: divides the logits.
        embed_mult: multiplies the embeddings.
        relative_mult: multiplies the vectors of relative positions.

    Source: Tensor Programs V, Appendix F.4.
    """

    vocab_size: int
    seq_len: int
    n_layer: int
    attention: Literal["relative", "absolute"] = "relative"
    init_scale: float = 1.0
    attn_temperature: float = 1.0
    output_temperature: float = 1.0
    embed_mult: float = 1.0
    relative_mult: float = 1.0


def distances(length: int, d_model: int) -> Tensor:
    """Sinusoids of the distances length - 1 down to 0, (L, D): sines, then cosines.

    Source: Transformer-XL (arXiv:1901.02860), Section 3.3, with the frequencies of Vaswani et al.
    """
    far = torch.arange(length - 1, -1, -1, dtype=torch.float32)
    rates = 10_000.0 ** (-torch.arange(0, d_model, 2) / d_model)
    angles = far[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :d_model]


def by_distance(logits_BHLL: Tensor) -> Tensor:
    """Logits of query i for each distance as logits of query i for each key j <= i.

    Column c holds the distance L - 1 - c, so that row i is moved left by L - 1 - i. What comes to
    stand at keys after the query means nothing: it is masked.

    Source: Transformer-XL (arXiv:1901.02860), Appendix B.
    """
    B, H, L, _ = logits_BHLL.shape
    padded = F.pad(logits_BHLL, (1, 0)).view(B, H, L + 1, L)
    return padded[:, :, 1:]


class Attention(nn.Module):
    """Causal self-attention with logits scaled by 1/d in µP, 1/sqrt(d) in SP.

    The logit of query i and key j is (q_i + u)·k_j + (q_i + v)·W r_(i-j), where r is a sinusoid of
    the distance. With absolute positions it is q_i·k_j.
    """

    def __init__(self, shape: TransformerShape, options: RelativeOptions, base_d_k: int | None):
        super().__init__()
        self.n_head = shape.n_head
        self.scale = mupkit.attention_scale(shape.d_k, base_d_k, 1 / options.attn_temperature)
        keys, values = shape.n_head * shape.d_k, shape.n_head * shape.d_head
        self.query = nn.Linear(shape.d_model, keys, bias=False)
        self.key = nn.Linear(shape.d_model, keys, bias=False)
        self.value = nn.Linear(shape.d_model, values, bias=False)
        self.out = nn.Linear(values, shape.d_model, bias=False)
        if options.attention == "relative":
            self.distance = nn.Linear(shape.d_model, keys, bias=False)
            self.content_bias = nn.Parameter(torch.empty(keys))
            self.distance_bias = nn.Parameter(torch.empty(keys))

    def forward(self, x_BLD: Tensor, r_LD: Tensor | None, mask_LL: Tensor) -> Tensor:
        q_BLE, k_BLE, v_BLE = self.query(x_BLD), self.key(x_BLD), self.value(x_BLD)
        k_BHLK, v_BHLW = self._heads(k_BLE), self._heads(v_BLE)
        if r_LD is None:
            logits_BHLL = self._heads(q_BLE) @ k_BHLK.transpose(-1, -2)
        else:
            r_HLK = self._heads(self.distance(r_LD)[None])[0]
            content = self._heads(q_BLE + self.content_bias) @ k_BHLK.transpose(-1, -2)
            position = self._heads(q_BLE + self.distance_bias) @ r_HLK.transpose(-1, -2)
            logits_BHLL = content + by_distance(position)
        y_BHLW = (logits_BHLL * self.scale + mask_LL).softmax(-1) @ v_BHLW
        y_BLD: Tensor = self.out(y_BHLW.transpose(1, 2).flatten(2))
        return y_BLD

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, H * size) as (B, H, L, size)."""
        return x.view(*x.shape[:-1], self.n_head, -1).transpose(1, 2)


class Block(nn.Module):
    """Attention and feed-forward, each after a normalization, with residuals."""

    def __init__(self, shape: TransformerShape, options: RelativeOptions, base_d_k: int | None):
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.d_model)
        self.attention = Attention(shape, options, base_d_k)
        self.feed_forward_norm = nn.LayerNorm(shape.d_model)
        self.up = nn.Linear(shape.d_model, shape.d_ffn)
        self.down = nn.Linear(shape.d_ffn, shape.d_model)

    def forward(self, x_BLD: Tensor, r_LD: Tensor | None, mask_LL: Tensor) -> Tensor:
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), r_LD, mask_LL)
        y_BLD: Tensor = self.down(F.gelu(self.up(self.feed_forward_norm(x_BLD))))
        return x_BLD + y_BLD


class RelativeTransformer(Model):
    """Decoder-only language model, its readout tied to its embedding.

    Build it with `build_relative`, which parametrizes it.

    Source: Tensor Programs V, Section 7.4 and Appendix F.4; Transformer-XL (arXiv:1901.02860).
    """

    mask_LL: Tensor

    def __init__(self, shape: TransformerShape, options: RelativeOptions, base_d_k: int | None):
        super().__init__()
        self.options = options
        self.word = nn.Embedding(options.vocab_size, shape.d_model)
        if options.attention == "absolute":
            self.position = nn.Embedding(options.seq_len, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape, options, base_d_k) for _ in range(options.n_layer))
        self.final_norm = nn.LayerNorm(shape.d_model)
        self.readout = SharedReadout(
            cast(nn.Parameter, self.word.weight),
            bias=False,
            output_mult=1 / options.output_temperature,
        )
        mask_LL = torch.full((options.seq_len, options.seq_len), float("-inf")).triu(1)
        self.register_buffer("mask_LL", mask_LL, persistent=False)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Logits (B, L, V) of token numbers (B, L)."""
        length = tokens_BL.shape[1]
        x_BLD, r_LD = self.word(tokens_BL), None
        if self.options.attention == "absolute":
            x_BLD = x_BLD + self.position.weight[:length]
        else:
            r_LD = self.options.relative_mult * distances(length, x_BLD.shape[-1]).to(x_BLD)
        x_BLD = times(x_BLD, self.options.embed_mult)
        for block in self.blocks:
            x_BLD = block(x_BLD, r_LD, self.mask_LL[:length, :length])
        logits_BLV: Tensor = self.readout(self.final_norm(x_BLD))
        return logits_BLV

    @torch.no_grad()
    def init_weights(self) -> None:
        """Gaussian weights of std init_scale/sqrt(fan_in) under the rules; embeddings of GPT-2's.

        Biases start at zero and gains at one: a scale of the initialization leaves them.
        """
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                init.zeros_(p)
            elif "norm" in name:
                init.ones_(p)
            elif name.startswith(("word", "position")):
                init.normal_(p, std=EMBEDDING_STD * self.options.init_scale)
            else:
                init.fan_in_normal_(p, self.options.init_scale)


def build_relative(
    shape: TransformerShape, options: RelativeOptions, base: TransformerShape | None
) -> RelativeTransformer:
    """A parametrized and initialized model.

    Args:
        shape: its dimensions.
        options: everything else.
        base: the dimensions at which µP equals SP; None for SP.
    """
    base_d_k = base.d_k if base else None
    return build(lambda shape: RelativeTransformer(shape, options, base_d_k), shape, base)
