"""What the README and the reference results say agrees with the code."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from experiments import products, readme
from experiments.analysis import claims
from experiments.declare import registry
from experiments.runs.sweep import figures_dir

ROOT = Path(__file__).parents[1]
REFERENCE = [
    name for name in registry.products() if products.claims_file(name, products.REFERENCE).exists()
]


def test_generated_part_is_up_to_date() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.updated(text) == text
    assert readme.RESULTS.read_text(encoding="utf-8") == readme.results()


def test_fig1_has_a_reference_at_small_on_wikitext2() -> None:
    runs, scale = products.read_runs("fig1", products.REFERENCE)
    assert scale == "small"
    declared = registry.product("fig1").runs("small", "wikitext2")
    assert sorted(runs["id"]) == sorted(run.id for run in declared)


def rounded(verdict: claims.Verdict) -> dict:
    """Without the last digits, in which processors differ."""
    return {
        key: float(f"{value:.6g}") if isinstance(value, float) else value
        for key, value in asdict(verdict).items()
    }


def test_reference_verdicts_follow_from_reference_runs() -> None:
    for name in REFERENCE:
        runs, scale = products.read_runs(name, products.REFERENCE)
        product = registry.product(name)
        table = products.seen(product, runs, products.REFERENCE)
        verdicts = [claims.judge(c, table, scale) for c in product.claims]
        stored = claims.read(products.claims_file(name, products.REFERENCE))
        assert [rounded(v) for v in verdicts] == [rounded(v) for v in stored]
        assert all(v.verdict != "not judged" or v.note for v in verdicts)


def test_reference_is_of_one_code_and_one_data_set() -> None:
    for name in REFERENCE:
        folder = products.claims_file(name, products.REFERENCE).parent
        provenance = pd.read_parquet(folder / "provenance.parquet")
        assert provenance["code_version"].nunique() == 1
        assert provenance["data_fingerprint"].nunique() == 1
        assert not provenance["git_dirty"].any()


def test_reference_pictures_are_there() -> None:
    for name in REFERENCE:
        for suffix in registry.product(name).suffixes:
            assert (figures_dir(products.REFERENCE) / f"{name}.{suffix}").exists()


def test_generated_part_shows_what_there_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(products, "results_dir", lambda scale: tmp_path / "results" / scale)
    monkeypatch.setattr(products, "figures_dir", lambda scale: tmp_path / "figures" / scale)
    assert "###" not in readme.results() + readme.summary()
    for name in ("table3", "table14", "fig11", "fig2"):
        products.collect(name, "smoke", {"core": ""})
        products.make_reference(name, "smoke")
    summary = readme.summary()
    assert "| table14 | How fast the entries of A v grow |  |  | 4 |" in summary
    assert "###" not in summary
    text = readme.results()
    heads = [line.split(":")[0] for line in text.splitlines() if line.startswith("###")]
    assert heads == ["### fig2", "### fig11", "### table3", "### table14"]
    fig11, table3, table14 = (text.partition(head)[2].partition("###")[0] for head in heads[1:])
    assert "![fig11](../figures/reference/fig11.png)" in fig11
    assert "| claim |" not in fig11 + table3
    assert "Here" not in fig11 + table3
    assert "| **Adam LR** | 1 | 1/fan_in (1) |" in table3
    assert "![" not in table3 + table14
    assert "Here: 2 seeds · scale: smoke." in table14
    assert table14.count("**not judged**") == 4
    assert text.endswith("|\n")
