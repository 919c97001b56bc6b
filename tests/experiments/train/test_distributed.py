"""Two processes compute the runs of one: DDP, FSDP2, accumulation, recomputation, checkpoints."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.declare.way import Way
from experiments.families.transformer_wikitext2.config import TransformerConfig
from experiments.families.transformer_wikitext2.task import LanguageModeling
from experiments.runs.store import read_file
from experiments.train import engine
from experiments.train.distributed import Shared, Team
from tests.experiments.train import shared_runs as runs

ROOT = Path(__file__).parents[3]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
ROUNDED = {"float16": 2e-3, "bfloat16": 2e-2}  # products; where an update rounds is not told
EXACT = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def found(folder, tiny_data):
    """What two processes found of every case (`shared_runs`)."""
    environment = {
        **os.environ,
        "MUPKIT_DATA": str(tiny_data),
        "MUPKIT_CACHE": str(folder / "cache"),
    }
    command = [*TORCHRUN, "-m", runs.__name__, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.fixture(scope="module")
def alone():
    """The same of one process, by kind, trained once each."""
    known = {}

    def of(kind):
        if kind not in known:
            config = runs.config_of(kind)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(engine, "loss_scaler", runs.small_scale)
                known[kind] = runs.trained(config, runs.task_of(kind, config))
        return known[kind]

    return of


def assert_same(found: dict, expected: dict, atol: float) -> None:
    assert found["diverged"] == expected["diverged"]
    assert len(found["losses"]) == len(expected["losses"])
    close = dict(rtol=atol, atol=atol, equal_nan=True)
    torch.testing.assert_close(found["losses"], expected["losses"], **close)
    assert found["groups"] == expected["groups"]
    assert found["scale"] == expected["scale"]
    assert found["metrics"].keys() == expected["metrics"].keys()
    if expected["diverged"] is not None:
        assert math.isnan(found["final"])
        return
    assert found["metrics"]["text"] == "µ"
    assert found["metrics"]["mean"] == pytest.approx(expected["metrics"]["mean"], abs=atol)
    assert found["valid"] == pytest.approx(expected["valid"], abs=atol)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, **close, msg=name)


@pytest.mark.parametrize(("way", "kind"), runs.CASES)
def test_a_shared_run_is_that_of_one_process(found, alone, way, kind) -> None:
    assert_same(found[way, kind], alone(kind), ROUNDED.get(kind, EXACT))


def test_the_cases_say_something(alone) -> None:
    assert alone("sgd")["losses"][-1] < alone("sgd")["losses"][0] - 0.05
    assert not torch.allclose(alone("clipped")["losses"], alone("sgd")["losses"], atol=1e-3)
    assert 0 < alone("diverging")["diverged"] < runs.STEPS - 1
    assert alone("spoiled")["diverged"] == runs.BROKEN
    assert alone("float16")["scale"] == 32  # one update was left out
    rates = {lr for lr, *_ in alone("adam")["groups"].values()}
    assert len(rates) == 3  # embedding; biases by the model's factor; hidden weights by width, too
    assert len(alone("adam")["valid"]) == 1


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("ways", runs.RESUMED)
def test_a_run_goes_on_with_another_number_of_processes(found, alone, ways, kind) -> None:
    one = found[ways, kind]
    assert_same(one, alone(kind), EXACT)
    starts = [(0, 2, 4)[i] for i in range(3)]
    expected = [(way.parallel, way.processes) for way in runs.RESUMED[ways]]
    assert one["stretches"] == [(s, *e) for s, e in zip(starts, expected, strict=True)]


def test_what_a_part_draws_does_not_depend_on_who_computes_it(found, alone) -> None:
    config = runs.config_of("adam")
    accumulated = runs.trained(config, runs.Dropping(config), Team(Way(accumulate=2)).hold)
    assert_same(found["dropout"], accumulated, EXACT)
    assert not torch.allclose(accumulated["losses"], alone("adam")["losses"], atol=1e-3)


def test_recomputing_changes_no_bit() -> None:
    config = runs.config_of("adam")
    plain = runs.trained(config, runs.Dropping(config))
    again = runs.trained(config, runs.Dropping(config), Team(Way(recompute=True)).hold)
    assert torch.equal(plain["losses"], again["losses"])
    calls = []
    held = Shared(config, runs.Weighted(config), runs.MACHINE, Team(Way(recompute=True)))
    held.model.blocks[0].up.register_forward_hook(lambda *args: calls.append(0))
    held.loss(next(held.task.batches("cpu")), 0)
    assert len(calls) == 2


def test_one_spoiled_shard_is_noticed(found) -> None:
    assert found["shard spoiled"] is True


def test_processes_speak_and_agree(found) -> None:
    assert found["told"] == ("µ 0", ["0", "11"])
    assert found["unable"] == "process 1: no data here"
    assert "torch_version: process 1 has 2.1, process 0 has 2.0" in found["unlike"]


def test_what_cannot_be_divided_is_refused(found) -> None:
    assert "batch normalization reads the whole batch" in found["BatchNormed"]
    assert "its task divides no batch" in found["Undivided"]


def test_the_first_process_alone_writes_and_prints(found, tiny) -> None:
    (printed, noted), silent = map(json.loads, found["printed"])
    assert silent == ["", ""]
    first, path, *again = printed.splitlines()
    record = read_file(Path(path))
    assert again == [first, path]
    assert f"run {record.id} is in the store already\n" in noted
    assert [json.loads(record.provenance.computed)] == [
        [{"accumulate": 1, "from_step": 0, "parallel": "fsdp2", "processes": 2, "recompute": False}]
    ]
    config = TransformerConfig.make(**record.config)
    assert config.id == record.id  # how it was computed is no part of it
    plain = engine.train(config, LanguageModeling(config), runs.MACHINE)
    assert record.losses == pytest.approx(plain.losses, abs=EXACT)
