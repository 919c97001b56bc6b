"""An encoder-decoder Transformer whose every dimension is free, in SP or µP.

Axes: B batch, S source length, T target length, L either, M what attention reads, N hypotheses of a
sentence, Y those of all sentences, D d_model, H n_head, K d_k, W d_head (of values), V target
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupkit
from experiments.models.building import Model, build
from experiments.models.readout import Readout, SharedReadout
from experiments.models.transformer import TransformerShape
from mupkit import init

PAD, EOS = 1, 2  # fairseq's; <s> is 0 and <unk> is 3
MAX_LENGTH = 1024  # tokens of a sentence; fairseq's default

KeysValues = tuple[Tensor, Tensor]
"""Keys (B, H, M, K) and values (B, H, M, W)."""


@dataclass(frozen=True)
class EncoderDecoderOptions:
    """What does not scale with width; multipliers and std are hyperparameters that transfer.

    Args:
        source_vocab_size, target_vocab_size: ids, the four special ones included.
        n_encoder_layer, n_decoder_layer: numbers of layers.
        shared: what shares one weight. none; decoder: the target's embedding and the readout; all:
            these and the source's embedding.
        dropout: probability, after embedding, attention and feed-forward.
        output_mult: multiplies the logits.
        attn_mult: multiplies the logits of self-attention and cross-attention.
        init_std: of all weights, times that of `EncoderDecoder.init_weights`.
        zero_readout: the readout starts at zero; for one that shares nothing.
    """

    source_vocab_size: int
    target_vocab_size: int
    n_encoder_layer: int
    n_decoder_layer: int
    shared: Literal["none", "decoder", "all"] = "decoder"
    dropout: float = 0.0
    output_mult: float = 1.0
    attn_mult: float = 1.0
    init_std: float = 1.0
    zero_readout: bool = False

    def __post_init__(self) -> None:
        if self.zero_readout and self.shared != "none":
            raise ValueError(f"zero_readout would zero the embedding: shared is {self.shared!r}")
        if self.shared == "all" and self.source_vocab_size != self.target_vocab_size:
            raise ValueError(
                "shared is 'all': source and target need one vocabulary, but have "
                f"{self.source_vocab_size} and {self.target_vocab_size} ids"
            )


class Attention(nn.Module):
    """Attention with logits scaled by 1/d in µP, 1/sqrt(d) in SP."""

    def __init__(
        self, shape: TransformerShape, options: EncoderDecoderOptions, base_d_k: int | None
    ):
        super().__init__()
        self.n_head = shape.n_head
        self.scale = mupkit.attention_scale(shape.d_k, base_d_k, options.attn_mult)
        keys, values = shape.n_head * shape.d_k, shape.n_head * shape.d_head
        self.query = nn.Linear(shape.d_model, keys)
        self.key = nn.Linear(shape.d_model, keys)
        self.value = nn.Linear(shape.d_model, values)
        self.out = nn.Linear(values, shape.d_model)

    def keys_values(self, x_BMD: Tensor) -> KeysValues:
        """Keys and values of what is attended to."""
        return self._heads(self.key(x_BMD)), self._heads(self.value(x_BMD))

    def forward(self, x_BLD: Tensor, keys_values: KeysValues, mask: Tensor | None) -> Tensor:
        """Attention of x (B, L, D); the mask is 0 or -inf, for logits (B, H, M, L)."""
        # Plain products: at these sizes faster on a CPU than the fused kernel. Logits have keys
        # before queries, since softmax over a last dimension below 16 takes ten times as long.
        k_BHMK, v_BHMW = keys_values
        q_BHLK = self._heads(self.query(x_BLD)) * self.scale
        logits_BHML = k_BHMK @ q_BHLK.transpose(-1, -2)
        if mask is not None:
            logits_BHML = logits_BHML + mask
        y_BHLW = logits_BHML.softmax(-2).transpose(-1, -2) @ v_BHMW
        y_BLD: Tensor = self.out(y_BHLW.transpose(1, 2).flatten(2))
        return y_BLD

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, H * size) as (B, H, L, size)."""
        return x.view(*x.shape[:2], self.n_head, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear maps around a ReLU."""

    def __init__(self, shape: TransformerShape):
        super().__init__()
        self.up = nn.Linear(shape.d_model, shape.d_ffn)
        self.down = nn.Linear(shape.d_ffn, shape.d_model)

    def forward(self, x_BLD: Tensor) -> Tensor:
        y_BLD: Tensor = self.down(F.relu(self.up(x_BLD)))
        return y_BLD


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with residual, then normalization."""

    def __init__(
        self, shape: TransformerShape, options: EncoderDecoderOptions, base_d_k: int | None
    ):
        super().__init__()
        self.attention = Attention(shape, options, base_d_k)
        self.attention_norm = nn.LayerNorm(shape.d_model)
        self.feed_forward = FeedForward(shape)
        self.feed_forward_norm = nn.LayerNorm(shape.d_model)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x_BSD: Tensor, mask_B1S1: Tensor) -> Tensor:
        y_BSD = self.attention(x_BSD, self.attention.keys_values(x_BSD), mask_B1S1)
        x_BSD = self.attention_norm(x_BSD + self.dropout(y_BSD))
        x_BSD = self.feed_forward_norm(x_BSD + self.dropout(self.feed_forward(x_BSD)))
        return x_BSD


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each with residual, then normalization."""

    def __init__(
        self, shape: TransformerShape, options: EncoderDecoderOptions, base_d_k: int | None
    ):
        super().__init__()
        self.attention = Attention(shape, options, base_d_k)
        self.attention_norm = nn.LayerNorm(shape.d_model)
        self.cross_attention = Attention(shape, options, base_d_k)
        self.cross_attention_norm = nn.LayerNorm(shape.d_model)
        self.feed_forward = FeedForward(shape)
        self.feed_forward_norm = nn.LayerNorm(shape.d_model)
        self.dropout = nn.Dropout(options.dropout)

    def forward(
        self, x_BTD: Tensor, mask_TT: Tensor, memory_BSD: Tensor, mask_B1S1: Tensor
    ) -> Tensor:
        y_BTD = self.attention(x_BTD, self.attention.keys_values(x_BTD), mask_TT)
        memory = self.cross_attention.keys_values(memory_BSD)
        return self._after_attention(x_BTD, y_BTD, memory, mask_B1S1)

    def step(self, x_BND: Tensor, cache: LayerCache, mask_B1S1: Tensor) -> Tensor:
        """`forward` for the newest token of each hypothesis; the cache gets its key and value."""
        x_Y1D = x_BND.view(-1, 1, x_BND.shape[-1])
        cache.append(self.attention.keys_values(x_Y1D))
        y_BND = self.attention(x_Y1D, cache.own, None).view_as(x_BND)
        return self._after_attention(x_BND, y_BND, cache.memory, mask_B1S1)

    def _after_attention(
        self, x_BLD: Tensor, y_BLD: Tensor, memory: KeysValues, mask_B1S1: Tensor
    ) -> Tensor:
        x_BLD = self.attention_norm(x_BLD + self.dropout(y_BLD))
        y_BLD = self.cross_attention(x_BLD, memory, mask_B1S1)
        x_BLD = self.cross_attention_norm(x_BLD + self.dropout(y_BLD))
        x_BLD = self.feed_forward_norm(x_BLD + self.dropout(self.feed_forward(x_BLD)))
        return x_BLD


@dataclass
class LayerCache:
    """What a decoder layer keeps between steps.

    Args:
        memory: keys and values of the source, (B, H, S, ...): one for all hypotheses of a sentence.
        own: those of the tokens so far, (Y, H, T, ...).
    """

    memory: KeysValues
    own: KeysValues

    def append(self, new: KeysValues) -> None:
        """Add the keys and values of one more token."""
        (k, v), (new_k, new_v) = self.own, new
        self.own = torch.cat((k, new_k), 2), torch.cat((v, new_v), 2)


@dataclass
class Cache:
    """What the decoder keeps between steps.

    Args:
        mask_B1S1: 0, and -inf where the source is padded.
        layers: of each layer.
        length: steps so far.
    """

    mask_B1S1: Tensor
    layers: list[LayerCache]
    length: int = 0

    def keep(self, sentences_B: Tensor, hypotheses_Y: Tensor) -> None:
        """Go on with some sentences, and hypotheses of them, alone.

        Args:
            sentences_B: indices of sentences.
            hypotheses_Y: of hypotheses, counted over all sentences before the call.
        """
        fewer = len(sentences_B) < len(self.mask_B1S1)
        if fewer:
            self.mask_B1S1 = self.mask_B1S1[sentences_B]
        for layer in self.layers:
            k_YHTK, v_YHTW = (x.index_select(0, hypotheses_Y) for x in layer.own)
            layer.own = (k_YHTK, v_YHTW)
            if fewer:
                layer.memory = layer.memory[0][sentences_B], layer.memory[1][sentences_B]


class EncoderDecoder(Model):
    """Post-LN Transformer for translation. Build it with `build_encoder_decoder`.

    It is fairseq's `transformer` with `--share-decoder-input-output-embed` ("decoder") or
    `--share-all-embeddings` ("all"), so `transformer_iwslt_de_en` and
    `transformer_vaswani_wmt_en_de_big` at their dimensions.
    Embeddings are multiplied by sqrt(d_model), as there, with d_model that of the base: in µP the
    factor is constant in width.

    Source: Vaswani et al. 2017 (arXiv:1706.03762); fairseq 0.12; Tensor Programs V, Definition 4.1
    and Appendices B.1, F.1, F.2.
    """

    positions_LD: Tensor

    def __init__(
        self,
        shape: TransformerShape,
        options: EncoderDecoderOptions,
        base: TransformerShape | None,
    ):
        super().__init__()
        self.options = options
        self.embed_scale = math.sqrt((base or shape).d_model)
        base_d_k = base.d_k if base else None
        self.source_word = nn.Embedding(options.source_vocab_size, shape.d_model, padding_idx=PAD)
        if options.shared == "all":
            self.target_word = self.source_word
        else:
            self.target_word = nn.Embedding(
                options.target_vocab_size, shape.d_model, padding_idx=PAD
            )
        self.dropout = nn.Dropout(options.dropout)
        self.encoder = nn.ModuleList(
            EncoderLayer(shape, options, base_d_k) for _ in range(options.n_encoder_layer)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(shape, options, base_d_k) for _ in range(options.n_decoder_layer)
        )
        if options.shared == "none":
            self.readout: mupkit.MuReadout = Readout(
                shape.d_model,
                options.target_vocab_size,
                bias=False,
                output_mult=options.output_mult,
            )
        else:
            self.readout = SharedReadout(
                cast(nn.Parameter, self.target_word.weight),
                bias=False,
                output_mult=options.output_mult,
            )
        self.register_buffer("positions_LD", sinusoids(shape.d_model), persistent=False)

    def forward(self, source_BS: Tensor, target_BT: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each one of the target.

        Args:
            source_BS: token numbers that end in </s>, padded on either side.
            target_BT: </s> and then the target, padded at the end. Logits at padding mean nothing.

        Raises:
            ValueError: a sentence is longer than `MAX_LENGTH`.
        """
        memory_BSD, mask_B1S1 = self.encode(source_BS)
        x_BTD = self._embed(self.target_word, target_BT)
        length = target_BT.shape[1]
        # It hides padding as well, which is at the end.
        mask_TT = x_BTD.new_full((length, length), float("-inf")).tril(-1)
        for layer in self.decoder:
            x_BTD = layer(x_BTD, mask_TT, memory_BSD, mask_B1S1)
        logits_BTV: Tensor = self.readout(x_BTD)
        return logits_BTV

    def encode(self, source_BS: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder reads of sources: (B, S, D), and its mask (B, 1, S, 1), 0 or -inf."""
        x_BSD = self._embed(self.source_word, source_BS)
        padding_B1S1 = source_BS.eq(PAD)[:, None, :, None]
        mask_B1S1 = x_BSD.new_zeros(()).masked_fill(padding_B1S1, float("-inf"))
        for layer in self.encoder:
            x_BSD = layer(x_BSD, mask_B1S1)
        return x_BSD, mask_B1S1

    def start(self, source_BS: Tensor, hypotheses: int) -> Cache:
        """The cache with which `step` begins, for N hypotheses of each sentence."""
        memory_BSD, mask_B1S1 = self.encode(source_BS)
        layers = []
        for layer in cast(Iterable[DecoderLayer], self.decoder):
            k_BHSK, v_BHSW = layer.cross_attention.keys_values(memory_BSD)
            none = (k_BHSK[:, :, :0], v_BHSW[:, :, :0])
            k_YHTK, v_YHTW = (x.repeat_interleave(hypotheses, 0) for x in none)
            layers.append(LayerCache((k_BHSK, v_BHSW), (k_YHTK, v_YHTW)))
        return Cache(mask_B1S1, layers)

    def step(self, tokens_BN: Tensor, cache: Cache) -> Tensor:
        """Logits (B, N, V) of the token after the newest of each hypothesis.

        Args:
            tokens_BN: the newest tokens; </s> at first.
            cache: of all before; it is updated.
        """
        position_D = self.positions_LD[PAD + 1 + cache.length]
        x_BND = self.target_word(tokens_BN) * self.embed_scale + position_D
        x_BND = self.dropout(x_BND)
        decoder = cast(Iterable[DecoderLayer], self.decoder)
        for layer, kept in zip(decoder, cache.layers, strict=True):
            x_BND = layer.step(x_BND, kept, cache.mask_B1S1)
        cache.length += 1
        logits_BNV: Tensor = self.readout(x_BND)
        return logits_BNV

    def _embed(self, word: nn.Embedding, tokens_BL: Tensor) -> Tensor:
        if tokens_BL.shape[1] > MAX_LENGTH:
            raise ValueError(
                f"a sentence has {tokens_BL.shape[1]} tokens, at most {MAX_LENGTH} are possible"
            )
        real_BL = tokens_BL.ne(PAD)
        positions_BLD = F.embedding(real_BL.cumsum(1) * real_BL + PAD, self.positions_LD)
        x_BLD: Tensor = self.dropout(word(tokens_BL) * self.embed_scale + positions_BLD)
        return x_BLD

    @torch.no_grad()
    def init_weights(self) -> None:
        """Gaussian weights of std init_std/sqrt(fan_in) under the rules; gains 1, biases 0.

        Embeddings have init_std/sqrt(d_model), d_model that of the base, and zero for padding.

        Deviation: fairseq draws attention's projections from Xavier's uniform distribution and
        those of the feed-forward layers, and biases of queries, keys and values, from PyTorch's;
        the paper (Appendix D.5) advises Gaussian ones. Embeddings and readout are fairseq's.
        """
        std = self.options.init_std
        for name, p in self.named_parameters():
            if name.endswith("bias") or (name == "readout.weight" and self.options.zero_readout):
                init.zeros_(p)
            elif "word" in name:
                init.normal_(p, std=std / self.embed_scale)
                p[PAD] = 0
            elif "norm" in name:
                init.ones_(p)
            else:
                init.fan_in_normal_(p, std)


def sinusoids(d_model: int) -> Tensor:
    """fairseq's encoding of positions, (PAD + 1 + MAX_LENGTH, D).

    Sines come first, then cosines, of wavelengths from 2π to 10,000 times 2π; an odd dimension is
    zero. Padding has the row PAD, which is zero, the first token the row after it.
    """
    half = d_model // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float) * -(math.log(10000) / (half - 1)))
    steps = torch.arange(PAD + 1 + MAX_LENGTH, dtype=torch.float)
    angles = steps.unsqueeze(1) * rates
    positions_LD = F.pad(torch.cat((angles.sin(), angles.cos()), 1), (0, d_model % 2))
    positions_LD[PAD] = 0
    return positions_LD


def build_encoder_decoder(
    shape: TransformerShape, options: EncoderDecoderOptions, base: TransformerShape | None
) -> EncoderDecoder:
    """A parametrized and initialized encoder-decoder Transformer.

    Args:
        shape: its dimensions.
        options: everything else.
        base: the dimensions at which µP equals SP; None for SP.
    """
    return build(lambda shape: EncoderDecoder(shape, options, base), shape, base)
