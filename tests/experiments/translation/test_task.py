"""Batches, loss, validation and translations of the task; both backends."""

import json
import math
from importlib.util import find_spec
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from experiments.data.token_batches import token_batches
from experiments.data.translation import EOS, PAD
from experiments.declare import registry
from experiments.errors import UserError
from experiments.families.transformer_iwslt14.config import VALUES, Iwslt14Config
from experiments.models.fairseq import runner
from experiments.products import collect, draw
from experiments.runs import places, training
from experiments.runs.store import Store
from experiments.train import engine
from experiments.train.parts import Part
from experiments.train.process import Machine
from experiments.translation.backends import TranslatingInFairseq, fairseq_options
from experiments.translation.task import Translating
from tests.experiments.models import fairseq_names

MACHINE = Machine("cpu", 1, "highest")
WITH_FAIRSEQ = pytest.mark.skipif(find_spec("fairseq") is None, reason="fairseq is not installed")


def config(**changes) -> Iwslt14Config:
    values = {**VALUES["smoke"], "data": "multi30k", "log2lr": -7.0, "steps": 12}
    return Iwslt14Config.make(**{**values, "parametrization": "sp", **changes})


def test_a_batch_reads_what_it_predicts_one_word_later(pairs) -> None:
    task = Translating(config())
    source_BS, read_BT, target_BT = next(task.batches("cpu"))
    assert max(source_BS.numel(), target_BT.numel()) <= 256
    for source, read, target in zip(source_BS, read_BT, target_BT, strict=True):
        words = target[target != PAD].tolist()
        assert words[-1] == EOS and words.count(EOS) == 1
        assert read[: len(words)].tolist() == [EOS, *words[:-1]]
        assert source[source != PAD][-1] == EOS
    again = next(Translating(config()).batches("cpu"))
    assert all(map(torch.equal, again, (source_BS, read_BT, target_BT)))
    other = next(Translating(config(seed=1)).batches("cpu"))
    assert other[0].shape != source_BS.shape or not torch.equal(other[0], source_BS)


def test_an_epoch_sees_every_pair_once(pairs) -> None:
    task = Translating(config())
    seen = [b for b in islice(task.batches("cpu"), task.epoch)]
    rows = {tuple(row[row != PAD].tolist()) for _, _, target in seen for row in target}
    assert sum(len(target) for *_, target in seen) == len(task.pairs.target["train"])
    assert rows == {tuple(ids.tolist()) for ids in task.pairs.target["train"]}


def test_loss_is_smoothed_over_the_other_words(pairs) -> None:
    run = config(label_smoothing=0.2)
    task = Translating(run)
    model, batch = task.build(), next(task.batches("cpu"))
    logp = model(*batch[:2]).log_softmax(-1).flatten(0, 1)
    target = batch[2].flatten()
    keep = target != PAD
    right = logp[keep].gather(1, target[keep, None])[:, 0]
    wrong = (logp[keep].sum(1) - right) / (run.vocab_size - 1)
    by_hand = -(0.8 * right + 0.2 * wrong).mean()
    assert task.loss(model, batch).item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("more", [0, 2])
def test_parts_of_a_batch_count_by_their_tokens(pairs, more) -> None:
    task = Translating(config())
    model, batch = task.build(), next(task.batches("cpu"))
    parts = len(batch[0]) + more if more else 3  # of one row each, and two of none
    shares = [task.part(model, batch, Part(i, parts)) for i in range(parts)]
    assert len({round(share.item(), 3) for share in shares}) > 1
    assert sum(shares).item() == pytest.approx(task.loss(model, batch).item(), rel=1e-5)
    if more:
        assert shares[-1].item() == 0
        shares[-1].backward()  # every process has gradients to share
        assert all(p.grad is not None for p in model.parameters())


def test_validation_is_a_mean_over_tokens_whatever_the_batches(pairs) -> None:
    task = Translating(config())
    model = task.build().eval()
    with torch.no_grad():
        value = task.validate(model)
        logp = 0.0
        for source, target in zip(
            *(s["validation"] for s in (task.pairs.source, task.pairs.target)), strict=True
        ):
            ids = torch.from_numpy(np.array(target, np.int64))[None]
            read = ids.roll(1, 1)
            out = model(torch.from_numpy(np.array(source, np.int64))[None], read).log_softmax(-1)
            logp += float(out.gather(2, ids[..., None]).sum())
    tokens = int(task.pairs.target["validation"].lengths.sum())
    assert value == pytest.approx(-logp / tokens, rel=1e-5)


def test_a_perfect_translation_has_a_bleu_of_100(pairs) -> None:
    task = Translating(config())
    right = [ids.tolist() for ids in task.pairs.target["validation"]]
    found = task.scored(right)
    assert found["valid_bleu"] == pytest.approx(100)
    assert "nrefs:1" in found["bleu_signature"]
    source, reference, translation = json.loads(found["examples"])[0]
    assert reference == translation == task.pairs.references["validation"][0] != source
    assert task.scored([right[-1], *right[:-1]])["valid_bleu"] < 30


def test_a_run_is_stored_with_its_epochs_and_resumes(pairs, tmp_path) -> None:
    run = config()
    (record,) = training.train_runs([run], Store(tmp_path))
    epoch = Translating(run).epoch
    assert [*record.valid_losses] == [*range(epoch - 1, run.steps, epoch)]
    assert record.metrics["valid_loss"] > 0 and 0 <= record.metrics["valid_bleu"] <= 100
    assert (
        "valid_bleu"
        not in engine.train(config(beam=0), Translating(config(beam=0)), MACHINE).metrics
    )


def test_without_data_one_line_says_what_is_wanted(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path))
    for family, wanted in (("transformer_iwslt14", "multi30k"), ("transformer_wmt14", "tatoeba")):
        with pytest.raises(UserError, match=wanted) as error:
            registry.exhibit(family).resolve_data()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["table4", "fig6", "translations", "table5", "fig10", "fig12", "fig20"]
)
def test_products_train_and_draw_at_smoke(pairs, tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(places, "ROOT", tmp_path)
    product = registry.product(name)
    source = registry.exhibit(product.exhibit).resolve_data()
    collect.collect(product, "smoke", source)
    draw.draw(product, "smoke")
    runs = pd.read_parquet(tmp_path / "results" / "smoke" / name / "runs.parquet")
    assert len(runs) == runs["id"].nunique() >= 8
    for suffix in product.suffixes:
        assert (tmp_path / "figures" / "smoke" / f"{name}.{suffix}").stat().st_size > 100


# fairseq


@pytest.mark.parametrize(
    "changes", [{"optimizer": "sgd", "beta2": 0.999}, {"precision": "bfloat16"}]
)
def test_what_fairseq_would_ignore_is_refused(changes) -> None:
    with pytest.raises(UserError, match=f"{next(iter(changes))}: with backend=fairseq it is"):
        config(backend="fairseq", **changes)


CASES = {  # losses, validation losses by update; step of divergence, epochs
    "it trains": ((3.0, 2.0, 1.0, 1.0), {3: 2.5, 4: 2.0}, None, {2: 2.5}),
    "it ends with an epoch": ((3.0, 2.0, 1.0), {3: 2.5}, None, {2: 2.5}),
    "a loss grows": ((3.0, 2.0, 1.0, 31.0, 1.0), {3: 2.5, 5: 9.0}, 3, {2: 2.5}),
    "a loss is not finite": ((3.0, math.nan), {}, 1, {}),
    "the last update spoils it": ((3.0, 2.0, 1.0), {3: math.nan}, 2, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_fairseq_gives_is_a_result_like_ours(pairs, monkeypatch, case) -> None:
    losses, measured, step, epochs = CASES[case]
    outcome = runner.Outcome(losses, measured, [])
    monkeypatch.setattr(runner, "train", lambda *args: outcome)
    task = TranslatingInFairseq(config(backend="fairseq", beam=0))
    task.epoch = 3
    result = task.train(None)
    assert (result.diverged_step, result.valid_losses) == (step, epochs)
    assert len(result.losses) == (len(losses) if step is None else step + 1)
    assert result.metrics == ({} if step is not None else {"valid_loss": [*measured.values()][-1]})


def to_fairseq(name: str) -> str:
    """fairseq's name of a parameter of ours."""
    whole = {ours: theirs for theirs, ours in fairseq_names._WHOLE.items()}
    if name in whole:
        return whole[name]
    side, number, rest = name.split(".", 2)
    module_name, kind = rest.rsplit(".", 1)
    inside = {ours: theirs for theirs, ours in fairseq_names._IN_LAYER.items()}
    return f"{side}.layers.{number}.{inside[module_name]}.{kind}"


@WITH_FAIRSEQ
@pytest.mark.slow
@pytest.mark.parametrize("parametrization", ["sp", "mup"])
def test_both_backends_have_the_same_losses(pairs, tmp_path, parametrization) -> None:
    wide = {"width": 32, "d_ffn": 64, "steps": 20, "warmup": 5, "output_mult": 2.0}
    run = config(parametrization=parametrization, **wide)
    task = Translating(run)
    torch.manual_seed(run.seed)
    model = task.build()
    weights = {to_fairseq(name): p.detach().clone() for name, p in model.named_parameters()}
    file = tmp_path / "initial.safetensors"
    save_file(weights, file)
    lengths = [side["train"].lengths for side in (task.pairs.source, task.pairs.target)]
    batches = [b.tolist() for b in islice(token_batches(*lengths, run.batch_size, run.seed), 20)]
    ours = engine.train(run, task, MACHINE)
    options = fairseq_options(run)
    options = runner.Options(**{**vars(options), "initial_weights": file})
    split = TranslatingInFairseq(run).id_lists()
    theirs = runner.train(split, run.vocab_size, options, tmp_path / "run", batches=batches)
    difference = np.abs(np.array(ours.losses) - np.array(theirs.losses)).max()
    assert len(theirs.losses) == 20 and difference < 1e-4
    assert ours.losses[0] - ours.losses[-1] > 0.5  # so they are equal by more than standing still
    assert ours.metrics["valid_loss"] == pytest.approx(theirs.valid_losses[20], abs=1e-4)


@WITH_FAIRSEQ
@pytest.mark.slow
def test_fairseq_gives_rows_of_the_same_store(pairs, tmp_path) -> None:
    run = config(backend="fairseq")
    assert run.id != config().id
    (record,) = training.train_runs([run], Store(tmp_path))
    assert len(record.losses) == run.steps and not record.diverged
    assert math.isfinite(record.metrics["valid_loss"])
    assert 0 <= record.metrics["valid_bleu"] <= 100
    assert [*record.valid_losses] == [
        *training.train_runs([config()], Store(tmp_path))[0].valid_losses
    ]
