"""Finetuning: the pretrained body as it is, a task that can be learned, damaged files, no data."""

from __future__ import annotations

import copy
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from experiments.data.glue import TASKS, glue_files, glue_fingerprint, load_glue
from experiments.errors import UserError
from experiments.families.bert import finetuning
from experiments.families.bert.config import FINETUNING, TARGETS, VALUES, BertConfig
from experiments.families.bert.task import MaskedLanguageModeling
from experiments.models.bert import Bert
from experiments.train import engine
from experiments.train.process import Machine
from tests.data_series import write_split

WORDS = ["the", "of", "and", "in", "to", "was", "is", "for", "as", "on"]


def run(**values) -> BertConfig:
    base = {**VALUES["smoke"], **TARGETS["base"]["smoke"], "log2lr": -8.0}
    return BertConfig.make(**base | {"data": "wikipedia_sample"} | values)


def write_glue(root, count=96) -> None:
    """Every task's label is whether the first text has the word "the"."""
    draw = random.Random(0)
    for name, task in TASKS.items():
        for split in ("train", *task.held_out.values()):
            labels = [draw.randrange(2) for _ in range(count)]
            texts = [
                [" ".join(draw.choices(WORDS[1:], k=3) + [WORDS[0]] * label) for label in labels]
                for _ in task.columns
            ]
            table = {**dict(zip(task.columns, texts, strict=True)), "label": labels}
            write_split(root / "glue" / name, split, table)


@pytest.fixture
def glue(tmp_path, monkeypatch):
    write_glue(tmp_path)
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def task():
    return MaskedLanguageModeling(run())


@pytest.fixture
def model(task) -> Bert:
    torch.manual_seed(0)
    return task.build().eval()


@pytest.mark.parametrize("parametrization", ["sp", "mup"])
def test_the_classifier_reads_what_the_pretrained_body_says(parametrization) -> None:
    torch.manual_seed(0)
    config = run(parametrization=parametrization, width=64, attn_mult=3.0)
    pretrained = MaskedLanguageModeling(config).build().eval()
    found = finetuning.classifier(pretrained, 3).eval()
    ids = torch.randint(5, 400, (2, 8))
    expected = pretrained.masked.bert(input_ids=ids).last_hidden_state
    assert torch.equal(found.bert(input_ids=ids).last_hidden_state, expected)
    assert found(input_ids=ids).logits.shape == (2, 3)
    bare = pretrained.masked.bert.encoder.layer[0].attention.self.query
    assert bare._forward_hooks  # the multiplier of the logits, which a plain copy would lose


def test_it_learns_what_can_be_learned_and_leaves_the_model(glue, task, model) -> None:
    before = copy.deepcopy(model.state_dict())
    config = run(finetune_examples=96, finetune_epochs=24, finetune_log2lr=-7.0)
    found = finetuning.finetune(model, task.tokenizer, config)
    assert set(found) == {"mnli_matched", "mnli_mismatched", "qqp", "sst2"}
    assert min(found.values()) > 0.9
    assert found == finetuning.finetune(model, task.tokenizer, config)
    barely = config.replace(finetune_log2lr=-40.0)
    assert max(finetuning.finetune(model, task.tokenizer, barely).values()) < 0.8
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_pairs_are_marked_and_cut(task, model) -> None:
    seen = []
    tuned = finetuning.classifier(model, 2)
    tuned.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    tokenizer = copy.deepcopy(task.tokenizer)
    config = run()
    examples = [(("the of", "and " * 40), 0), (("the", "of"), 1)]
    ids = tokenizer.get_vocab()
    tokenizer.backend_tokenizer.post_processor = finetuning.BertProcessing(
        ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
    )
    finetuning._logits_labels(tuned, tokenizer, examples, config)
    (encoded,) = seen
    assert encoded["input_ids"].shape == (2, 16)  # the pretraining's length is less than 128
    assert encoded["input_ids"][1, :5].tolist()[0::2] == [2, 3, 3]  # [CLS] a [SEP] b [SEP]
    assert encoded["token_type_ids"][1, :5].tolist() == [0, 0, 0, 1, 1]
    assert encoded["attention_mask"][1].sum() == 5


def test_built_in_text_is_not_finetuned_and_a_missing_folder_is_named(monkeypatch) -> None:
    monkeypatch.delenv("MUPKIT_DATA", raising=False)
    built_in = run(**FINETUNING["smoke"])
    result = engine.train(built_in, MaskedLanguageModeling(built_in), Machine("cpu", 1, "highest"))
    assert "qqp" not in result.metrics and result.metrics["step_seconds"] > 0
    with pytest.raises(UserError, match=r"MUPKIT_DATA: is not set; .*glue/mnli and glue/qqp"):
        glue_files()


def test_a_missing_file_is_named(glue) -> None:
    (glue / "glue/qqp/validation-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"glue/qqp does not hold validation-"):
        glue_files()


def spoil(root, split, column, row, value) -> None:
    path = root / f"glue/sst2/{split}-00000-of-00001.parquet"
    table = pq.read_table(path).to_pydict()
    table[column][row] = value
    pq.write_table(pa.table(table), path)


@pytest.mark.parametrize(
    ("column", "value"), [("sentence", " "), ("sentence", None), ("label", -1)]
)
def test_a_bad_row_is_left_out_of_train_and_refused_elsewhere(glue, column, value, capsys) -> None:
    spoil(glue, "train", column, 3, value)
    assert len(load_glue("sst2", "train", 1000)) == 95
    assert "1 training example" in capsys.readouterr().err
    spoil(glue, "validation", column, 3, value)
    with pytest.raises(UserError, match=r"glue/sst2/validation-.*, row 3: "):
        load_glue("sst2", "validation", 1000)


def test_the_fingerprint_is_of_the_rows_however_files_divide_them(glue) -> None:
    first = glue_fingerprint()
    one = glue / "glue" / "sst2" / "train-00000-of-00001.parquet"
    table = pq.read_table(one)
    one.unlink()
    _, second = write_split(one.parent, "train", table, ends=[40])
    assert glue_fingerprint() == first
    pq.write_table(table.slice(41), second)
    assert glue_fingerprint() != first


def test_the_number_of_examples_is_at_most_what_is_asked_for(glue) -> None:
    assert len(load_glue("mnli", "train", 10)) == 10
    assert load_glue("mnli", "train", 10) == load_glue("mnli", "train", 96)[:10]
