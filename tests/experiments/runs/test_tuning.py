"""The search at base width: what is drawn, and who wins."""

import json
import math

import pytest

from experiments.declare import registry
from experiments.declare.family import Search
from experiments.errors import UserError
from experiments.families.transformer_wikitext2.config import TransformerConfig
from experiments.runs import tuning
from tests.tiny_runs import TINY, tiny_run

BASE = {k: v for k, v in TINY.items() if k != "log2lr"}
SEARCH = Search(
    config=TransformerConfig,
    base=BASE,
    space={"log2lr": (-8.0, -7.0, -6.0), "output_mult": (1.0, 2.0, 4.0, 8.0)},
    trials=40,
    finalists=3,
    rates=(-9, -8, -7, -6, -5),
    seeds=2,
)


def test_every_search_stays_at_base_width() -> None:
    # Widths are what a figure is about: tuning on them would decide its claims.
    for exhibit in registry.exhibits().values():
        if getattr(exhibit, "search", None) is not None:
            assert exhibit.search.base["width"] == exhibit.search.base["base_width"]
            assert not {"width", "base_width", "parametrization"} & exhibit.search.space.keys()


def test_trials_are_drawn_from_the_space_and_ranked() -> None:
    def losses(stage, runs):
        assert stage == "random"
        return [math.inf if r.output_mult == 8 else r.output_mult - r.log2lr for r in runs]

    ranking = tuning.rank_trials(SEARCH, BASE, losses)
    assert [row["loss"] for row in ranking] == sorted(row["loss"] for row in ranking)
    assert {row["output_mult"] for row in ranking} == {1, 2, 4}
    assert ranking == tuning.rank_trials(SEARCH, BASE, losses)


def test_finalist_with_a_spike_loses_to_a_broad_basin() -> None:
    def losses(stage, runs):
        spike = [4.0 if r.log2lr == -7 else 6.0 for r in runs]
        basin = [4.2 + 0.1 * abs(r.log2lr + 6) for r in runs]
        return spike if runs[0].output_mult == 1 else basin

    spike, basin = (
        tuning.sweep_finalist(SEARCH, BASE, {"log2lr": -7.0, "output_mult": m}, losses)
        for m in (1.0, 2.0)
    )
    assert spike["score"] == pytest.approx((4 + 6 + 6) / 3)
    assert basin["score"] == pytest.approx(4.2 + 0.2 / 3)
    assert basin["point"] == {"log2lr": -6, "output_mult": 2.0}


def test_finalists_see_every_rate_with_every_seed() -> None:
    seen = []

    def losses(stage, runs):
        seen.extend((r.log2lr, r.seed) for r in runs)
        return [float(r.seed) for r in runs]

    final = tuning.sweep_finalist(SEARCH, BASE, {"log2lr": -7.0, "output_mult": 1.0}, losses)
    assert sorted(seen) == sorted((r, s) for r in SEARCH.rates for s in range(2))
    assert final["losses"] == [0.5] * 5


def test_search_that_always_diverges_is_an_error(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "rank_trials", lambda *args: [])
    with pytest.raises(UserError, match="every trial diverged"):
        tuning.tune(SEARCH, "smoke", "wikitext2", 1, lambda *args: None)


@pytest.mark.slow
def test_a_whole_search(tiny, tmp_path, monkeypatch) -> None:
    search = Search(
        config=TransformerConfig,
        base={**BASE, "width": 16},
        space={"log2lr": (-9.0, -6.0), "output_mult": (1.0, 4.0)},
        trials=4,
        finalists=2,
        rates=(-8, -6, -4),
        seeds=1,
    )
    monkeypatch.setattr(tuning, "results_dir", lambda scale: tmp_path)
    reports = []
    record = tuning.tune(search, "smoke", "wikitext2", 2, lambda *args: reports.append(args[:3]))
    assert record["best"]["log2lr"] == -6
    assert set(record["best"]) == {"log2lr", "output_mult"}
    assert ("finalist", 3, 3) in reports
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_recorded_searches_are_what_specs_use() -> None:
    from experiments.families.transformer_wikitext2 import config, spec

    record = json.loads(config.TUNED.read_text(encoding="utf-8"))
    run = spec.FIG1.runs("small", "wikitext2")[0]
    for key, value in record["best"].items():
        if key != "log2lr":
            assert getattr(run, key) == value
    assert record["base"]["width"] == record["base"]["base_width"]
    assert tiny_run().output_mult == 1
