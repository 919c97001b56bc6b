"""The search at base width: what is drawn, and who wins."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.declare import registry
from experiments.declare.family import Family, Search
from experiments.declare.tuned import tuned_at
from experiments.errors import UserError
from experiments.families.transformer_wikitext2.config import TransformerConfig
from experiments.runs import tuning
from tests.tiny_runs import TINY, tiny_run

ROOT = Path(__file__).parents[3]
FAMILIES = [family for family in registry.exhibits().values() if isinstance(family, Family)]
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
    searches = [search for family in FAMILIES for search in family.searches.values()]
    assert len(searches) == 5
    for search in searches:
        assert search.base["width"] == search.base["base_width"]
        assert not {"width", "base_width", "parametrization"} & search.space.keys()


def test_every_search_has_the_size_of_its_scale() -> None:
    for family in FAMILIES:
        data = next(iter(family.data_sources))
        for scale, search in family.searches.items():
            runs = family.figures[0].runs(scale, data)
            for key in ("steps", "batch_size", "base_width"):
                assert {search.base[key]} == {getattr(run, key) for run in runs}, (scale, key)


def test_a_scale_without_a_search_is_refused_and_says_what_it_has() -> None:
    resnet = registry.family("resnet_cifar10")
    with pytest.raises(UserError, match=r"only at small, smoke; at paper it has base .* Table 12"):
        tuning.search_of(resnet, "paper")
    with pytest.raises(UserError, match="mlp_cifar10 declares a search at no scale"):
        tuning.search_of(registry.family("mlp_cifar10"), "small")


def test_a_search_is_counted_until_it_is_recorded(tmp_path, monkeypatch) -> None:
    family = registry.family("transformer_wikitext2")
    trials, finals = tuning.declared(family.searches["paper"], "wikitext2")
    assert (len(trials), len(finals)) == (128, 8 * 11 * 2 - 5)  # five finalists have whole rates
    assert {(run.width, run.steps) for run in (*trials, *finals)} == {(128, 2040)}
    monkeypatch.setattr(tuning, "ROOT", tmp_path)
    folder = tmp_path / "experiments/families/transformer_wikitext2"
    folder.mkdir(parents=True)
    assert tuning.lacks(family, "paper") and tuning.lacks(family, "small")
    path = tuning.save(family.name, "paper", {"best": {"log2lr": -9, "init_std": 0.5}})
    assert path == folder / "tuned_paper.json"
    assert not tuning.lacks(family, "paper") and tuning.lacks(family, "small")
    assert not tuning.lacks(family, "smoke")  # where nothing is found
    assert not tuning.lacks(registry.family("mlp_cifar10"), "paper")
    found = tuned_at(folder, TransformerConfig, "paper")
    assert (found.best, found.found_at) == ({"log2lr": -9, "init_std": 0.5}, "paper")
    assert tuned_at(folder, TransformerConfig, "small").found_at is None


SEARCHED = """
import json, sys
from experiments.declare import registry
family = registry.family("transformer_wikitext2")
print(json.dumps({
    "paper": [family.base_from["paper"], *(
        [run.log2lr, run.init_std, run.output_mult]
        for run in registry.product("fig13").runs("paper", "wikitext2")[-1:]
    )],
    "small": [run.id for name in ("fig1", "fig4") for run in
              registry.product(name).runs("small", "wikitext2")],
}))
"""


def test_what_is_found_at_paper_is_used_there_alone(tmp_path) -> None:
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")

    def told() -> dict[str, list]:
        done = subprocess.run(
            [sys.executable, "-c", SEARCHED], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    before = told()
    best = {"log2lr": -11, "output_mult": 0.5, "attn_mult": 1.0, "embed_mult": 1.0, "init_std": 3.0}
    record = tmp_path / "experiments/families/transformer_wikitext2/tuned_paper.json"
    record.write_text(json.dumps({"best": best}))
    after = told()
    assert before["small"] == after["small"]
    assert before["paper"][0].endswith("of the search at the scale small")
    assert after["paper"][0].endswith("of the search at the scale paper")
    assert before["paper"][1][0] == -7
    # The last run of fig13 sweeps the std of initialization, to 32 times the usual one.
    assert after["paper"][1] == [-11, 3.0 * 32, 0.5]


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
    from experiments.families.transformer_wikitext2 import spec

    path = tuning.record_of("transformer_wikitext2", "small")
    record = json.loads(path.read_text(encoding="utf-8"))
    run = spec.FIG1.runs("small", "wikitext2")[0]
    for key, value in record["best"].items():
        if key != "log2lr":
            assert getattr(run, key) == value
    assert record["base"]["width"] == record["base"]["base_width"]
    assert tiny_run().output_mult == 1
