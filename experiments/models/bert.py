"""MegatronBert of transformers as it is, in SP or µP, with the hyperparameters of the paper.

Axes: B batch, L sequence, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import MegatronBertConfig, MegatronBertForMaskedLM

from experiments.models.transformer import TransformerShape
from mupkit import huggingface


@dataclass(frozen=True)
class BertOptions:
    """What does not scale with width; all but the first four are hyperparameters that transfer.

    The multipliers of gains and biases are factors of their rates in Adam, which is the same but
    for epsilon, if their initial values are divided by them (Lemma J.1).

    Args:
        vocab_size: word pieces.
        seq_len: tokens of the longest sequence.
        n_layer: blocks.
        dropout: probability, of hidden values and of attention.
        output_mult: multiplies what the tied readout reads.
        attn_mult: multiplies the attention logits.
        embed_factor: of the rate of all embeddings.
        gain_mult: of the layer normalizations' gains.
        bias_mult: of all biases.

    Source: Tensor Programs V, Appendix F.3.
    """

    vocab_size: int
    seq_len: int
    n_layer: int
    dropout: float = 0.0
    output_mult: float = 1.0
    attn_mult: float = 1.0
    embed_factor: float = 1.0
    gain_mult: float = 1.0
    bias_mult: float = 1.0


class Bert(nn.Module):
    """`MegatronBertForMaskedLM`, unmodified, with factors of rates and of logits beside it.

    Build it with `build_bert`, which parametrizes it.
    """

    def __init__(self, masked: MegatronBertForMaskedLM, options: BertOptions):
        super().__init__()
        self.masked, self.options = masked, options
        _multiply(masked, options)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Logits (B, L, V) of token numbers (B, L)."""
        logits_BLV: Tensor = self.masked(input_ids=tokens_BL).logits
        return logits_BLV

    def adam_factor(self, name: str) -> float:
        """The factor of a parameter's rate in Adam, beside its factor of width."""
        if "_embeddings." in name:
            return self.options.embed_factor
        if name.endswith("bias"):
            return self.options.bias_mult
        if name.endswith(("ln.weight", "LayerNorm.weight")):
            return self.options.gain_mult
        return 1.0


def _multiply(masked: MegatronBertForMaskedLM, options: BertOptions) -> None:
    """Multiply attention logits, by way of the queries, and what the readout reads."""
    if options.attn_mult != 1:
        for name, module in masked.named_modules():
            if name.endswith("attention.self.query"):
                module.register_forward_hook(partial(_times, options.attn_mult))
    if options.output_mult != 1:
        readout = masked.cls.predictions.decoder
        readout.register_forward_pre_hook(partial(_input_times, options.output_mult))


def _times(mult: float, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * mult


def _input_times(mult: float, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0] * mult, *args[1:])


def bert_config(shape: TransformerShape, options: BertOptions) -> MegatronBertConfig:
    """The library's configuration of a model.

    Raises:
        ValueError: a shape that it does not have: its keys and values are d_model / n_head.
    """
    if not shape.d_model == shape.n_head * shape.d_head == shape.n_head * shape.d_k:
        raise ValueError(
            f"MegatronBert has d_k = d_head = d_model / n_head, not {shape.d_k} and {shape.d_head} "
            f"with d_model {shape.d_model} and n_head {shape.n_head}"
        )
    return MegatronBertConfig(
        vocab_size=options.vocab_size,
        hidden_size=shape.d_model,
        num_hidden_layers=options.n_layer,
        num_attention_heads=shape.n_head,
        intermediate_size=shape.d_ffn,
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
        max_position_embeddings=options.seq_len,
    )


def build_bert(
    shape: TransformerShape, options: BertOptions, base: TransformerShape | None
) -> Bert:
    """A parametrized and initialized model.

    Args:
        shape: its dimensions.
        options: everything else; the base model has the same depth.
        base: the dimensions at which µP equals SP; None for SP.
    """
    masked = MegatronBertForMaskedLM(bert_config(shape, options))
    if base is None:
        huggingface.parametrize(masked, masked.config)  # all dimensions are finite
    else:
        doubled = TransformerShape(
            2 * base.d_model, base.n_head, 2 * base.d_head, 2 * base.d_k, 2 * base.d_ffn
        )
        huggingface.parametrize(masked, *(bert_config(s, options) for s in (base, doubled)))
    masked.train()
    return Bert(masked, options)
