"""fairseq with the plug-in against plain fairseq, the core and sums by hand; the runner."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.files import sha256
from experiments.models.fairseq import runner
from experiments.models.fairseq.runner import UNK, Outcome
from experiments.runs.versions import imported
from mupkit import attention_scale
from tests.experiments.models.fairseq_measurements import (
    FOUND,
    SMALL,
    VOCAB,
    WIDE,
    batches,
    pairs,
)

MEASUREMENTS = "tests.experiments.models.fairseq_measurements"
pytestmark = [
    pytest.mark.slow,  # about five seconds for each of four processes
    pytest.mark.skipif(find_spec("fairseq") is None, reason="fairseq is not installed"),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict:
    """All that is measured inside fairseq."""
    folder = tmp_path_factory.mktemp("measured")
    command = [sys.executable, "-W", "ignore", "-m", MEASUREMENTS, str(folder)]
    env = {**os.environ, "PYTHONPATH": str(runner.ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / FOUND).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Outcome, Path, list[tuple[int, float]]]:
    """A training in µP by the runner, with translations; its folder; its steps as it told them."""
    folder, steps = tmp_path_factory.mktemp("trained"), []
    outcome = runner.train(
        pairs(), VOCAB, WIDE, folder, lambda *step: steps.append(step), beam=5, batches=batches()
    )
    return outcome, folder, steps


@pytest.fixture(scope="module")
def diverged(tmp_path_factory) -> Outcome:
    """A training by the runner whose second update, the first with a rate, spoils it."""
    options = replace(SMALL, lr=1e30, dropout=0.0)
    folder = tmp_path_factory.mktemp("diverged")
    return runner.train(pairs(), VOCAB, options, folder, beam=5, batches=[list(range(60))])


def test_fairseq_reads_the_corpus_that_was_written(measured) -> None:
    assert measured["data"]["read"] == {split: list(both) for split, both in pairs().items()}
    words = ["<s>", "<pad>", "</s>", "<unk>", *map(str, range(UNK + 1, VOCAB))]
    assert measured["data"]["words"] == words


def test_sp_and_base_width_are_plain_fairseq_bit_for_bit(measured) -> None:
    plain = measured["trained"]["plain"]
    assert len(plain) == len(SMALL.factors) + 2
    assert measured["trained"]["sp"] == plain
    assert measured["trained"]["base"] == plain


def test_rates_are_those_of_the_core(measured) -> None:
    rates = measured["rates"]
    assert rates["lr"] == 0.125
    assert rates["own"] == rates["core"]
    factor = {name: lr / 0.125 for name, (lr, _, _) in rates["own"].items()}
    assert factor["encoder.embed_tokens.weight"] == 1
    assert factor["decoder.layers.1.fc1.bias"] == 1
    for name in ("self_attn.q_proj", "encoder_attn.k_proj", "fc1"):  # 64 / 32
        assert factor[f"decoder.layers.1.{name}.weight"] == 1 / 2
    assert factor["encoder.layers.0.self_attn.out_proj.weight"] == 1 / 4  # 4 * 16 / (2 * 8)
    assert factor["encoder.layers.0.fc2.weight"] == 1 / 3  # 96 / 32


def test_multipliers(measured) -> None:
    found = measured["multipliers"]
    assert found["output"] < 1e-6
    assert found["readout"] == 2
    assert found["attention"] == 6 * [attention_scale(32, 8, WIDE.attn_mult)]
    assert found["embedding"] == pytest.approx([32, 32])


def test_initialization_scales_by_the_rules(measured) -> None:
    expected = {"q_proj": 2, "k_proj": 2, "v_proj": 2, "out_proj": 4, "fc1": 2, "fc2": 3}
    for name, (wide, base) in measured["multipliers"]["std"].items():
        *_, module, local = name.split(".")
        if "layer_norm" in name or (module, local) == ("out_proj", "bias"):
            assert wide == base == 0
            continue
        fan_in = expected.get(module, 1) if local == "weight" else 1
        rel = 0.5 if local == "bias" else 0.15  # few numbers
        assert wide / base == pytest.approx(fan_in**-0.5, rel=rel), name


def test_attention_is_that_of_fairseq_and_the_same_in_steps(measured) -> None:
    assert set(measured["attention"]) == {"self", "cross", "self in steps", "cross in steps"}
    assert max(measured["attention"].values()) < 1e-6


def test_coordinates(measured) -> None:
    found = measured["coordinates"]
    assert found["mup_adam"]["fails"] == []
    assert len(found["mup_adam"]["ok"]) > 50
    updates = {tensor for kind, tensor in found["adam"]["fails"] if kind == "update"}
    assert "decoder.layers.0.encoder_attn.q_proj.weight" in updates


def test_initial_weights_come_from_a_file(measured) -> None:
    assert measured["initial_weights"]["equal"]
    assert "encoder.layers.0.fc1.bias" in measured["initial_weights"]["said"]


def test_what_is_not_finite_ends_a_training_without_an_error(measured) -> None:
    assert measured["ends"] == {"gradient": True, "loss": True, "finite": False}


def test_losses_are_means_over_tokens_of_the_given_batches(measured, trained) -> None:
    outcome, _, steps = trained
    assert len(outcome.losses) == len(WIDE.factors)
    assert outcome.losses[0] == pytest.approx(measured["start"]["first"], rel=1e-6)
    # The first update has rate 0.
    assert outcome.losses[1] == pytest.approx(measured["start"]["second"], rel=1e-6)
    assert steps == list(enumerate(outcome.losses))
    assert max(outcome.losses[-3:]) < min(outcome.losses[:3]) - 1
    assert [*outcome.valid_losses] == [*range(3, len(WIDE.factors) + 1, 3)]


def test_every_validation_source_is_translated(trained) -> None:
    outcome, _, _ = trained
    sources, targets = pairs()["validation"]
    assert len(outcome.hypotheses) == len(sources)
    assert {i for ids in outcome.hypotheses for i in ids} <= set(range(UNK, VOCAB))
    # The words of a translation are those of its source more often than those of the next one.
    own, next_ = (
        sum(len({*ids} & {*target}) for ids, target in zip(outcome.hypotheses, of, strict=True))
        for of in (targets, [*targets[1:], targets[0]])
    )
    assert own > next_


def test_a_checkpoint_that_was_altered_is_not_loaded(trained, tmp_path) -> None:
    _, folder, _ = trained
    checkpoint = folder / runner.CHECKPOINT
    digest, content = sha256(checkpoint), bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(UserError, match=r"status 1: .*digest.*translate\.log"):
        runner.translate_validation(folder, digest, 5, 1.0)


def test_checkpoints_are_loaded_without_code_whatever_the_environment_says(monkeypatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in runner._environment()
    assert runner._environment()["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"


def test_a_run_that_diverges_is_a_result(measured, diverged) -> None:
    assert len(diverged.losses) < len(SMALL.factors)
    assert not math.isfinite(diverged.losses[-1])
    assert all(map(math.isfinite, diverged.losses[:-1]))
    assert diverged.losses[0] == pytest.approx(measured["start"]["some"], rel=1e-6)
    assert next(iter(diverged.valid_losses.values())) == pytest.approx(
        measured["start"]["validation"], rel=1e-6
    )
    assert diverged.hypotheses == []


def test_without_fairseq_the_error_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="fairseq is not installed"):
        runner.train(pairs(), VOCAB, SMALL, tmp_path)


def test_a_training_that_ends_early_has_diverged(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "_train", lambda *args: ([3.0, 2.5], {}))
    outcome = runner.train(pairs(), VOCAB, SMALL, tmp_path, beam=5)
    assert outcome.losses[:2] == (3.0, 2.5)
    assert math.isnan(outcome.losses[2])
    assert outcome.hypotheses == []


def test_code_of_the_processes_counts_as_code_of_a_run() -> None:
    here = Path(runner.__file__).parent
    files = {file for file in here.glob("**/*.py") if file.name != "__init__.py"}
    assert len(files) == 8
    assert files <= imported([Path(runner.__file__)])
