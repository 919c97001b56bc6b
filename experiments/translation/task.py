"""How a configuration becomes a translation model, batches of pairs, a loss and translations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import sacrebleu
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.data.held import sent
from experiments.data.token_batches import epoch_batches, token_batches
from experiments.data.translation import EOS, PAD, Sentences, load_translation
from experiments.models.beam_search import translate
from experiments.models.encoder_decoder import (
    EncoderDecoder,
    EncoderDecoderOptions,
    build_encoder_decoder,
)
from experiments.models.transformer import TransformerShape
from experiments.train import engine
from experiments.train.parts import Part
from experiments.translation.config import TranslationConfig

Batch = tuple[Tensor, Tensor, Tensor]
EXAMPLES = 12  # sentences of the validation split whose translations are kept
SHARE_AT_ONCE = 4  # times the tokens of a training batch that are validated or translated at once


class Translating:
    """Translation of sentences, in batches by number of tokens.

    Args:
        config: of the run.

    A batch is the source (B, S), the target that the decoder reads, which begins with `</s>`, and
    the target that it has to predict, both (B, T). Which pairs share a batch, and the order of the
    batches, depend on the seed alone.
    """

    def __init__(self, config: TranslationConfig):
        self.config = config
        self.pairs = load_translation(config.data, config.vocab_size)
        self.fingerprint = self.pairs.fingerprint
        self.epoch = epoch_batches(*self._lengths("train"), config.batch_size)

    def build(self) -> nn.Module:
        return build(self.config)

    def batches(self, device: str) -> Iterator[Batch]:
        lengths = self._lengths("train")
        for index in token_batches(*lengths, self.config.batch_size, self.config.seed):
            yield self._batch("train", index.numpy(), device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy against labels that are smoothed as fairseq does: over the other words."""
        source_BS, read_BT, target_BT = batch
        size = self.config.vocab_size
        return F.cross_entropy(
            model(source_BS, read_BT).flatten(0, 1),
            target_BT.flatten(),
            ignore_index=PAD,
            label_smoothing=self.config.label_smoothing * size / (size - 1),
        )

    def part(self, model: nn.Module, batch: Batch, part: Part) -> Tensor:
        tokens = (batch[2] != PAD).sum()
        source_BS, read_BT, target_BT = map(part.rows, batch)
        share = (target_BT != PAD).sum() / tokens
        if not len(source_BS):  # a model takes no batch without rows; this one counts for nothing
            source_BS, read_BT, target_BT = (rows[:1] for rows in batch)
        return self.loss(model, (source_BS, read_BT, target_BT)) * share

    def validate(self, model: nn.Module) -> float:
        """Cross-entropy per token of the validation split, without smoothing, in nats."""
        total, tokens = 0.0, 0
        for _, (source_BS, read_BT, target_BT) in self._validation(model):
            logits = model(source_BS, read_BT).flatten(0, 1)
            loss = F.cross_entropy(logits, target_BT.flatten(), ignore_index=PAD, reduction="sum")
            total += loss.item()
            tokens += int((target_BT != PAD).sum())
        return total / tokens

    def evaluate(self, model: nn.Module) -> dict[str, engine.Metric]:
        """Validation loss, and with a beam BLEU and some translations."""
        metrics: dict[str, engine.Metric] = {"valid_loss": self.validate(model)}
        if self.config.beam:
            found: dict[int, list[int]] = {}
            for index, (source_BS, _, _) in self._validation(model):
                translated = translate(
                    cast(EncoderDecoder, model),
                    source_BS,
                    self.config.beam,
                    self.config.length_penalty,
                )
                found.update(zip(index.tolist(), translated, strict=True))
            metrics |= self.scored([found[i] for i in range(len(found))])
        return metrics

    def scored(self, hypotheses: Sequence[Sequence[int]]) -> dict[str, engine.Metric]:
        """BLEU of translations of the validation split, its signature, and the first translations.

        They are detokenized; `examples` is JSON of source, reference and translation, each as text.
        """
        translations = [self.pairs.decode(ids) for ids in hypotheses]
        references = self.pairs.references["validation"]
        bleu = sacrebleu.BLEU()
        score = bleu.corpus_score(translations, [references]).score
        first = zip(self.pairs.sources["validation"], references, translations, strict=True)
        return {
            "valid_bleu": float(score),
            "bleu_signature": str(bleu.get_signature()),
            "examples": json.dumps(list(first)[:EXAMPLES], ensure_ascii=False),
        }

    def _lengths(self, split: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.pairs.source[split].lengths, self.pairs.target[split].lengths

    def _validation(self, model: nn.Module) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Indices and batches of the validation split, of like lengths."""
        device = next(model.parameters()).device
        sizes = np.maximum(*self._lengths("validation"))
        order, room = np.argsort(sizes, kind="stable"), SHARE_AT_ONCE * self.config.batch_size
        start = 0
        while start < len(order):
            ends = sizes[order[start:]] * np.arange(1, len(order) - start + 1)
            stop = start + max(1, int((ends <= room).sum()))
            yield order[start:stop], self._batch("validation", order[start:stop], str(device))
            start = stop

    def _batch(self, split: str, index: NDArray[Any], device: str) -> Batch:
        source_BS = _padded(self.pairs.source[split], index)
        target_BT = _padded(self.pairs.target[split], index)
        read_BT = target_BT.roll(1, 1)
        read_BT[:, 0] = EOS
        # The </s> of a shorter sentence stays in what is read; nothing is predicted from it.
        return sent(source_BS, device), sent(read_BT, device), sent(target_BT, device)


def _padded(sentences: Sentences, index: NDArray[Any]) -> Tensor:
    """Sentences as rows (B, L), padded at the end."""
    rows = [sentences[i] for i in index]
    padded = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)


def build(config: TranslationConfig) -> EncoderDecoder:
    """The model of a configuration, on torch's default device."""
    options = EncoderDecoderOptions(
        source_vocab_size=config.vocab_size,
        target_vocab_size=config.vocab_size,
        n_encoder_layer=config.n_encoder_layer,
        n_decoder_layer=config.n_decoder_layer,
        shared=config.shared,
        dropout=config.dropout,
        output_mult=config.output_mult,
        attn_mult=config.attn_mult,
        init_std=config.init_std,
    )
    mup = config.parametrization == "mup"
    base = TransformerShape(**config.dims(base=True)) if mup else None
    return build_encoder_decoder(TransformerShape(**config.dims()), options, base)
