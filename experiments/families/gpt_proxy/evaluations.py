"""Tables 7, 10 and 11: the paper's evaluations, and what was measured of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import pandas as pd

from experiments.analysis.text_table import TextTable
from experiments.declare.scales import SCALES, Scale
from experiments.families.gpt_proxy import published
from experiments.families.gpt_proxy.figures import horizons, targets
from experiments.families.gpt_proxy.published import (
    PERPLEXITIES,
    SHOTS,
    Scores,
    table_10,
    table_11,
)
from experiments.families.gpt_proxy.spec import DOCUMENTS, FEW, SELECTED, TARGET, tuning_cost

# Ours: which texts, and how well their last words or their sentiment are guessed.
OURS = {
    "WikiText-2": ("wikitext2", "perplexity"),
    "Novels, held out": ("novels", "perplexity"),
    "Last word of a passage": ("last_word", "accuracy"),
}


def render_table7(runs: pd.DataFrame) -> TextTable:
    """Selected evaluations, the paper's beside ours."""
    head = ["Task", "Metric", "6.7B+µP", "6.7B re-run", "6.7B GPT-3", "13B GPT-3"]
    head += ["**µTransfer, here**", "**original recipe, here**"]
    parts = [targets(runs)[name] for name in ("mup", "absolute")]
    scale = _scale_of(cast(int, runs["width"].max()))
    shots = dict(zip(SHOTS, (0, 1, FEW[scale]), strict=True))
    rows: list[list[str]] = []

    def row(task: str, metric: str, paper: Sequence[str], column: str) -> None:
        rows.append([task, metric, *paper, *(_cell(part, column, metric) for part in parts)])

    for task, (metric, mup, rerun) in PERPLEXITIES.items():
        column = "valid_loss" if metric == "cross-entropy" else ""
        row(task, metric, [f"{mup:g}", f"{rerun:g}", "–", "–"], column)
    larger = {task: scores for (task, _, _), scores in table_11().items()}
    small = {task: scores for (task, _, _), scores in table_10().items()}
    for task, name in SELECTED.items():
        for shot in SHOTS:
            paper = [small[task][shot, model] for model in ("mup", "rerun", "gpt3")]
            paper.append(larger[task][shot, "gpt3-13b"])
            row(f"{task}, {shot}", "accuracy", paper, f"{name}:{shots[shot]}")
    nothing = ["–"] * 4
    for task, (name, metric) in OURS.items():
        row(f"{task} (ours)", metric, nothing, name)
    for shot in SHOTS:
        row(f"SST-2, {shot} (ours)", "accuracy", nothing, f"sst2:{shots[shot]}")
    ours, theirs = tuning_cost(scale), tuning_cost("paper")
    notes = [
        "Ours are of other text, other ids and other sizes, and compare with each other alone. The "
        f"search costs {ours:.2g} times the FLOPs of one training of the target and, measured "
        f"until each sample ended or diverged, {measured_cost(runs):.2g} times its time. At the "
        f"paper's sizes it costs {theirs:.2g} times its FLOPs, and by the paper's own count, which "
        f"leaves out attention, {published.tuning_cost():.2g}.",
        "Perplexities are of words, accuracies in per cent, means over seeds with their range in "
        f"brackets. At most {DOCUMENTS[scale]:,} documents of each of our tasks, cut on the left "
        f"to the model's length; few-shot shows {FEW[scale]} examples. A passage's last word is in "
        "it before; guessing sentiment by chance gives 50 %.",
    ]
    if not any(name in runs for name, _ in OURS.values()):
        notes.append("Nothing but the loss was evaluated: the built-in text comes without others.")
    return TextTable(head, rows, tuple(notes))


def measured_cost(runs: pd.DataFrame) -> float:
    """The time of the steps that the search did, over that of one training of the target."""
    samples = pd.concat(horizons(runs).values())
    done = (samples["diverged_step"] + 1).fillna(samples["steps"]).sum()
    target = targets(runs)["mup"]
    step = target["step_seconds"].median() / samples["step_seconds"].median()
    return float(done / (target["steps"].iloc[0] * step))


def _cell(part: pd.DataFrame, column: str, metric: str) -> str:
    """The mean of a metric over seeds, and its range."""
    if column not in part:
        return "not run"
    if part["diverged"].any():
        return "diverged"
    values = part[column] * (100 if metric == "accuracy" else 1)
    digits = "{:.3f}" if metric == "cross-entropy" else "{:.1f}"
    low, mean, high = (digits.format(x) for x in (values.min(), values.mean(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"


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
    return TextTable(
        head, rows, ("All numbers are the paper's; what is evaluated here is in Table 7.",)
    )
