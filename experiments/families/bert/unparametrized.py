"""BERT's model as the library builds it, to count its parameters."""

from __future__ import annotations

from transformers import MegatronBertForMaskedLM

from experiments.families.bert.config import BertConfig
from experiments.models.bert import BertOptions, bert_config
from experiments.models.transformer import TransformerShape


def build(config: BertConfig) -> MegatronBertForMaskedLM:
    """The model of a configuration before it is parametrized, which changes no shape.

    To parametrize a model of the library is to measure how its weights are drawn: at the paper's
    size that takes ten seconds.
    """
    options = BertOptions(config.vocab_size, config.seq_len, config.n_layer)
    return MegatronBertForMaskedLM(bert_config(TransformerShape(**config.dims()), options))
