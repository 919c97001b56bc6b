"""Tables 7, 10 and 11: the paper's evaluations, and what was measured of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd

from experiments.analysis.text_table import TextTable
from experiments.declare.scales import SCALES, Scale
from experiments.families.gpt_proxy import published
from experiments.families.gpt_proxy.figures import targets, valid_losses
from experiments.families.gpt_proxy.published import (
    PERPLEXITIES,
    SHOTS,
    Scores,
    table_10,
    table_11,
)
from experiments.families.gpt_proxy.spec import TARGET, tuning_cost

SELECTED = ("LAMBADA", "HellaSwag")  # tasks of Table 7


def render_table7(runs: pd.DataFrame) -> TextTable:
    """Selected evaluations, the paper's beside ours."""
    head = ["Task", "Metric", "6.7B+µP", "6.7B re-run", "6.7B GPT-3", "13B GPT-3"]
    ours = ["**µTransfer, here**", "**original recipe, here**"]
    parts = targets(runs)
    losses = [_loss(parts[name]) for name in ("mup", "absolute")]
    rows = [
        [task, metric, f"{mup:g}", f"{rerun:g}", "–", "–", *(losses if first else NOT_RUN)]
        for first, (task, (metric, mup, rerun)) in zip(
            (True, False, False, False), PERPLEXITIES.items(), strict=True
        )
    ]
    larger = {task: scores for (task, _, _), scores in table_11().items()}
    small = {task: scores for (task, _, _), scores in table_10().items()}
    for task in SELECTED:
        for shot in SHOTS:
            paper = [small[task][shot, model] for model in ("mup", "rerun", "gpt3")]
            rows.append(
                [f"{task}, {shot}", "accuracy", *paper, larger[task][shot, "gpt3-13b"], *NOT_RUN]
            )
    scale = _scale_of(cast(int, runs["width"].max()))
    note = (
        "Ours are of other text, other ids and other sizes, and compare with each other alone. The "
        f"search costs {tuning_cost(scale):.2g} times the FLOPs of one training of the target; at "
        f"the paper's sizes, by the same count, {tuning_cost('paper'):.2g} times, and by the "
        f"paper's, which leaves out attention, {published.tuning_cost():.2g}."
    )
    return TextTable([*head, *ours], rows, (note,))


NOT_RUN = ["not run", "not run"]


def _loss(part: pd.DataFrame) -> str:
    losses = valid_losses(part)
    return "diverged" if np.isinf(losses).any() else f"{losses.mean():.3f}"


def _scale_of(width: int) -> Scale:
    """The scale at which the target has this width."""
    return next(scale for scale in SCALES if TARGET[scale] == width)


def render_table10(runs: pd.DataFrame) -> TextTable:
    """All evaluations of 6.7B parameters; nothing of ours."""
    return _whole(table_10(), {"mup": "µP", "gpt3": "GPT-3", "rerun": "re-run"})


def render_table11(runs: pd.DataFrame) -> TextTable:
    """All evaluations of 6.7B parameters in µP beside those of 13B; nothing of ours."""
    return _whole(table_11(), {"mup": "6.7B+µP", "gpt3-13b": "13B"})


def _whole(scores: Mapping[tuple[str, str, str], Scores], names: Mapping[str, str]) -> TextTable:
    columns = [(shot, model) for shot in SHOTS for model in names]
    head = ["Task", "Split", "Metric", *(f"{names[model]}, {shot}" for shot, model in columns)]
    rows: list[Sequence[str]] = [
        [*task, *(found[column] for column in columns)] for task, found in scores.items()
    ]
    return TextTable(head, rows, ("All numbers are the paper's; none of these tasks is run here.",))
