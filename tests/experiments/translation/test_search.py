"""Searches of translation models: what follows them, what is judged, what is printed."""

import json
import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from experiments.analysis import text_table
from experiments.declare import registry
from experiments.declare.references import load
from experiments.declare.scales import SCALES
from experiments.families.transformer_iwslt14.spec import FIG6, TABLE4, TRANSLATIONS, TUNING
from experiments.families.transformer_wmt14.spec import TABLE5
from experiments.families.transformer_wmt14.spec import TUNING as WMT
from experiments.translation import search
from experiments.translation.spec_search import KEYS

CLAIMS = {c.id: c for product in (TABLE4, FIG6) for c in product.claims}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def goodness(run) -> float:
    """How good a point is: best at the centre of the grid; in SP the proxy's best is another."""
    naive = run.parametrization == "sp" and run.width < 128
    centre = {"log2lr": -8.0, "output_mult": 64.0 if naive else 1.0, "attn_mult": 1.0}
    distance = abs(run.log2lr - centre["log2lr"]) / 3
    for key in ("output_mult", "attn_mult"):
        distance += abs(math.log2(getattr(run, key) / centre[key])) / 4
    return math.exp(-distance)


def row(run, diverged: bool = False) -> dict:
    value = goodness(run)
    measured = run.beam > 0 and not diverged
    return {
        "id": run.id,
        "family": run.family,
        **run.model_dump(),
        "final_loss": math.nan if diverged else 5 - value,
        "diverged": diverged,
        "valid_loss": math.nan if diverged else 5 - value,
        "valid_bleu": 30 * value + 0.1 * run.seed if measured else math.nan,
        "bleu_signature": "nrefs:1|tok:13a" if measured else None,
        "examples": json.dumps([["Hallo.", "Hello.", f"{run.log2lr:g}"]]) if measured else None,
    }


def table(product=TABLE4, scale="small", diverged=lambda run: False) -> pd.DataFrame:
    """The tidy table as `collect` makes it: searches, then what follows."""
    source = [*registry.exhibit(f"transformer_{product.sweeps[0].name.split('_')[0]}").data_sources]
    declared = product.runs(scale, source[-1])
    runs = pd.DataFrame([row(run, diverged(run)) for run in declared])
    chosen = load(product.follow_up, "a test")(declared, runs, scale)
    known = {*runs["id"]}
    more = [row(run, diverged(run)) for run in chosen if run.id not in known]
    return pd.concat([runs, pd.DataFrame(more)], ignore_index=True)


def measured(claim: str, runs: pd.DataFrame):
    return load(CLAIMS[claim].measure, "a test")(runs)


def test_both_sizes_search_the_same_points_first() -> None:
    at_target, at_proxy = (TUNING.points("small", method) for method in ("tuned", "mup"))
    assert at_proxy[: len(at_target)] == at_target
    assert TUNING.points("small", "naive") == at_proxy
    assert len({*at_proxy}) == len(at_proxy)


def test_a_targets_width_tells_its_scale() -> None:
    for tuning in (TUNING, WMT):
        for scale in SCALES:
            assert tuning.scale_of(tuning.target[scale]["width"]) == scale


def test_the_space_is_that_of_the_appendix() -> None:
    for tuning, centre in ((TUNING, 5e-4), (WMT, 6e-4)):  # F.1 and F.2
        space = tuning.space("paper")
        rates = [round(2.0**x / centre, 6) for x in space["log2lr"]]
        assert rates == [round(2.0**z, 6) for z in (-1.5, -1.25, -1, -0.75, -0.5, -0.25, 0)] + [
            round(2.0**z, 6) for z in (0.25, 0.5, 0.75, 1, 1.25)
        ]
        assert space["output_mult"] == tuple(2.0**z for z in range(-8, 8))
        assert space["attn_mult"] == tuple(2.0**z for z in range(-3, 9))
        assert tuning.default("paper") == {
            "log2lr": pytest.approx(math.log2(centre)),
            "output_mult": 1.0,
            "attn_mult": 1.0,
        }
    # Table 4: 25 trials of 64 samples at the proxy or 5 at the target; Table 5: 3 of 64 or 3.
    assert (TUNING.at_proxy["paper"], TUNING.at_target["paper"]) == (25 * 64, 25 * 5)
    assert (WMT.at_proxy["paper"], WMT.at_target["paper"]) == (3 * 64, 3 * 3)


@pytest.mark.parametrize(("tuning", "proxies"), [(TUNING, 45), (WMT, 28)])
def test_samples_at_the_compute_of_1x(tuning, proxies) -> None:
    """The paper has 64 for both; readouts, which we count, make a proxy dearer."""
    target = tuning.config.make(data="", log2lr=-11, **tuning.target["paper"])
    proxy = target.replace(parametrization="mup", **tuning.proxy["paper"])
    assert int((tuning.one - 1) * target.flops() / proxy.flops()) == proxies


def test_targets_of_the_points_that_may_win_follow() -> None:
    runs = table()
    for method in ("mup", "naive"):
        pool = search.pool(TUNING, runs, method)
        best = pool.losses.argsort()[:5]
        assert not pd.isna(pool.outcomes[best]).any()
        assert pd.isna(pool.outcomes).any()  # not all are trained
    assert not pd.isna(search.pool(TUNING, runs, "tuned").outcomes).any()
    once = runs[runs["width"].eq(128)]
    assert not once.duplicated([*KEYS, "seed"]).any()


def test_what_the_paper_says_can_hold_and_fail() -> None:
    runs = table()
    assert measured("mup-is-not-worse-at-any-budget", runs).value > 0
    assert measured("naive-transfer-is-worse", runs).value < 0
    assert measured("mup-is-more-reliable", runs).value < 0
    assert "µTransfer" in measured("gap-shrinks-with-samples", runs).note
    worse = runs.copy()
    proxies = worse["parametrization"].eq("mup")
    worse.loc[proxies, "valid_loss"] = -worse.loc[proxies, "valid_loss"]  # the worst one wins
    with pytest.raises(ValueError, match="target was not trained"):
        measured("mup-is-not-worse-at-any-budget", worse)


def test_naive_transfer_that_diverges_is_worse() -> None:
    def naive_winner(run) -> bool:  # SP targets at the naive winners' large output multiplier
        return run.width == 128 and run.output_mult > 8

    runs = table(diverged=naive_winner)
    found = measured("naive-transfer-is-worse", runs)
    assert found.value == -math.inf
    text = text_table.markdown(load(TABLE4.render, "a test")(runs))
    line = next(line for line in text.splitlines() if line.startswith("| **naive transfer"))
    assert "diverged" in line


def test_a_table_in_which_all_runs_diverged_has_no_winner() -> None:
    runs = table(diverged=lambda run: True).drop(columns=["valid_loss", "valid_bleu", "examples"])
    text = text_table.markdown(load(TABLE4.render, "a test")(runs))
    assert text.count("| diverged |") >= 3
    assert load(TRANSLATIONS.render, "a test")(runs).rows == []
    declared = TABLE4.runs("small", "multi30k")
    assert load(TABLE4.follow_up, "a test")(declared, runs, "small") == []


def test_tables_and_figure_are_made() -> None:
    runs = table()
    text = text_table.markdown(load(TABLE4.render, "a test")(runs))
    assert "35.27" in text and "fairseq default, paper" in text
    assert "nrefs:1|tok:13a" in text and "with replacement" in text
    assert len(load(FIG6.draw, "a test")(runs).axes) == 2
    examples = text_table.markdown(load(TRANSLATIONS.render, "a test")(runs))
    assert "| Hallo. | Hello. |" in examples
    wmt = text_table.markdown(load(TABLE5.render, "a test")(table(TABLE5)))
    assert "| Setup | Total compute | Samples | worst | median | best |" in wmt
