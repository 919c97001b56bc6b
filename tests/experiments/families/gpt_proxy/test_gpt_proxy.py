"""The GPT-3-like family: the paper's space and sizes, its pictures and claims on synthetic runs."""

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from experiments.analysis.text_table import markdown
from experiments.declare import registry
from experiments.declare.scales import SCALES
from experiments.families.gpt_proxy import evaluations, figures, precision, published, spec
from experiments.families.gpt_proxy.config import VALUES, GptConfig, of_width
from experiments.families.gpt_proxy.task import build

TAKEN = list(spec.SPACE)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def runs(name, scale="small"):
    return registry.product(name).runs(scale, "wikipedia_sample")


def test_the_space_is_the_papers() -> None:
    # Appendix F.4: log10 uniform in (-4, -1) and (-1, 1), log4 uniform in (-1, 1).
    assert spec.SPACE == {
        "log2lr": (1e-4, 1e-1),
        "init_scale": (0.1, 10.0),
        "attn_temperature": (0.25, 4.0),
        "output_temperature": (0.25, 4.0),
        "embed_mult": (0.1, 10.0),
        "relative_mult": (0.1, 10.0),
    }
    points = pd.DataFrame(spec.samples(2000))
    for key, (low, high) in spec.SPACE.items():
        exponents = points[key] if key == "log2lr" else np.log2(points[key])
        places = (exponents - math.log2(low)) / math.log2(high / low)
        assert 0 <= places.min() < 0.01 and 0.99 < places.max() <= 1
        assert np.histogram(places, 4)[0].min() > 400
    assert points.corr().where(lambda c: c < 1).abs().max().max() < 0.1


def test_the_long_horizon_has_the_first_samples_of_the_short_one() -> None:
    assert spec.samples(5) == spec.samples(9)[:5]
    for scale in SCALES:
        short, long = (len(s.runs(scale, "wikipedia_sample")) for s in spec.SEARCHES)
        assert (short, long) == spec.SAMPLES[scale]
        steps = spec.HORIZONS[scale]
        assert scale == "smoke" or steps[1] == 4 * steps[0]
    assert spec.SAMPLES["paper"] == (350, 117)


def test_the_papers_models() -> None:
    target = {**VALUES["paper"], **spec.target("paper"), "log2lr": -8.0, "data": "wikipedia_novels"}
    config = GptConfig.make(**target)
    assert config.dims()["n_head"] == 32 and config.n_layer == 32
    with torch.device("meta"):
        counts = {
            attention: sum(p.numel() for p in build(c).parameters())
            for attention in ("absolute", "relative")
            for c in [config.replace(attention=attention)]
        }
        proxy = sum(p.numel() for p in build(runs("fig14", "paper")[0]).parameters())
    assert counts["absolute"] == pytest.approx(6.7e9, rel=0.01)
    assert proxy == pytest.approx(40e6, rel=0.01)
    assert counts["absolute"] / proxy == pytest.approx(168, rel=0.02)
    tokens = config.steps * config.batch_size * config.seq_len
    assert tokens == pytest.approx(300e9, rel=0.01)
    for steps, billions in zip(spec.HORIZONS["paper"], (4, 16), strict=True):
        assert steps * config.batch_size * config.seq_len == pytest.approx(billions * 1e9, rel=0.01)
    widest = runs("fig8", "paper")[-1]
    assert (widest.width, widest.n_layer, widest.log2lr) == (32768, 4, math.log2(0.006))
    tokens = widest.steps * widest.batch_size * widest.seq_len
    assert tokens == pytest.approx(1.4e9, rel=0.01)


@pytest.mark.parametrize("scale", SCALES)
def test_a_targets_width_tells_its_scale(scale) -> None:
    assert evaluations._scale_of(spec.TARGET[scale]) == scale


@pytest.mark.parametrize("scale", SCALES)
def test_heads_are_of_one_size(scale) -> None:
    for run in runs("fig8", scale):
        assert run.dims()["d_k"] == run.dims(base=True)["d_k"]
    assert of_width("small", 512)["n_head"] == 16


def test_widths_span_a_factor_of_16_at_small() -> None:
    widths = spec.WIDTHS["small"]
    assert len(widths) >= 5 and widths[-1] == 16 * widths[0]


def searched(loss, diverged=lambda run: False):
    """The tidy table of Fig. 14 with given losses."""
    rows = []
    for run in runs("fig14"):
        lost = diverged(run)
        rows.append(
            {
                **run.model_dump(),
                "id": run.id,
                "diverged": lost,
                "final_loss": math.nan if lost else loss(run),
            }
        )
    return pd.DataFrame(rows)


def smooth(run):
    """Rate and scale matter, the longer horizon is a shift."""
    bowl = (run.log2lr + 7) ** 2 / 10 + math.log2(run.init_scale) ** 2 / 5
    return 6 - run.steps / 400 + bowl


def test_horizons_that_agree_and_what_matters_hold() -> None:
    table = searched(smooth, lambda run: run.log2lr > -4)
    found = figures.horizon_correlation(table)
    assert found.value == pytest.approx(1)
    assert found.low == pytest.approx(1)
    assert np.mean(np.array(found.picks) >= 0.8) < 0.01  # a blind guess does not pass
    margin = figures.importance_margin(table)
    assert margin.low > 0
    assert 0.01 < np.mean(np.array(margin.picks) >= 0) < 0.2
    assert "learning rate" in margin.note


def test_horizons_that_disagree_and_another_that_matters_fail() -> None:
    table = searched(lambda run: 6 + math.log2(run.embed_mult))
    assert figures.importance_margin(table).high < 0
    reverse = searched(lambda run: run.log2lr if run.steps == 100 else -run.log2lr)
    assert figures.horizon_correlation(reverse).value == pytest.approx(-1)


def test_the_search_is_drawn_with_its_divergences_and_best_samples() -> None:
    fig = figures.draw_fig14(searched(smooth, lambda run: run.log2lr > -4))
    assert len(fig.axes) == 12
    short = [s for s in spec.samples(144) if s["log2lr"] > -4]
    assert f"{len(short)} of 144 diverged" in fig.axes[0].get_ylabel()
    dots, best = fig.axes[0].lines
    (band,) = fig.axes[0].child_axes
    (lost,) = band.lines
    assert len(best.get_xdata()) == 14
    assert len(lost.get_xdata()) == len(short)
    assert len(dots.get_xdata()) == 144 - len(short)
    assert fig.axes[6].get_xlabel() == "learning rate"
    said = [text.get_text() for text in fig.legends[0].get_texts()]
    assert said == ["other samples", "best tenth\nof a row", "diverged"]


def test_the_winner_of_the_long_horizon_is_carried_to_the_target() -> None:
    table = searched(smooth, lambda run: run.log2lr > -4)
    declared = runs("fig15")
    carried = figures.carry(declared, table, "small")
    assert [run.seed for run in carried] == [0, 1]
    best = min(runs("fig14")[-48:], key=lambda run: math.inf if run.log2lr > -4 else smooth(run))
    for key in TAKEN:
        assert getattr(carried[0], key) == getattr(best, key)
    assert carried[0].width == 256 and carried[0].steps == 800
    assert carried[0].parametrization == "mup" and carried[0].attention == "relative"
    originals = [run for run in declared if run.parametrization == "sp"]
    assert {run.schedule for run in originals} == {"cosine"}
    assert {run.attention for run in originals} == {"absolute", "relative"}


def trained(valid):
    """The table of steps of Fig. 15's targets."""
    rows = []
    settings = {"mup": ("mup", "relative")} | {a: ("sp", a) for a in ("absolute", "relative")}
    for name, (parametrization, attention) in settings.items():
        for seed in range(2):
            for step in range(100):
                rows.append(
                    {
                        "parametrization": parametrization,
                        "attention": attention,
                        "seed": seed,
                        "width": 256,
                        "step": step,
                        "steps": 100,
                        "loss": 5 - step / 100 - 0.01 * seed,
                        "diverged": False,
                        "diverged_step": None,
                        "valid_loss": valid[name] + 0.01 * seed,
                        "final_loss": valid[name],
                        "step_seconds": 0.2,
                    }
                )
    proxy = {**rows[0], "width": 64, "valid_loss": 0.0, "step_seconds": 0.1}
    return pd.DataFrame([*rows, proxy])


def test_targets_are_compared_by_their_validation_loss() -> None:
    table = trained({"mup": 3.0, "absolute": 3.1, "relative": 2.9})
    assert figures.mup_minus_original(table).value == pytest.approx(-0.1)
    assert figures.mup_minus_relative(table).value == pytest.approx(0.1)
    lost = table.assign(diverged=table["parametrization"].eq("mup"))
    assert figures.mup_minus_original(lost).value == math.inf
    ax = figures.draw_fig15(table).axes[0]
    assert [line.get_label() for line in ax.lines] == [s[0] for s in figures.SETTINGS.values()]


def test_wider_is_better_is_drawn_over_tokens() -> None:
    rows = [
        {"width": width, "seed": seed, "step": step, "steps": 100, "diverged_step": None}
        | {"loss": 6 - step / 50 - width / 1000 + 0.001 * seed, "batch_size": 16, "seq_len": 64}
        for width in spec.WIDTHS["small"]
        for seed in range(3)
        for step in range(100)
    ]
    fig = figures.draw_fig8(pd.DataFrame(rows))
    panel = fig.axes[0]
    assert len(panel.lines) == 5
    assert panel.lines[0].get_xdata()[-1] == 100 * 16 * 64


SUMS = {
    (9, "zero-shot", "mup"): 1473.16,
    (9, "zero-shot", "gpt3"): 1323.24,
    (9, "zero-shot", "rerun"): 1331.59,
    (9, "one-shot", "mup"): 1621.8,
    (9, "one-shot", "gpt3"): 1515.48,
    (9, "one-shot", "rerun"): 1498.5,
    (9, "few-shot", "mup"): 1706.4,
    (9, "few-shot", "gpt3"): 1631.0,
    (9, "few-shot", "rerun"): 1617.8,
    (6, "zero-shot", "mup"): 1473.16,
    (6, "one-shot", "mup"): 1621.8,
    (6, "few-shot", "mup"): 1706.4,
    (6, "zero-shot", "gpt3-13b"): 1408.49,
    (6, "one-shot", "gpt3-13b"): 1602.8,
    (6, "few-shot", "gpt3-13b"): 1713.8,
}


def test_the_papers_tables_are_whole_and_agree_with_each_other() -> None:
    ten, eleven = published.table_10(), published.table_11()
    assert len(ten) == len(eleven) == 32
    assert {len(scores) for scores in ten.values()} == {9}
    assert {len(scores) for scores in eleven.values()} == {6}
    assert all(0 <= float(x) <= 100 for scores in ten.values() for x in scores.values())
    # Sums of the columns, so that no number changes by accident.
    sums = {}
    for table in (ten, eleven):
        for scores in table.values():
            for column, score in scores.items():
                sums.setdefault((len(table[next(iter(table))]), *column), []).append(float(score))
    found = {column: round(sum(scores), 2) for column, scores in sums.items()}
    assert found == SUMS
    # Table 7 repeats two tasks, as the paper's Table 7 has them: µP, re-run, GPT-3, 13B.
    selected = {
        ("LAMBADA", "zero-shot"): ("73.5", "70.8", "70.3", "72.5"),
        ("LAMBADA", "one-shot"): ("69.9", "64.8", "65.4", "69.0"),
        ("LAMBADA", "few-shot"): ("74.7", "77.1", "79.1", "81.3"),
        ("HellaSwag", "zero-shot"): ("72.0", "66.7", "67.4", "70.9"),
        ("HellaSwag", "one-shot"): ("71.1", "65.9", "66.5", "70.0"),
        ("HellaSwag", "few-shot"): ("72.4", "66.4", "67.3", "71.3"),
    }
    for (task, shot), paper in selected.items():
        key = next(key for key in ten if key[0] == task)
        own = (
            *(ten[key][shot, m] for m in ("mup", "rerun", "gpt3")),
            eleven[key][shot, "gpt3-13b"],
        )
        assert own == paper


def test_tuning_costs_seven_percent_of_the_papers_target() -> None:
    assert published.tuning_cost() == pytest.approx(0.07, abs=0.005)
    assert spec.tuning_cost("paper") == pytest.approx(0.129, abs=0.001)


def test_tuning_is_timed_up_to_each_samples_divergence() -> None:
    target = {"width": 256, "parametrization": "mup", "attention": "relative", "steps": 800}
    target |= {"diverged": False, "diverged_step": None, "final_loss": 4.0, "step_seconds": 0.4}
    sample = {**target, "width": 64, "steps": 100, "step_seconds": 0.1}
    lost = {"diverged": True, "diverged_step": 49, "final_loss": math.nan, "step_seconds": math.nan}
    runs = pd.DataFrame([target, sample, {**sample, **lost}, {**sample, "steps": 400}])
    # 100 + 50 + 400 steps of 0.1 s, and 800 of 0.4 s.
    assert evaluations.measured_cost(runs) == pytest.approx(55 / 320)


def test_tables_show_ours_beside_the_papers_and_say_what_was_not_run() -> None:
    table = trained({"mup": 3.0, "absolute": 3.1, "relative": 2.9})
    runs = table.groupby(["parametrization", "attention", "seed", "width"]).first().reset_index()
    text = markdown(evaluations.render_table7(runs))
    ours = "3.005 (3.000 to 3.010) | 3.105 (3.100 to 3.110)"
    assert f"| Validation loss | cross-entropy | 1.98 | 2.03 | – | – | {ours} |" in text
    assert "measured until each sample ended or diverged, 0.5 times its time" in text
    assert text.count("not run") == 2 * (3 + 6 + 3 + 3)
    assert "Nothing but the loss was evaluated" in text
    assert "| LAMBADA, one-shot | accuracy | 69.9 | 64.8 | 65.4 | 69.0 | not run" in text
    of_mup = runs["parametrization"] == "mup"
    for column, values in {
        "novels": (900, 1000),
        "sst2:4": (0.61, 0.5),
        "last_word": (0, 0),
    }.items():
        runs[column] = np.where(of_mup, *values)
    text = markdown(evaluations.render_table7(runs))
    assert "| Novels, held out (ours) | perplexity | – | – | – | – | 900.0 | 1000.0 |" in text
    assert "| SST-2, few-shot (ours) | accuracy | – | – | – | – | 61.0 | 50.0 |" in text
    assert "| Last word of a passage (ours) | accuracy | – | – | – | – | 0.0 | 0.0 |" in text
    assert "Nothing but the loss" not in text


def test_the_papers_own_tables_are_printed_whole() -> None:
    for render, columns in ((evaluations.render_table10, 12), (evaluations.render_table11, 9)):
        lines = markdown(render(pd.DataFrame())).splitlines()
        rows = [line for line in lines if line.startswith("|")]
        assert len(rows) == 34
        assert {row.count("|") for row in rows} == {columns + 1}


def precision_runs(lose, diverged=()):
    """Runs of the precision figure; `lose` of 100 entries underflow, by parametrization."""
    rows = []
    for run in runs("precision"):
        counts = {-30: lose[run.parametrization], -10: 100 - lose[run.parametrization]}
        layers = {"embedding": {-10: 50}, "block 1, attention": counts}
        rows.append(
            run.model_dump()
            | {
                "final_loss": 5 + (run.log2lr + 7) ** 2,
                "diverged": (run.parametrization, run.width) in diverged,
                "gradient_exponents": json.dumps({"weights": layers, "activations": layers}),
            }
        )
    return pd.DataFrame(rows)


def test_precision_is_judged_at_the_best_rate_of_the_widest_model() -> None:
    table = precision_runs({"sp": 10, "mup": 40})
    assert {part.log2lr for part in precision.best(table).values()} == {-7}
    found = precision.mup_minus_sp(table)
    assert found.value == pytest.approx(0.2)  # 30 of 150 entries
    assert precision.mup_minus_sp(precision_runs({"sp": 40, "mup": 10})).value < 0
    best = precision.lost_at_best_scale(table)
    assert (best.value, best.note) == (0.0, "log2 of the factor by seed 25, 25")  # 2^-10 to 2^15
    assert precision.lost_otherwise(table).value == 0
    figure = precision.draw_precision(table)
    assert all(ax.has_data() for ax in figure.axes)


def test_precision_without_a_widest_model_is_not_judged() -> None:
    table = precision_runs({"sp": 10, "mup": 40}, diverged={("mup", 256)})
    for measure in (precision.mup_minus_sp, precision.lost_at_best_scale):
        found = measure(table)
        assert math.isnan(found.value) and "diverged at every rate" in found.note
    precision.draw_precision(table)
