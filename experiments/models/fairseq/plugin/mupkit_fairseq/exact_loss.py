"""The criterion `exact_label_smoothed_cross_entropy`, which writes losses at full precision."""

# No `from __future__ import annotations`: fairseq reads the types of the fields below.
import json
import math
import os
from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from torch import Tensor, nn


@dataclass
class ExactConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """The options of fairseq's criterion, and where losses go."""

    loss_file: str = field(
        default=os.devnull, metadata={"help": "losses are appended, as lines of JSON"}
    )


@register_criterion("exact_label_smoothed_cross_entropy", dataclass=ExactConfig)
class ExactCriterion(LabelSmoothedCrossEntropyCriterion):
    """fairseq's label-smoothed cross-entropy; fairseq's own log has three digits.

    Each batch gives a line {"update", "training", "loss", "tokens"}: the training batches before
    it, whether it is one itself, its loss in nats, summed over its target tokens, and their number.
    The loss is smoothed in training, and not in validation. A training loss that is not finite ends
    the training, without an error.
    """

    def __init__(
        self,
        task: Any,
        sentence_avg: bool,
        label_smoothing: float,
        ignore_prefix_size: int = 0,
        report_accuracy: bool = False,
        loss_file: str = os.devnull,
    ):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        self.lines = open(loss_file, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self.updates = 0

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """As fairseq's: the loss, its denominator for gradients, and what is logged."""
        loss, size, logged = super().forward(model, sample, reduce)
        value = float(loss if model.training else logged["nll_loss"])
        line = {"update": self.updates, "training": model.training, "loss": value}
        self.lines.write(json.dumps({**line, "tokens": logged["ntokens"]}) + "\n")
        if model.training:
            self.updates += 1
            if not math.isfinite(value):
                raise SystemExit
        return loss, size, logged
