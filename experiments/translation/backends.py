"""What trains a translation model: the project's own loop, or fairseq."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from experiments.models.fairseq import runner
from experiments.train import engine
from experiments.train.schedules import lr_factors
from experiments.translation.config import TranslationConfig
from experiments.translation.task import Translating

SPLITS = ("train", "validation")  # that fairseq gets


def task(config: TranslationConfig) -> Translating:
    """The task of a configuration, by its backend."""
    return Translating(config) if config.backend == "here" else TranslatingInFairseq(config)


class TranslatingInFairseq(Translating):
    """The same, trained and translated by fairseq in processes of its own.

    Initial weights and the order of batches are fairseq's, and its weight decay is not part of the
    gradient.
    """

    def train(self, on_step: Callable[[int, float], None] | None) -> engine.RunResult:
        """Train by fairseq from scratch, without checkpoints of ours."""
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="mupkit-fairseq-") as folder:
            outcome = runner.train(
                self.id_lists(),
                self.config.vocab_size,
                fairseq_options(self.config),
                Path(folder),
                on_step,
                self.config.beam,
                self.config.length_penalty,
            )
        losses, measured = outcome.losses, outcome.valid_losses
        epochs = {
            update - 1: loss
            for update, loss in measured.items()
            if update % self.epoch == 0 and math.isfinite(loss)
        }
        lost = (at for at, loss in enumerate(losses) if engine.diverged((losses[0], loss)))
        step = next(lost, None)
        if step is None and not math.isfinite(measured[len(losses)]):
            step = len(losses) - 1  # the last update spoiled the model
        seconds = time.perf_counter() - start
        if step is not None:
            known = {at: loss for at, loss in epochs.items() if at < step}
            return engine.RunResult(losses[: step + 1], step, math.nan, seconds, {}, known)
        metrics: dict[str, engine.Metric] = {"valid_loss": measured[len(losses)]}
        if self.config.beam:
            metrics |= self.scored(outcome.hypotheses)
        final = engine.final_loss(losses)
        return engine.RunResult(losses, None, final, seconds, metrics, epochs)

    def id_lists(self) -> runner.Pairs:
        """Sources and targets of training and validation, as fairseq's runner takes them."""
        sides = (self.pairs.source, self.pairs.target)
        lists = {s: [[x.tolist() for x in side[s]] for side in sides] for s in SPLITS}
        return {split: (source, target) for split, (source, target) in lists.items()}


def fairseq_options(config: TranslationConfig) -> runner.Options:
    """The options of fairseq for a configuration."""
    mup = config.parametrization == "mup"
    return runner.Options(
        shape=_fairseq_dims(config.dims()),
        base=_fairseq_dims(config.dims(base=True)) if mup else None,
        lr=2.0**config.log2lr,
        factors=lr_factors(config),
        max_tokens=config.batch_size,
        encoder_layers=config.n_encoder_layer,
        decoder_layers=config.n_decoder_layer,
        share=config.shared,
        output_mult=config.output_mult,
        attn_mult=config.attn_mult,
        init_std=config.init_std,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        clip_norm=config.grad_clip or 0.0,
        label_smoothing=config.label_smoothing,
        dropout=config.dropout,
        seed=config.seed,
    )


def _fairseq_dims(dims: dict[str, int]) -> runner.Dimensions:
    return runner.Dimensions(
        dims["d_model"], dims["d_ffn"], dims["n_head"], d_k=dims["d_k"], d_v=dims["d_head"]
    )
