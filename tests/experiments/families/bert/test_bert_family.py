"""The BERT family: the paper's grid and sizes, masks, the winner's way to the targets, Table 6."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.analysis.text_table import markdown
from experiments.declare import registry
from experiments.declare.scales import SCALES
from experiments.errors import UserError
from experiments.families.bert import figures, spec
from experiments.families.bert.config import PROXY, TARGETS, VALUES, BertConfig
from experiments.families.bert.task import IGNORED, MaskedLanguageModeling


def runs(scale="small"):
    return registry.product("table6").runs(scale, "wikipedia_sample")


# Appendix F.3: exponents z of 1e-4 * 2^z and of 2^z.
Z = {
    "log2lr": [1.5, 2, 2.5, 3, 3.5],
    "embed_log2lr": [-1, -0.5, 0, 0.5, 1],
    "output_mult": [2, 4, 6],
    "attn_mult": [3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7],
    "gain_mult": [8.5, 9, 9.5, 10, 10.5],
    "bias_mult": [8.5, 9, 9.5, 10, 10.5],
}


def test_the_grid_is_the_papers() -> None:
    space = spec.space("paper")
    for key in ("log2lr", "embed_log2lr"):
        np.testing.assert_allclose(2.0 ** np.array(space[key]), 1e-4 * 2.0 ** np.array(Z[key]))
    # Multipliers of q·k / d for keys of 32, and relative to the middle of the paper's range.
    np.testing.assert_allclose(
        np.array(space["attn_mult"]) * 32**0.5, 2.0 ** np.array(Z["attn_mult"])
    )
    for key in ("output_mult", "gain_mult", "bias_mult"):
        middle = Z[key][len(Z[key]) // 2]
        np.testing.assert_allclose(np.array(space[key]) * 2**middle, 2.0 ** np.array(Z[key]))
    searched = [run for run in runs("paper") if run.width == 256]
    assert spec.SAMPLES["paper"] == 256
    assert len(searched) == 255  # one was drawn twice
    assert {run.steps for run in searched} == {100_000}
    assert {(run.n_layer, run.dims()["d_ffn"], run.dims()["d_k"]) for run in searched} == {
        (10, 256, 32)
    }


def test_the_papers_trainings() -> None:
    targets = [run for run in runs("paper") if run.width > 256]
    assert {(run.width, run.n_layer, run.dims()["d_ffn"], run.n_head) for run in targets} == {
        (768, 12, 3072, 12),
        (1024, 24, 4096, 16),
    }
    for run in targets:
        assert (run.batch_size, run.steps) == (256, 1_000_000)
        assert run.log2lr == math.log2(1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_a_targets_width_tells_its_scale(scale) -> None:
    for name, sizes in TARGETS.items():
        assert spec.target_of(sizes[scale]["width"]) == (name, scale)


@pytest.mark.parametrize("scale", SCALES)
def test_the_proxy_is_the_base_model_and_narrower_and_shallower_than_the_targets(scale) -> None:
    small = BertConfig.make(**spec.proxy(scale), log2lr=0, data="")
    assert small.dims() == small.dims(base=True)
    for sizes in TARGETS.values():
        assert sizes[scale]["width"] > PROXY[scale]["width"]
        assert sizes[scale]["n_layer"] >= PROXY[scale]["n_layer"]


@pytest.fixture(scope="module")
def task():
    return MaskedLanguageModeling(runs("smoke")[0])


def test_masks_are_of_the_batch_alone_and_leave_the_signs(task) -> None:
    (windows, seed), (_, other) = itertools.islice(task.batches("cpu"), 2)
    assert seed != other
    read, wanted = task.masked(windows, seed)
    again, _ = task.masked(windows, seed)
    assert torch.equal(read, again)
    assert windows.shape == (4, 14) and read.shape == (4, 16)
    assert (read[:, 0] == 2).all() and (read[:, -1] == 3).all()  # [CLS], [SEP]
    hidden = wanted != IGNORED
    assert not hidden[:, [0, -1]].any()
    assert torch.equal(wanted[hidden], torch.nn.functional.pad(windows, (1, 1))[hidden])
    many = windows.repeat(100, 1)
    read, wanted = task.masked(many, 0)
    hidden = wanted != IGNORED
    assert hidden[:, 1:-1].float().mean() == pytest.approx(0.15, abs=0.02)
    assert (read[hidden] == 4).float().mean() == pytest.approx(0.8, abs=0.05)


def test_a_batch_without_masked_words_has_no_loss_and_no_nan(task) -> None:
    torch.manual_seed(0)
    net = task.build()
    windows = torch.full((1, 14), 7)
    seeds = (s for s in range(1000) if (task.masked(windows, s)[1] == IGNORED).all())
    assert task.loss(net, (windows, next(seeds))).item() == 0


def test_the_test_loss_is_the_same_for_the_same_model(task) -> None:
    torch.manual_seed(0)
    net = task.build().eval()
    with torch.no_grad():
        found = [task.evaluate(net)["test_loss"] for _ in range(2)]
    assert found[0] == found[1]
    assert found[0] == pytest.approx(math.log(400), rel=0.05)


NARROW, WIDTHS = PROXY["small"]["width"], [sizes["small"]["width"] for sizes in TARGETS.values()]


def table(losses, diverged=()):
    """Table 6's tidy table: samples, and targets with a test loss by method."""
    rows = []
    for i, run in enumerate(r for r in runs() if r.width == NARROW):
        loss = 5 + abs(i - 7) / 100
        metrics = {"diverged": i == 7, "test_loss": loss, "step_seconds": 0.1}
        rows.append({**run.model_dump(), **metrics})
    for name, (method, loss) in itertools.product(TARGETS, losses.items()):
        for seed in range(2):
            run = BertConfig.make(
                **{**VALUES["small"], **TARGETS[name]["small"], "data": "", "log2lr": -8},
                parametrization="mup" if method == "mup" else "sp",
                seed=seed,
                embed_log2lr=None if method == "default" else -9.0,
            )
            lost = method in diverged
            value = math.nan if lost else loss + 0.01 * seed
            metrics = {"diverged": lost, "test_loss": value, "step_seconds": 0.3 + 0.1 * seed}
            rows.append({**run.model_dump(), **metrics})
    return pd.DataFrame(rows)


GOOD = {"default": 5.0, "naive": 5.2, "mup": 4.9}


def test_the_best_sample_that_did_not_diverge_is_carried() -> None:
    samples = table({})
    carried = figures.carry(runs(), samples, "small")
    searched = [r for r in runs() if r.width == NARROW]
    assert len(carried) == 8
    assert {(r.width, r.parametrization, r.seed) for r in carried} == {
        *itertools.product(WIDTHS, ("sp", "mup"), (0, 1))
    }
    for key in spec.KEYS:
        assert {getattr(r, key) for r in carried} == {getattr(searched[6], key)}
    assert {r.steps for r in carried} == {VALUES["small"]["steps"]}


def test_differences_are_the_worse_targets() -> None:
    found = table(GOOD)
    assert figures.largest_difference(found, "mup", "default").value == pytest.approx(-0.1)
    assert figures.largest_difference(found, "mup", "naive").value == pytest.approx(-0.3)
    assert figures.largest_difference(found, "default", "naive").value == pytest.approx(-0.2)
    wide = found["width"].eq(WIDTHS[1]) & found["parametrization"].eq("mup")
    found.loc[wide, "test_loss"] = 5.5
    assert figures.largest_difference(found, "mup", "default").value == pytest.approx(0.495)


def test_divergence_is_worse_than_anything_and_equal_to_itself() -> None:
    lost = table(GOOD, diverged=("naive",))
    assert figures.largest_difference(lost, "default", "naive").value == -math.inf
    both = table(GOOD, diverged=("naive", "mup"))
    assert figures.largest_difference(both, "mup", "naive").value == 0
    assert figures.largest_difference(both, "mup", "default").value == math.inf


def test_the_table_has_the_papers_rows_beside_ours() -> None:
    text = markdown(figures.render_table6(table(GOOD, diverged=("naive",))))
    assert text.count("paper") >= 6
    assert "1.683" in text and "87.0/86.5" in text
    assert "| **large, here** | naive transfer |" in text
    assert "diverged" in text and "not run" in text
    assert "Nothing was finetuned" in text
    per_step, whole = spec.speedups("base", "small")
    steps = VALUES["small"]["steps"] / PROXY["small"]["steps"]
    told = f"{per_step:.3g}x (3.5x) | {whole:.3g}x ({3.5 * steps:.3g}x)"
    assert f"| **base, here** | µTransfer | {told} |" in text


def test_accuracies_after_finetuning_are_means_over_seeds() -> None:
    runs = table(GOOD, diverged=("naive",))
    wide = runs["width"] > NARROW
    for column, value in {"mnli_matched": 0.4, "mnli_mismatched": 0.41, "qqp": 0.7}.items():
        runs.loc[wide & ~runs["diverged"], column] = value + 0.02 * runs["seed"]
    text = markdown(figures.render_table6(runs))
    assert "| 41.0/42.0 | 71.0 | not run |" in text
    assert "| diverged/diverged | diverged | not run |" in text
    assert "Nothing was finetuned" not in text


def test_speedups_at_the_papers_scale() -> None:
    # The paper has 4 and 22; by FLOPs of all matrix products it is more.
    base, large = (spec.speedups(name, "paper") for name in ("base", "large"))
    assert base[0] == pytest.approx(8.2, abs=0.1) and large[0] == pytest.approx(24.9, abs=0.1)
    assert base[1] == pytest.approx(10 * base[0]) and large[1] == pytest.approx(10 * large[0])


def test_tables_of_targets_that_are_declared_no_more_are_named() -> None:
    assert spec.target_of(spec.TARGETS["large"]["small"]["width"]) == ("large", "small")
    with pytest.raises(UserError, match=r"no target has the width 17 now.*snakemake table6"):
        spec.target_of(17)
