"""lm-eval on our models: log-probabilities against the model's own, tasks, errors."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from experiments.data.text_source import SPLITS
from experiments.errors import UserError
from experiments.families.gpt_proxy import harness, spec
from experiments.families.gpt_proxy.config import VALUES, GptConfig, of_width
from experiments.families.gpt_proxy.task import Pretraining, build
from experiments.train import engine
from experiments.train.process import Machine
from tests.data_series import write_split

LENGTH = 16
WORDS = ["<|endoftext|>", *"abcdefghij"]


@pytest.fixture(scope="module")
def evaluated() -> harness.Evaluated:
    torch.manual_seed(0)
    config = GptConfig.make(
        **{**VALUES["smoke"], **of_width("smoke", 16), "vocab_size": len(WORDS)},
        log2lr=-6.0,
        data="",
        init_scale=4.0,
    )
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return harness.Evaluated(build(config).eval(), tokenizer, LENGTH)


def probabilities(evaluated, ids):
    """Of each id after the first, given those before."""
    with torch.no_grad():
        logits = evaluated.model(torch.tensor([ids[:-1]]))[0]
    return logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]].tolist()


def request(*args):
    return SimpleNamespace(args=args)


def test_a_continuation_has_the_models_log_probability(evaluated) -> None:
    pairs = [("a b", " c d"), ("a", " e"), ("", "b c d")]
    found = evaluated.loglikelihood([request(*pair) for pair in pairs], disable_tqdm=True)
    for (context, wanted), (score, greedy) in zip(pairs, found, strict=True):
        ids = [WORDS.index(w) for w in f"{context}{wanted}".split()]
        ids = ids if context else [0, *ids]
        count = len(wanted.split())
        assert score == pytest.approx(sum(probabilities(evaluated, ids)[-count:]), abs=1e-4)
        assert isinstance(greedy, bool)


def test_only_the_most_probable_continuation_is_greedy(evaluated) -> None:
    found = evaluated.loglikelihood([request("a b", f" {w}") for w in WORDS[1:]], disable_tqdm=True)
    assert sum(greedy for _, greedy in found) <= 1
    best = max(found)
    assert best[1] or not any(greedy for _, greedy in found)


def test_a_long_context_is_cut_on_the_left(evaluated) -> None:
    tail = " ".join("bcdefghij"[i % 9] for i in range(LENGTH))
    cut, whole = evaluated.loglikelihood(
        [request(tail, " a"), request(f"a a a a {tail}", " a")], disable_tqdm=True
    )
    assert cut[0] == pytest.approx(whole[0], abs=1e-5)


def test_a_text_is_scored_once_in_windows(evaluated) -> None:
    draw = random.Random(0)
    for count in (3, LENGTH, LENGTH + 1, 3 * LENGTH + 5):
        ids = [draw.randrange(1, len(WORDS)) for _ in range(count)]
        text = " ".join(WORDS[i] for i in ids)
        (found,) = evaluated.loglikelihood_rolling([request(text)])
        parts = [ids[i : i + LENGTH] for i in range(0, count, LENGTH)]
        expected, before = 0.0, 0
        for i, part in enumerate(parts):
            start = i * LENGTH
            # The last window is as long as the others, so that it sees more than one id before.
            seen = ids[max(0, start + len(part) - LENGTH - 1) : start + len(part)]
            line = [before, *part] if i == 0 else seen
            expected += sum(probabilities(evaluated, line)[-len(part) :])
        assert found == pytest.approx(expected, abs=1e-3), count


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UserError, match=r"wikitext3.*wikitext2"):
        harness.tasks_of(["wikitext3"], 1)


def test_a_task_of_written_text_is_refused_before_training(monkeypatch) -> None:
    written = SimpleNamespace(get_config=lambda key: "generate_until")
    manager = SimpleNamespace(
        all_subtasks=["drop"], load=lambda names: {"tasks": {"drop": written}}
    )
    monkeypatch.setattr(harness, "TaskManager", lambda: manager)
    with pytest.raises(UserError, match="evaluations: drop is scored by text"):
        harness.tasks_of(["drop:1"], 1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """All data of the local tasks, tiny."""
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path))
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=4)) for _ in range(60)]

    def text(count=60) -> str:
        found = draw.choices(words, k=count - 1)
        first, middle, last = found[:9], ". ".join(found[9:12]), found[12:]
        return f"{' '.join(first)}. {middle}. {' '.join(last)} {found[0]}."

    for split in SPLITS:
        texts = [text() for _ in range(300)]
        write_split(tmp_path / "wikipedia_en_sample", split, {"text": texts})
        write_split(tmp_path / "english_novels", split, {"text": texts, "doc": ["a"] * 300})
        write_split(tmp_path / "wikitext/wikitext-2-v1", split, {"text": texts})
    for split in ("train", "validation"):
        labels = [draw.randrange(2) for _ in range(30)]
        sentences = {"sentence": [text(6) for _ in labels], "label": labels}
        write_split(tmp_path / "glue/sst2", split, sentences)
    return tmp_path


def test_a_run_is_evaluated_on_all_local_tasks(folder) -> None:
    small = {**VALUES["smoke"], **of_width("smoke", 16), "vocab_size": 300}
    config = GptConfig.make(
        **small,
        log2lr=-6.0,
        data="wikipedia_novels",
        evaluations=spec.evaluated("smoke"),
        documents=4,
    )
    metrics = engine.train(config, Pretraining(config), Machine("cpu", 1, "highest")).metrics
    assert set(metrics) == {"valid_loss", "step_seconds", *spec.evaluated("smoke").split(",")}
    assert set(metrics) >= {"wikitext2", "novels", "last_word", "sst2:0", "sst2:1", "sst2:2"}
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["novels"] > 10
    assert 0 <= metrics["sst2:0"] <= 1
    again = engine.train(config, Pretraining(config), Machine("cpu", 1, "highest")).metrics
    timed = {"step_seconds"}  # all else is the same again
    assert all(again[name] == metrics[name] for name in set(metrics) - timed)
    (folder / "glue/sst2/train-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match="glue/sst2 does not hold train-"):
        Pretraining(config)  # before anything is trained


def test_few_shot_shows_training_examples(folder, evaluated) -> None:
    seen = []

    class Spy(harness.Evaluated):
        def loglikelihood(self, requests, disable_tqdm=False):
            seen.extend(request.args[0] for request in requests)
            return [(0.0, False) for _ in requests]

    tasks = harness.tasks_of(["sst2:0", "sst2:2"], 3)
    found = harness.evaluations(evaluated.model, evaluated.ids_of, LENGTH, tasks)
    assert set(found) == {"sst2:0", "sst2:2"}
    harness.evaluate(Spy(evaluated.model, evaluated.ids_of, LENGTH), tasks, log_samples=False)
    shown = {context.count("Is it positive") for context in seen}
    assert shown == {1, 3}
