"""The task `translation_in_batches`: training batches that are given, in the order given."""

# No `from __future__ import annotations`: fairseq reads the types of the fields below.
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask


@dataclass
class InBatchesConfig(TranslationConfig):
    """The options of fairseq's translation, and the batches."""

    batches: str = field(default="", metadata={"help": "JSON: numbers of pairs, one list a batch"})


@register_task("translation_in_batches", dataclass=InBatchesConfig)
class TranslationInBatches(TranslationTask):
    """fairseq's translation; with `--curriculum` above the last epoch, batches are not shuffled."""

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, **options: Any
    ) -> None:
        """Load a split; that of training comes in the given batches."""
        super().load_dataset(split, epoch, combine, **options)
        if split == self.cfg.train_subset:
            batches = json.loads(Path(self.cfg.batches).read_text(encoding="utf-8"))
            self.datasets[split].batch_by_size = lambda *args, **kwargs: batches
