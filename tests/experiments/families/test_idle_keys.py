"""Each key of a family changes something, or the run says that it is idle. A new family is tested
here without a line of its own."""

from __future__ import annotations

import typing
from typing import Any

import pytest
import torch

from experiments.declare.config import RunConfig
from experiments.declare.dimensions import DIMS, TransformerDims
from experiments.declare.references import load
from experiments.errors import UserError
from experiments.train import engine
from tests.experiments.families.test_contract import FAMILIES, MACHINE, smoke

UNSEEN = {"data", "steps", "length_penalty"}
"""Of a few steps: other data, another number of them, and what is measured afterwards."""
UNLIKE = {"eps": 1e-3, "grad_clip": 1e-2, "warmup": 3, "schedule": "cosine", "cutout": 16}
"""Values that show within a few steps of small images."""
NO_CHOICES = {"schedule", "precision"}
"""What no other key depends on, and what may leave steps out."""
ALL_KEYS = "transformer_wikitext2"  # the family whose keys are all tried beside each choice
STEPS = 4
SLOWER = 7  # octaves below the example's rate, so that no choice diverges before it shows


def others(run: RunConfig, key: str) -> list[Any]:
    """Values that a key might have instead: all that it chooses from, or another number."""
    field, value = type(run).model_fields[key], getattr(run, key)
    kinds = [field.annotation, *typing.get_args(field.annotation)]
    words = [
        w for kind in kinds if typing.get_origin(kind) is typing.Literal for w in kind.__args__
    ]
    if key in UNLIKE:
        return [UNLIKE[key]]
    if words:
        return [word for word in words if word != value]
    if isinstance(value, bool):
        return [not value]
    if key.removeprefix("base_") in DIMS and isinstance(run, TransformerDims):
        return [2 * run.dims(key.startswith("base_"))[key.removeprefix("base_")]]
    if str in kinds:
        return []
    if float in kinds:
        inside = any(getattr(bound, "lt", None) == 1 for bound in field.metadata)
        return [0.3 if inside else 1.7 * value if value else 0.7]
    return [2 * value if value else 3]


def changed(run: RunConfig, **values: Any) -> RunConfig | None:
    """The run with a value; None if it cannot have it, or says that this changes nothing."""
    try:
        found = run.replace(**values)
    except UserError:
        return None
    return None if found.idle().keys() & values.keys() or found.id == run.id else found


def outcome(run: RunConfig) -> tuple[Any, ...] | None:
    """Losses and parameters after a few steps; None if this machine cannot train it."""
    models = []
    try:
        task = load(run.task, run.family)(run)
        build = task.build
        task.build = lambda: models.append(build()) or models[0]
        task.evaluate = lambda model: {}
        losses = engine.train(run, task, MACHINE).losses
    except UserError:
        return None
    return *losses, *(p.detach() for p in models[0].parameters())


def same(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    pairs = zip(left, right, strict=False)
    return len(left) == len(right) and all(
        a.shape == b.shape and torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in pairs
    )


@pytest.mark.filterwarnings("ignore:the weight decay of Adam")
@pytest.mark.parametrize("name", FAMILIES)
def test_each_key_changes_something_or_is_called_idle(name) -> None:
    """Beside the usual values, and beside each choice that is not the usual one.

    Keys that many families have are tried beside choices in one family alone.
    """
    first = smoke(name)
    first = first.replace(steps=STEPS, width=2 * first.width, log2lr=first.log2lr - SLOWER)
    keys = [key for key in type(first).model_fields if key not in UNSEEN | {*first.measures}]
    words = [key for key in keys if isinstance(getattr(first, key), bool | str)]
    choices = [(key, value) for key in words for value in others(first, key)]
    beside = [changed(first, **{key: value}) for key, value in choices if key not in NO_CHOICES]
    own = [key for key in keys if key not in TransformerDims.model_fields or name == ALL_KEYS]
    for run in (first, *filter(None, beside)):
        before = outcome(run)
        assert before and all(isinstance(x, float) for x in before[:STEPS]), "it diverged"
        for key in keys if run is first else own:
            for value in others(run, key):
                other = changed(run, **{key: value})
                after = other and outcome(other)
                if after:
                    assert not same(before, after), f"{key}={value!r} beside {run.canonical()}"
