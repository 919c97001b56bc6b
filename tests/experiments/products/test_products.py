"""From stored runs to tables, pictures and verdicts, in a folder of the test's own."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest

from experiments.analysis.text_table import TextTable
from experiments.cli import look
from experiments.declare import registry
from experiments.declare.claims import Claim, Measured
from experiments.declare.product import Table
from experiments.declare.sweep import Sweep
from experiments.errors import UserError
from experiments.families.transformer_wikitext2.config import TransformerConfig
from experiments.products import collect, draw, partial, reference, tidy_tables
from experiments.runs import places, training
from experiments.runs.store import Store
from tests.tiny_runs import TINY

TABLE = Table(
    name="table0",
    title="A table",
    caption="Its caption.",
    source="Table 0",
    exhibit="transformer_wikitext2",
    sweeps=(
        Sweep(
            name="s",
            config=TransformerConfig,
            base={k: v for k, v in TINY.items() if k not in ("data", "log2lr")},
            grid={"log2lr": (-8, -6)},
            seeds=1,
        ),
    ),
    render=f"{__name__}:render",
    claims=(
        Claim(
            id="two",
            statement="There are two runs",
            source="Table 0",
            measure=f"{__name__}:count",
            relation=">=",
            threshold=2,
            unit="runs",
            decided_by="value",
        ),
    ),
)


def render(runs: pd.DataFrame) -> TextTable:
    return TextTable(["log2lr"], [[f"{x:g}"] for x in runs["log2lr"]], ["A note."])


def count(runs: pd.DataFrame) -> Measured:
    return Measured(float(len(runs)))


@pytest.fixture
def project(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "ROOT", tmp_path)
    return tmp_path


def test_a_table_is_collected_rendered_and_judged(project) -> None:
    collect.collect(TABLE, "small", "wikitext2")
    (verdict,) = draw.draw(TABLE, "small")
    assert (verdict.verdict, verdict.value) == ("holds", 2.0)
    text = (project / "figures/small/table0.md").read_text(encoding="utf-8")
    caption = "Its caption. Source: Tensor Programs V, Table 0."
    assert text.startswith(f"# A table\n\n{caption}\n\n| log2lr |")
    assert "| -8 |\n| -6 |\n\nA note.\n\nHere: WikiText-2" in text
    for kind in ("tex", "html"):
        assert caption in (project / f"figures/small/table0.{kind}").read_text(encoding="utf-8")
    assert len(pd.read_csv(project / "figures/small/table0.csv")) == 2
    assert json.loads((project / "results/small/table0/claims.json").read_text())[0]["id"] == "two"


def test_what_is_done_so_far_is_drawn_apart_and_judged_by_nobody(project) -> None:
    with pytest.raises(
        UserError, match="table0: 0 of 2 runs are done at the scale small, too few to draw"
    ):
        partial.draw_partial(TABLE, "small", "wikitext2")
    store = Store(places.results_dir("small"))
    training.train_runs(TABLE.runs("small", "wikitext2")[:1], store)
    path, so_far = partial.draw_partial(TABLE, "small", "wikitext2")
    assert (path, so_far) == (project / "figures/small/partial/table0", "1 of 2 runs")
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "Here: 1 of 2 runs · WikiText-2" in text and "| -8 |" in text and "| -6 |" not in text
    assert not (project / "results/small/table0").exists()
    assert [*(project / "figures/small").iterdir()] == [path.parent]
    broken = dataclasses.replace(TABLE, render=f"{__name__}:all_of_them")
    with pytest.raises(UserError, match=r"drawn from 1 of 2 runs \(IndexError.*when more are done"):
        partial.draw_partial(broken, "small", "wikitext2")
    with pytest.raises(UserError, match="fig2 has no runs"):
        partial.draw_partial(registry.product("fig2"), "small", "")


def test_the_full_grid_of_what_is_done_is_drawn() -> None:
    (sweep,) = registry.product("fig1").sweeps
    runs = {run.id: run for run in sweep.runs("smoke", "wikitext2")}
    wide = {id for id, run in runs.items() if run.width == 32}
    one = next(id for id in runs if id not in wide)
    assert {*partial._full_grid(sweep, "smoke", "wikitext2", wide | {one})} == wide
    assert {*partial._full_grid(sweep, "smoke", "wikitext2", runs)} == {*runs}
    sp = {id for id, run in runs.items() if run.parametrization == "sp"}
    assert partial._full_grid(sweep, "smoke", "wikitext2", sp) == []


def all_of_them(runs: pd.DataFrame) -> TextTable:
    return TextTable(["log2lr"], [[f"{runs['log2lr'].iloc[1]:g}"]])


def test_the_foot_names_the_data_as_the_exhibit_does() -> None:
    def foot(*data: str) -> str:
        return draw.setting(TABLE, pd.DataFrame({"data": data, "seed": 0}), "small")

    assert foot("wikitext2", "wikitext2") == "WikiText-2 · 1 seed · scale: small"
    assert foot("") == "1 seed · scale: small"  # a family without data
    fix = r"table0: .*'books'.*data_sources in experiments/families/transformer_wikitext2/spec\.py"
    with pytest.raises(UserError, match=fix):
        foot("wikitext2", "books")


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("fig1", "words"), ("fig12", "byte pairs"), ("fig8", "byte pairs"), ("table6", "word pieces")],
)
def test_the_foot_says_what_a_vocabulary_consists_of(name, tokens) -> None:
    foot = draw.setting(registry.product(name), pd.DataFrame({"vocab_size": [2000]}), "small")
    assert foot == f"2,000 {tokens} · scale: small"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fig1", "base hyperparameters of the search at the scale small"),
        ("fig5", "base hyperparameters of the search at the scale small"),
        ("fig16", "base hyperparameters of the paper's Table 12"),
    ],
)
def test_a_foot_at_paper_says_where_base_hyperparameters_are_from(name, words) -> None:
    runs = pd.DataFrame({"steps": [10]})
    foot = draw.setting(registry.product(name), runs, "paper")
    assert foot == f"10 steps · {words} · scale: paper"
    assert draw.setting(registry.product(name), runs, "small") == "10 steps · scale: small"


def test_reference_is_a_copy_that_says_its_scale(project) -> None:
    collect.collect(TABLE, "smoke", "wikitext2")
    reference.make_reference(TABLE, "smoke")
    runs, scale = tidy_tables.read_runs(TABLE, tidy_tables.REFERENCE)
    assert scale == "smoke"
    assert len(runs) == 2
    # A smoke run judges nothing, also as a reference.
    assert draw.draw(TABLE, tidy_tables.REFERENCE)[0].verdict == "not judged"


def test_runs_of_an_older_declaration_judge_nothing(project) -> None:
    collect.collect(TABLE, "small", "wikitext2")
    assert draw.draw(TABLE, "small")[0].verdict == "holds"
    (sweep,) = TABLE.sweeps
    for changes in ({"seeds": (2,)}, {"grid": {"log2lr": (-8,)}}, {"seeds": 2}):
        newer = dataclasses.replace(TABLE, sweeps=(dataclasses.replace(sweep, **changes),))
        (verdict,) = draw.draw(newer, "small")
        assert verdict.verdict == "not judged"
        assert "not those that are declared now, which `snakemake table0`" in verdict.note


def test_missing_and_damaged_tables_are_named(project) -> None:
    with pytest.raises(UserError, match=r"no runs of table0 at .*runs\.parquet; run `snakemake"):
        draw.draw(TABLE, "small")
    collect.collect(TABLE, "small", "wikitext2")
    path = project / "results/small/table0/runs.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"damaged table: .*runs\.parquet: .*; delete it, run"):
        draw.draw(TABLE, "small")


def _damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "link":
        path.symlink_to("/dev/zero")
    elif how == "other table":
        pd.DataFrame({"x": [1]}).to_parquet(path)
    else:
        half = len(content) // 2
        flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        forms = {"empty": b"", "half": content[:half], "flip": flipped, "null": b"null"}
        path.write_bytes(forms[how])


@pytest.fixture
def over_steps(project, monkeypatch):
    steps = dataclasses.replace(TABLE, over_steps=True)
    monkeypatch.setattr(registry, "product", lambda name: steps)
    collect.collect(steps, "small", "wikitext2")
    return steps


@pytest.mark.parametrize("file", ["runs.parquet", "curves.parquet", "scale.json"])
def test_a_damaged_table_is_named_and_made_again(over_steps, project, capsys, file) -> None:
    path = project / "results/small/table0" / file
    whole = path.read_bytes()
    for how in ("empty", "half", "flip", "null", "other table", "pipe", "link"):
        if file == "scale.json" and how == "flip":
            continue  # of a digest, which shows in the tables
        _damage(path, how)
        with pytest.raises(UserError, match=rf"damaged table: .*{file}: "):
            look.draw("table0", "small")
        capsys.readouterr()
        look.draw("table0", "small", mend=True, data="wikitext2")
        assert f"{path}: " in capsys.readouterr().err
        if file != "scale.json":  # it has a digest of times
            assert path.read_bytes() == whole


def test_what_draw_reads_is_said_once() -> None:
    with pytest.raises(UserError, match="give one of --reference, --partial and --mend"):
        look.draw("fig1", reference=True, mend=True)
    with pytest.raises(UserError, match="--data says which runs --partial or --mend reads"):
        look.draw("fig1", data="wikitext2")


def _remade(store: Store, log2lr: int, **provenance) -> None:
    """A stored run with another origin."""
    (run,) = [r for r in TABLE.runs("small", "wikitext2") if r.log2lr == log2lr]
    found = store.read(run.id)
    changed = dataclasses.replace(found.provenance, **provenance)
    store.write(dataclasses.replace(found, provenance=changed))


def test_runs_of_changed_data_make_no_product(project) -> None:
    collect.collect(TABLE, "small", "wikitext2")
    _remade(Store(places.results_dir("small")), -8, data_fingerprint="other")
    with pytest.raises(UserError, match=r"table0: its runs .* the same data .*forget table0"):
        collect.collect(TABLE, "small", "wikitext2")


def test_runs_of_unlike_origin_are_told_on_the_face(project) -> None:
    collect.collect(TABLE, "small", "wikitext2")
    draw.draw(TABLE, "small")
    page = project / "figures/small/table0.md"
    assert "runs of" not in page.read_text(encoding="utf-8")
    other = {"matmul": "other", "code_version": "other", "stacked": 2, "computed": "[]"}
    _remade(Store(places.results_dir("small")), -8, **other)
    collect.collect(TABLE, "small", "wikitext2")
    draw.draw(TABLE, "small")
    text = page.read_text(encoding="utf-8")
    assert (
        "runs of 2 versions of the code · runs of 2 kinds of matrix products · runs of 2 " in text
    )
    assert "runs of 2 ways of computing a step · runs of which 1 of " in text
    assert re.search(r"runs of which 1 of \d+ were trained together · scale", text)


def test_a_product_over_steps_gets_a_row_for_each(project, monkeypatch) -> None:
    steps = dataclasses.replace(TABLE, over_steps=True)
    collect.collect(steps, "small", "wikitext2")
    (verdict,) = draw.draw(steps, "small")
    assert verdict.value == 2 * TINY["steps"]
    runs, _ = tidy_tables.read_runs(TABLE, "small")
    table = draw.seen(steps, runs, "small")
    last = table[table["step"] == TINY["steps"] - 1].set_index("id")["loss"]
    assert last.to_dict() == runs.set_index("id")["final_loss"].to_dict()
    assert len(pd.read_csv(project / "figures/small/table0.csv")) == 2  # of runs
    (project / "results/small/table0/curves.parquet").unlink()
    with pytest.raises(UserError, match=r"no curves of table0 at .*curves\.parquet"):
        draw.draw(steps, "small")


def test_runs_of_other_code_are_told(project, monkeypatch, capsys) -> None:
    collect.collect(TABLE, "small", "wikitext2")
    assert "other code" not in capsys.readouterr().err
    monkeypatch.setattr(collect, "parted", lambda records: [records[0].id])
    collect.collect(TABLE, "small", "wikitext2")
    assert "1 of 2 runs were made by other code" in capsys.readouterr().err
