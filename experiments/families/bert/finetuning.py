"""Finetuning of a pretrained BERT on tasks of GLUE, as Appendix F.3 has it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tokenizers.processors import BertProcessing
from torch import nn
from transformers import (
    BatchEncoding,
    MegatronBertForSequenceClassification,
    PreTrainedTokenizerFast,
    get_linear_schedule_with_warmup,
)

from experiments.data.glue import TASKS, Example, load_glue
from experiments.families.bert.config import FINETUNED_LENGTH, BertConfig
from experiments.models.bert import Bert

BATCH = 64
WARMUP = 0.1  # of the steps


def finetune(
    model: Bert, tokenizer: PreTrainedTokenizerFast, config: BertConfig
) -> dict[str, float]:
    """Accuracies on held-out examples, from 0 to 1, after finetuning on each task by itself.

    Adam with one rate for all parameters: it is not transferred, and the head is the library's, of
    its own initialization.

    Args:
        model: stays as it is.
        tokenizer: of the pretraining.
        config: of the run, for the number of examples and epochs, the rate and the seed.

    Source: Tensor Programs V, Appendix F.3.
    """
    tokenizer = copy.deepcopy(tokenizer)
    ids = tokenizer.get_vocab()
    ends = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.backend_tokenizer.post_processor = ends
    most = config.finetune_examples
    found: dict[str, float] = {}
    for name, task in TASKS.items():
        torch.manual_seed(config.seed)
        tuned: nn.Module = classifier(model, task.labels)
        tuned.to(next(model.parameters()).device)
        with torch.enable_grad():
            _train(tuned, tokenizer, load_glue(name, "train", most), config)
        for metric, split in task.held_out.items():
            found[metric] = _accuracy(tuned, tokenizer, load_glue(name, split, most), config)
    return found


def classifier(model: Bert, labels: int) -> MegatronBertForSequenceClassification:
    """The library's classifier with a copy of the pretrained body, multipliers included."""
    settings = copy.deepcopy(model.masked.config)
    settings.num_labels = labels
    found = MegatronBertForSequenceClassification(settings)
    body = copy.deepcopy(model.masked.bert)
    found.bert.embeddings, found.bert.encoder = body.embeddings, body.encoder
    return found


def _train(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    config: BertConfig,
) -> None:
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2.0**config.finetune_log2lr)
    steps = config.finetune_epochs * -(-len(examples) // BATCH)
    schedule = get_linear_schedule_with_warmup(  # type: ignore[no-untyped-call]
        optimizer, round(WARMUP * steps), steps
    )
    draw = torch.Generator().manual_seed(config.seed)
    for _ in range(config.finetune_epochs):
        for index in torch.split(torch.randperm(len(examples), generator=draw), BATCH):
            batch = [examples[i] for i in index.tolist()]
            loss = F.cross_entropy(*_logits_labels(model, tokenizer, batch, config))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def _accuracy(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    config: BertConfig,
) -> float:
    model.eval()
    right = 0
    with torch.no_grad():
        for i in range(0, len(examples), BATCH):
            logits, labels = _logits_labels(model, tokenizer, examples[i : i + BATCH], config)
            right += int((logits.argmax(dim=-1) == labels).sum())
    return right / len(examples)


def _logits_labels(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    batch: Sequence[Example],
    config: BertConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, labels) and labels (B,) of a batch."""
    device = next(model.parameters()).device
    columns = [list(column) for column in zip(*(texts for texts, _ in batch), strict=True)]
    encoded: BatchEncoding = tokenizer(
        *columns,
        truncation=True,
        max_length=min(FINETUNED_LENGTH, config.seq_len),
        padding=True,
        return_token_type_ids=True,
        return_tensors="pt",
    )
    labels = torch.tensor([label for _, label in batch], device=device)
    return model(**encoded.to(device)).logits, labels
