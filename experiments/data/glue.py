"""Labelled sentences of GLUE's tasks, from Parquet files in the layout of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from experiments.data.parquet import Row, text_rows
from experiments.data.places import data_fix, data_root, split_files
from experiments.errors import UserError
from experiments.messages import note

FOLDER = "glue"


@dataclass(frozen=True)
class GlueTask:
    """A task.

    Attributes:
        columns: of the texts, one or two.
        labels: how many there are, from 0 on.
        held_out: the split on which each name of an accuracy is measured.
    """

    columns: tuple[str, ...]
    labels: int
    held_out: dict[str, str]


TASKS = {
    "mnli": GlueTask(
        ("premise", "hypothesis"),
        3,
        {"mnli_matched": "validation_matched", "mnli_mismatched": "validation_mismatched"},
    ),
    "qqp": GlueTask(("question1", "question2"), 2, {"qqp": "validation"}),
    "sst2": GlueTask(("sentence",), 2, {"sst2": "validation"}),
}
"""MNLI and QQP of Table 6, and SST-2, whose files here are complete."""

Example = tuple[tuple[str, ...], int]
"""The texts and their label."""


def glue_files(names: Iterable[str] = TASKS) -> dict[tuple[str, str], list[Path]]:
    """The files by task and split.

    Raises:
        UserError: `MUPKIT_DATA` is not set, or a file is missing.
    """
    holds = " and ".join(f"{FOLDER}/{name}" for name in names)
    if data_root(holds) is None:
        raise UserError(f"MUPKIT_DATA: is not set; {data_fix(holds)}")
    found: dict[tuple[str, str], list[Path]] = {}
    for name in names:
        splits = {split: split for split in ("train", *TASKS[name].held_out.values())}
        files = split_files(f"{FOLDER}/{name}", splits) or {}
        found |= {(name, split): paths for split, paths in files.items()}
    return found


def _rows(name: str, paths: Iterable[Path]) -> Iterator[Row]:
    """Label and texts of each row of a task's files."""
    columns = ("label", *TASKS[name].columns)
    return chain.from_iterable(text_rows(path, columns, numbers=("label",)) for path in paths)


def glue_fingerprint() -> str:
    """16 hexadecimal digits of the rows of all tasks and splits, however files divide them.

    Raises:
        UserError: as `glue_files`; a damaged file.
    """
    digest = hashlib.sha256()
    for (name, split), paths in glue_files().items():
        digest.update(f"{name} {split}\n".encode())
        for _, values in _rows(name, paths):
            digest.update(json.dumps(values).encode())
    return digest.hexdigest()[:16]


def load_glue(name: str, split: str, most: int) -> list[Example]:
    """The first examples of a split, at most `most`.

    One without text or without a known label is left out of train, which is told. In a held-out
    split it is an error, since an accuracy of other examples compares with no other.

    Raises:
        UserError: a missing or damaged file.
    """
    task, left_out = TASKS[name], 0
    paths = glue_files((name,))[name, split]
    known = [str(label) for label in range(task.labels)]
    found: list[Example] = []
    for place, (label, *texts) in _rows(name, paths):
        if len(found) == most:
            break
        missing = not all(text and text.strip() for text in texts)
        fault = "an empty text" if missing else ""
        if label not in known:
            fault = f"the label {label}, not one from 0 to {task.labels - 1}"
        if not fault:
            found.append((tuple(text or "" for text in texts), int(label or 0)))
        elif split == "train":
            left_out += 1
        else:
            raise UserError(f"{place}: {fault}; copy the file again")
    if left_out:
        note(f"{paths[0]}: {left_out} training examples without text or label are left out")
    if not found:
        raise UserError(f"{paths[0]}: holds no example; copy the file again")
    return found
