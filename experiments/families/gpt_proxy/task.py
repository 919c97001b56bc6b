"""How a configuration becomes a model, batches and a loss."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from experiments.data.held import held
from experiments.data.pretraining import load_text
from experiments.data.pretraining_source import BUILT_IN
from experiments.data.windows import count_windows, window_batches
from experiments.families.gpt_proxy.config import GptConfig
from experiments.models.gradients import gradient_exponents
from experiments.models.next_token import NextToken
from experiments.models.relative_transformer import (
    RelativeOptions,
    RelativeTransformer,
    build_relative,
)
from experiments.models.timing import step_seconds
from experiments.models.transformer import TransformerShape
from experiments.train.engine import Metric
from experiments.train.parts import Part

VALIDATED = 32_768  # tokens of the validation split, at most, of which the loss is taken


class Pretraining(NextToken):
    """Next-token prediction on windows of the training split.

    Args:
        config: of the run.

    Batches are (B, L + 1) token numbers.
    """

    def __init__(self, config: GptConfig):
        self.config = config
        text = load_text(config.data, config.vocab_size, "bpe")
        self.fingerprint = text.fingerprint
        self.tokens = {
            split: torch.from_numpy(text.tokens[split].copy()) for split in ("train", "validation")
        }
        count_windows(self.tokens["train"], config.seq_len, config.batch_size, more=1)
        count_windows(self.tokens["validation"], config.seq_len, 1, more=1)
        self.tokenizer, self.tasks = text.tokenizer, {}
        # The built-in text comes without the others, so that nothing else is evaluated with it.
        if config.evaluations and config.data != BUILT_IN:
            from experiments.families.gpt_proxy import harness  # takes seconds to import

            self.tasks = harness.tasks_of(config.evaluations.split(","), config.documents)

    def build(self) -> nn.Module:
        return build(self.config)

    def batches(self, device: str) -> Iterator[Tensor]:
        config = self.config
        tokens = held(self.tokens["train"], f"{self.fingerprint} {config.vocab_size} train", device)
        return window_batches(tokens, config.seq_len, config.batch_size, config.seed, 1, device)

    def part(self, model: nn.Module, batch: Tensor, part: Part) -> Tensor:
        return self.loss(model, part.rows(batch)) * (len(part.rows(batch)) / len(batch))

    def evaluate(self, model: nn.Module) -> dict[str, Metric]:
        """Mean loss on the first windows of the validation split, in nats a token, the time of a
        step, and what is asked for: the exponents of the gradients of one batch, as JSON, and tasks
        of lm-eval.
        """
        length, size = self.config.seq_len, self.config.batch_size
        tokens = self.tokens["validation"].long()
        count = min(len(tokens) - 1, VALIDATED) // length
        windows = torch.arange(count)[:, None] * length + torch.arange(length + 1)
        device = next(model.parameters()).device
        losses = [
            self.loss(model, tokens[index].to(device)).item() * len(index)
            for index in torch.split(windows, size)
        ]
        batch = tokens[windows[:size]].to(device)
        seconds = step_seconds(model, lambda timed: self.loss(timed, batch))
        metrics: dict[str, Metric] = {"valid_loss": sum(losses) / count, "step_seconds": seconds}
        if self.config.count_exponents:
            counts = gradient_exponents(model, lambda exact: self.loss(exact, batch), layer_of)
            metrics["gradient_exponents"] = json.dumps(counts)
        if self.tasks:
            from experiments.families.gpt_proxy import harness

            metrics |= harness.evaluations(model, self.tokenizer, length, self.tasks)
        return metrics


def layer_of(name: str) -> str:
    """The layer of a parameter or a module: the embedding, a part of a block, or the readout."""
    match name.split("."):
        case ["blocks", number, part, *_]:
            kind = "attention" if part.startswith("attention") else "feed-forward"
            return f"block {int(number) + 1}, {kind}"
        case ["word" | "position", *_]:
            return "embedding"
        case _:
            return "readout"


def build(config: GptConfig) -> RelativeTransformer:
    """The model of a configuration, on torch's default device."""
    names = RelativeOptions.__dataclass_fields__
    options = RelativeOptions(**{n: getattr(config, n) for n in names})
    mup = config.parametrization == "mup"
    base = TransformerShape(**config.dims(base=True)) if mup else None
    return build_relative(TransformerShape(**config.dims()), options, base)
