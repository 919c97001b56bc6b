"""How a run is computed: what is asked for, what fits, and what the provenance says."""

import json

import pytest

from experiments.declare.way import ALONE, Place, Stretch, Way, chosen, going_on, place, text_of
from experiments.errors import UserError
from experiments.families.transformer_iwslt14.config import VALUES, Iwslt14Config
from tests.tiny_runs import tiny_run

FSDP = Way("fsdp2", 2)
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


@pytest.fixture
def started(monkeypatch):
    """torchrun's numbers in the environment."""

    def start(*values):
        for name, value in zip(NAMES, values, strict=True):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)

    return start


def test_the_place_is_what_torchrun_says(started) -> None:
    started(None, None, None)
    assert place() is None
    started("3", "1", "4")
    assert place() == Place(3, 1, 4)
    for wrong in (("4", "1", "4"), ("3", None, "4"), ("-1", "0", "4"), ("a", "0", "1")):
        started(*wrong)
        with pytest.raises(UserError, match="which torchrun sets; start it so: torchrun "):
            place()


def test_the_way_fits_how_the_process_was_started() -> None:
    two = Place(0, 0, 2)
    assert chosen(None, 1, False, None) == chosen(None, 1, False, Place(0, 0, 1)) == ALONE
    assert chosen("fsdp2", 3, True, two) == Way("fsdp2", 2, 3, True)
    assert chosen(None, 4, False, None) == Way("", 1, 4)
    with pytest.raises(UserError, match="2 processes, which would all train the same; give --par"):
        chosen(None, 1, False, two)
    with pytest.raises(UserError, match="--parallel ddp needs processes that torchrun starts"):
        chosen("ddp", 1, False, None)
    with pytest.raises(UserError, match="unknown --parallel 'fsdp'; did you mean 'fsdp2'"):
        chosen("fsdp", 1, False, two)


def test_batches_of_examples_divide_and_batches_of_tokens_need_not() -> None:
    Way("ddp", 2, 2).refuse(tiny_run(batch_size=8))
    with pytest.raises(UserError, match=r"batch_size: 6 .* 4 equal parts .*: 2 x 2\); give a mult"):
        Way("ddp", 2, 2).refuse(tiny_run(batch_size=6))
    values = {**VALUES["smoke"], "data": "multi30k", "log2lr": -7.0, "steps": 12}
    Way("ddp", 2, 2).refuse(Iwslt14Config.make(**{**values, "batch_size": 257}))


def test_stretches_say_how_a_run_was_computed() -> None:
    assert going_on((), ALONE, 0) == []
    assert going_on((), ALONE, 5) == []
    assert going_on((), FSDP, 0) == [Stretch("fsdp2", 2)]
    mixed = going_on((), FSDP, 5)
    assert mixed == [Stretch(), Stretch("fsdp2", 2, from_step=5)]
    assert going_on(mixed, FSDP, 7) == mixed
    assert going_on(mixed, ALONE, 7) == [*mixed, Stretch(from_step=7)]
    assert text_of([]) == ""
    assert [one["from_step"] for one in json.loads(text_of(mixed))] == [0, 5]
    assert json.loads(text_of(mixed))[1]["processes"] == 2
