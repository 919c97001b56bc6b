"""Tiny models of transformers, five families, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MegatronBertConfig,
    MegatronBertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

import mupkit
from mupkit import TABLE_3, huggingface
from mupkit.observe import Observed, observe

BASE, DELTA, WIDTH = 32, 48, 128
VOCAB = 24
STD = 0.1


def bert_like(config: type, **fixed: Any) -> Callable[..., Any]:
    def build(width: int, **options: Any) -> Any:
        return config(
            hidden_size=width,
            intermediate_size=options.pop("d_ffn", 2 * width),
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=VOCAB,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=STD,
            **fixed,
            **options,
        )

    return build


def gpt2(width: int, **options: Any) -> GPT2Config:
    return GPT2Config(
        n_embd=width,
        n_inner=options.pop("d_ffn", 2 * width),
        n_layer=2,
        n_head=2,
        vocab_size=VOCAB,
        n_positions=16,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        initializer_range=STD,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )


def llama(width: int, **options: Any) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=options.pop("d_ffn", 2 * width),
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=VOCAB,
        max_position_embeddings=16,
        initializer_range=STD,
        **options,
    )


class Family(NamedTuple):
    """A class of transformers and its configuration by width."""

    model: type[PreTrainedModel]
    config: Callable[..., Any]


FAMILIES = {
    "bert": Family(BertForMaskedLM, bert_like(BertConfig)),
    "megatron": Family(MegatronBertForMaskedLM, bert_like(MegatronBertConfig)),
    "gpt2": Family(GPT2LMHeadModel, gpt2),
    "roberta": Family(RobertaForMaskedLM, bert_like(RobertaConfig)),
    "llama": Family(LlamaForCausalLM, llama),
}
CASES = [(name, tied) for name in FAMILIES for tied in (True, False)]
BY_HOOK = {"megatron"}


def stock(name: str, width: int, seed: int = 0, backend: str | None = None, **options: Any) -> Any:
    torch.manual_seed(seed)
    family = FAMILIES[name]
    config = family.config(width, **options)
    if backend:
        config._attn_implementation = backend
    return family.model(config).eval()


def mup(model: Any, rules: mupkit.Rules = TABLE_3, **keywords: Any) -> Any:
    """`model` in µP, with its own options at base and delta width."""
    name = next(name for name, family in FAMILIES.items() if type(model) is family.model)
    options = {"tie_word_embeddings": model.config.tie_word_embeddings}
    configs = (FAMILIES[name].config(width, **options) for width in (BASE, DELTA))
    return huggingface.parametrize(model, *configs, rules=rules, **keywords)


def batch(rows: int = 3, length: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens without the special ones, and labels."""
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randint(3, VOCAB, (2, rows, length), generator=generator))


def masks() -> list[torch.Tensor | None]:
    """No mask, padding on the right, padding on the left."""
    right = torch.ones(3, 7, dtype=torch.long)
    right[0, 4:], right[1, 6:] = 0, 0
    return [None, right, right.flip(1)]


def logits(model: Any, mask: torch.Tensor | None = None) -> torch.Tensor:
    return model(input_ids=batch()[0], attention_mask=mask).logits


def loss(model: Any, rows: int = 3, length: int = 7) -> torch.Tensor:
    tokens, labels = batch(rows, length)
    return F.cross_entropy(model(input_ids=tokens).logits.flatten(0, 1), labels.flatten())


def train(model: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    seen = []
    for _ in range(steps):
        seen.append(logits(model).detach())
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return [*seen, logits(model).detach()]


def without_layouts(model: Any, call: Callable[[], Any]) -> Observed:
    """`observe`, blind for how parameters are stored: a planted bug."""
    return replace(observe(model, call), layouts={})
