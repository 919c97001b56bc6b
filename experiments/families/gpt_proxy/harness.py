"""Evaluation by lm-eval, offline: our model as one of its models, local texts as its tasks.

Tasks of lm-eval itself work too, where the Hugging Face Hub can be reached; that was not tried.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tokenizers import Tokenizer
from torch import nn

from experiments.data.glue import load_glue
from experiments.data.passages import novel_pages, passages, spread, wikitext2_pages
from experiments.errors import UserError, unknown

BATCH = 32
END = 0  # id of <|endoftext|>
SEED = 1234  # of the examples that are shown, lm-eval's own default
METRIC = {
    "loglikelihood_rolling": "word_perplexity",
    "loglikelihood": "acc",
    "multiple_choice": "acc",
}
Rows = dict[str, Any]


class Evaluated(TemplateLM):
    """A causal model for lm-eval. What does not fit its length is cut on the left.

    Args:
        model: logits (B, L, V) of ids (B, L).
        tokenizer: of its ids.
        length: ids that it reads at most.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, length: int):
        super().__init__()
        self.model, self.ids_of, self.length = model, tokenizer, length

    @property
    def eot_token_id(self) -> int:
        return END

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        ids: list[int] = self.ids_of.encode(string, add_special_tokens=False).ids
        return ids

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the most probable one."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1] + requests[i][2]))
        found: dict[int, tuple[float, bool]] = {}
        for i in range(0, len(order), BATCH):
            part = order[i : i + BATCH]
            found |= dict(zip(part, self._scores([requests[j][1:] for j in part]), strict=True))
        return [found[i] for i in range(len(requests))]

    def _scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[tuple[float, bool]]:
        device = next(self.model.parameters()).device
        lines = [(context + wanted)[-self.length - 1 :] for context, wanted in pairs]
        read_BL = nn.utils.rnn.pad_sequence(
            [torch.tensor(line[:-1]) for line in lines], batch_first=True, padding_value=END
        )
        with torch.no_grad():
            logits_BLV = self.model(read_BL.to(device)).float().cpu()
        for logits_LV, line, (_, wanted) in zip(logits_BLV, lines, pairs, strict=True):
            kept = wanted[-len(line) + 1 :]  # of a continuation that is longer than the model reads
            own_TV = logits_LV[len(line) - 1 - len(kept) : len(line) - 1].log_softmax(-1)
            kept_T = torch.tensor(kept)
            score = own_TV.gather(1, kept_T[:, None]).sum().item()
            yield score, bool((own_TV.argmax(-1) == kept_T).all())

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each text, in windows of the model's length, each id counted once."""
        windows = [
            [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    self.tok_encode(request.args[0]), END, self.length, 1
                )
            ]
            for request in requests
        ]
        pairs = [(("", ""), *pair) for own in windows for pair in own]
        scores = iter(self._loglikelihood_tokens(pairs))
        return [sum(next(scores)[0] for _ in own) for own in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError("tasks for which text is generated cannot be evaluated here")


def _rows(items: Sequence[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_list([dataclasses.asdict(item) for item in items])


def _sst2(count: int) -> Rows:
    return {
        split: datasets.Dataset.from_list(
            [{"text": text, "label": label} for (text,), label in load_glue("sst2", split, count)]
        )
        for split in ("train", "validation")
    }


def _perplexity(doc: Rows, results: Sequence[float]) -> dict[str, tuple[float, int]]:
    return {"word_perplexity": (results[0], doc["words"])}


PAGES = {
    "output_type": "loglikelihood_rolling",
    "test_split": "test",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "process_results": _perplexity,
}
LOCAL: dict[str, tuple[Callable[[int], Rows], dict[str, Any]]] = {
    "wikitext2": (lambda count: {"test": _rows(spread(wikitext2_pages(), count))}, PAGES),
    "novels": (lambda count: {"test": _rows(spread(novel_pages(), count))}, PAGES),
    "last_word": (
        lambda count: {"test": _rows(spread(passages(), count))},
        {
            "output_type": "loglikelihood",
            "test_split": "test",
            "doc_to_text": "{{context}}",
            "doc_to_target": "{{' ' + word}}",
        },
    ),
    "sst2": (
        _sst2,
        {
            "output_type": "multiple_choice",
            "training_split": "train",
            "validation_split": "validation",
            "fewshot_split": "train",
            "doc_to_text": "{{text}}\nIs it positive or negative? It is",
            "doc_to_choice": ["negative", "positive"],
            "doc_to_target": "label",
        },
    ),
}
"""By name: the rows of at most so many documents, and the task's declaration for lm-eval."""


def tasks_of(names: Sequence[str], count: int) -> dict[str, Task]:
    """Tasks by name, "task:shots".

    Args:
        names: of `LOCAL`, or of lm-eval's own.
        count: documents of each of `LOCAL`.

    Raises:
        UserError: a task that neither has.
    """
    with _quiet():
        return {name: _task(name, count) for name in names}


def _task(name: str, count: int) -> Task:
    task, _, shots = name.partition(":")
    if task in LOCAL:
        rows, declared = LOCAL[task]
        made: Task = ConfigurableTask(
            config={
                **declared,
                "task": name,
                "num_fewshot": int(shots or 0),
                "custom_dataset": lambda **_: rows(count),
                "metric_list": [{"metric": METRIC[declared["output_type"]]}],
            }
        )
    else:
        own = TaskManager()
        if task not in own.all_subtasks:
            raise unknown("evaluation", task, [*LOCAL, *own.all_subtasks])
        made = own.load([task])["tasks"][task]
        if made.get_config("output_type") not in METRIC:
            raise UserError(f"evaluations: {task} is scored by text that a model writes, not here")
        made.set_config("num_fewshot", int(shots or 0))
    made.set_fewshot_seed(SEED)
    return made


def evaluations(
    model: nn.Module, tokenizer: Tokenizer, length: int, tasks: Mapping[str, Task]
) -> dict[str, float]:
    """The main metric of each task by its name: perplexity a word, or accuracy from 0 to 1.

    Args:
        model, tokenizer, length: as in `Evaluated`.
        tasks: as `tasks_of` makes them.
    """
    with _quiet():
        results = evaluate(
            Evaluated(model, tokenizer, length), tasks, bootstrap_iters=0, log_samples=False
        )
    found = {}
    for name, task in tasks.items():
        metric = METRIC[str(task.get_config("output_type"))]
        found[name] = float(results["results"][name][f"{metric},none"])
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars and remarks on defaults."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
