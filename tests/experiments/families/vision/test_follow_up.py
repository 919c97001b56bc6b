"""What a product trains after its sweeps, because of what they gave."""

import pandas as pd
import pytest

from experiments.declare import registry
from experiments.declare.product import Table
from experiments.products import collect
from experiments.runs import places, training
from experiments.runs.store import Store


def test_collect_trains_the_winner_at_the_wide_model_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(places, "ROOT", tmp_path)
    product, folder = registry.product("table12"), tmp_path / "results" / "smoke"
    collect.collect(product, "smoke", "digits", jobs=2)
    runs = pd.read_parquet(folder / "table12" / "runs.parquet")
    wide = runs[runs["width"] == 4]
    assert sorted(zip(wide["parametrization"], wide["seed"], strict=True)) == [
        ("mup", 0),
        ("mup", 1),
        ("sp", 0),
        ("sp", 1),
    ]
    narrow = runs[runs["width"] == 2]
    assert len(narrow) == len(registry.product("table12").runs("smoke", "digits")) == 4
    best = narrow.loc[narrow["valid_accuracy"].idxmax()]
    assert set(wide["log2lr"]) == {best["log2lr"]}
    assert set(wide["output_mult"]) == {best["output_mult"]}
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()}
    assert len(before) == 8
    collect.collect(product, "smoke", "digits")
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()} == before


def test_trained_together_comes_back_in_order_and_once(tmp_path) -> None:
    runs = registry.product("table12").runs("smoke", "digits")[:2]
    found = training.train_together([runs[1], runs[0], runs[1]], Store(tmp_path), jobs=1)
    assert [record.id for record in found] == [runs[1].id, runs[0].id]


def test_what_follows_needs_sweeps() -> None:
    with pytest.raises(ValueError, match="follows up needs sweeps"):
        Table(name="a", title="", caption="", source="", follow_up="m:f", render="m:f")
