"""Tables of what is computed or drawn without training."""

import json

import pandas as pd
import pytest

from experiments.declare import registry
from experiments.errors import UserError
from experiments.products import computing
from experiments.runs import versions


@pytest.mark.parametrize("name", ["table3", "table14"])
def test_the_same_computation_gives_the_same_bytes(name, tmp_path) -> None:
    product = registry.product(name)
    for folder in ("a", "b"):
        computing.compute(product, "smoke", "", tmp_path / folder)
    first, second = (tmp_path / folder / "runs.parquet" for folder in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert not (tmp_path / "a" / "curves.parquet").exists()


def test_provenance_is_one_row_that_says_how(tmp_path) -> None:
    product = registry.product("table14")
    computing.compute(product, "smoke", "", tmp_path)
    (row,) = pd.read_parquet(tmp_path / "provenance.parquet").to_dict("records")
    assert row["id"] == "table14"
    assert row["code_version"] == versions.computing_version(product.computation)
    assert json.loads(row["settings"]) == product.computation.at("smoke")
    assert row["seconds"] > 0
    assert {"git_commit", "git_dirty", "torch_version", "device", "finished_at"} <= row.keys()


def test_what_a_function_says_of_device_and_data_is_kept(tmp_path, monkeypatch) -> None:
    frame = pd.DataFrame({"x": [1]})
    frame.attrs = {"device": "cuda", "data_fingerprint": "abc"}
    monkeypatch.setattr(computing, "load", lambda function, name: lambda settings, data: frame)
    computing.compute(registry.product("table14"), "smoke", "wikitext2", tmp_path)
    (row,) = pd.read_parquet(tmp_path / "provenance.parquet").to_dict("records")
    assert (row["device"], row["data_fingerprint"], row["data"]) == ("cuda", "abc", "wikitext2")
    assert pd.read_parquet(tmp_path / "runs.parquet").attrs == {}


def test_a_schematic_has_an_empty_table(tmp_path) -> None:
    product = registry.product("fig2")
    assert computing.state(product, tmp_path) == "missing"
    computing.compute(product, "small", "", tmp_path)
    assert pd.read_parquet(tmp_path / "runs.parquet").empty
    assert computing.state(product, tmp_path) == "done"


def test_state_and_forget(tmp_path, monkeypatch) -> None:
    product = registry.product("table8")
    assert computing.state(product, tmp_path) == "missing"
    computing.compute(product, "small", "", tmp_path)
    assert computing.state(product, tmp_path) == "done"
    monkeypatch.setattr(computing, "computing_version", lambda computation: "other")
    assert computing.state(product, tmp_path) == "other code"
    table = tmp_path / "provenance.parquet"
    table.write_bytes(table.read_bytes()[:-9])
    assert computing.state(product, tmp_path) == "damaged"
    (tmp_path / "claims.json").mkdir()
    with pytest.raises(UserError, match=r"claims\.json: a folder, not a file; move it away"):
        computing.forget(product, tmp_path)
    (tmp_path / "claims.json").rmdir()
    assert computing.forget(product, tmp_path) == 2
    assert computing.state(product, tmp_path) == "missing"
