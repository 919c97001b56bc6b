"""What the README and the reference results say agrees with the code."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.analysis import verdicts
from experiments.declare import registry
from experiments.declare.references import load, name_of
from experiments.products import collect, draw, readme, reference, tidy_tables
from experiments.runs import places

ROOT = Path(__file__).parents[1]
REFERENCE = [
    product
    for product in registry.products().values()
    if tidy_tables.claims_file(product, tidy_tables.REFERENCE).exists()
]


@pytest.mark.parametrize("page", readme.GENERATED, ids=lambda page: page.name)
def test_generated_parts_are_up_to_date(page) -> None:
    text = page.read_text(encoding="utf-8")
    assert readme.updated(page) == text
    for name in readme.GENERATED[page]:
        assert f"<!-- {name}:begin -->" in text and f"<!-- {name}:end -->" in text


def test_the_page_of_results_is_up_to_date() -> None:
    assert readme.RESULTS.read_text(encoding="utf-8") == readme.results()


def test_the_first_lines_of_code_run() -> None:
    class Model(torch.nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.input, self.readout = torch.nn.Linear(8, width), torch.nn.Linear(width, 4)

        def forward(self, x):
            return self.readout(torch.relu(self.input(x)))

    text = readme.README.read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    names = {"Model": Model}
    exec(code, names)
    assert len(code.splitlines()) == 4
    assert {group["lr"] for group in names["optimizer"].param_groups} == {1e-3, 1e-3 / 16}


def test_measures_can_be_named_in_a_claim() -> None:
    listed = [line.split("`")[1] for line in readme.measures().splitlines()[2:]]
    assert len(listed) > 5 and all(callable(load(reference, "a test")) for reference in listed)
    used = {name_of(c.measure) for p in registry.products().values() for c in p.claims}
    assert {m for m in used if m.startswith("experiments.analysis")} <= {*listed}


def test_fig1_has_a_reference_at_small_on_wikitext2() -> None:
    runs, scale = tidy_tables.read_runs(registry.product("fig1"), tidy_tables.REFERENCE)
    assert scale == "small"
    declared = registry.product("fig1").runs("small", "wikitext2")
    assert sorted(runs["id"]) == sorted(run.id for run in declared)


def rounded(verdict: verdicts.Verdict) -> dict:
    """Without the last digits, in which processors differ."""
    return {
        key: float(f"{value:.6g}") if isinstance(value, float) else value
        for key, value in asdict(verdict).items()
    }


def test_reference_verdicts_follow_from_reference_runs() -> None:
    for product in REFERENCE:
        runs, scale = tidy_tables.read_runs(product, tidy_tables.REFERENCE)
        table = draw.seen(product, runs, tidy_tables.REFERENCE)
        found = draw.judge(product, runs, table, scale)
        stored = verdicts.read(tidy_tables.claims_file(product, tidy_tables.REFERENCE))
        assert [rounded(v) for v in found] == [rounded(v) for v in stored]
        assert all(v.verdict != "not judged" or v.note for v in found)


def test_reference_is_of_one_code_and_one_data_set() -> None:
    for product in REFERENCE:
        folder = tidy_tables.claims_file(product, tidy_tables.REFERENCE).parent
        provenance = pd.read_parquet(folder / "provenance.parquet")
        assert provenance["code_version"].nunique() == 1
        runs = pd.read_parquet(folder / "runs.parquet")
        if "finetune_examples" in runs:  # what is finetuned reads the data of its tasks, too
            provenance = provenance.merge(runs[["id", "finetune_examples"]], on="id")
        else:
            provenance["finetune_examples"] = 0
        kinds = provenance.groupby("finetune_examples")
        assert (kinds["data_fingerprint"].nunique() == 1).all()
        assert not provenance["git_dirty"].any()


def test_reference_pictures_are_there() -> None:
    for product in REFERENCE:
        for suffix in product.suffixes:
            assert (places.figures_dir(tidy_tables.REFERENCE) / f"{product.name}.{suffix}").exists()


def test_products_are_in_the_order_of_the_paper_and_ours_are_last() -> None:
    names = [p.name for p in sorted(registry.products().values(), key=readme.place)]
    some = [
        "fig1",
        "fig1_five_seeds",
        "fig2",
        "fig9",
        "fig9_long",
        "fig10",
        "fig21",
        "table1",
        "table14",
        "post_fig1",
    ]
    assert [name for name in names if name in some] == some
    ours = [name for name, p in registry.products().items() if not p.work]
    assert "fig1_bfloat16" in ours and names.index("post_fig1") < min(map(names.index, ours))
    assert names.index("kill_matrix") > names.index("post_interpolation")


def test_generated_part_shows_what_there_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(places, "ROOT", tmp_path)
    assert "###" not in readme.results() + readme.summary()
    for name in ("table3", "table14", "fig11", "fig2"):
        collect.collect(registry.product(name), "smoke", "")
        reference.make_reference(registry.product(name), "smoke")
    summary = readme.summary()
    assert "| table14 | How fast the entries of A v grow |  |  |  | 4 |" in summary
    assert "###" not in summary
    text = readme.results()
    heads = [line.split(":")[0] for line in text.splitlines() if line.startswith("###")]
    assert heads == ["### fig2", "### fig11", "### table3", "### table14"]
    contents = [line.strip() for line in text.splitlines() if line.lstrip().startswith("- ")]
    assert "- [Figure 2: What µTransfer does](#fig2)" in contents
    assert "- Figures of the paper" in contents and "- Ours" not in contents
    assert all(f'<a id="{name}"></a>' in text for name in ("fig2", "fig11", "table3", "table14"))
    fig11, table3, table14 = (text.partition(head)[2].partition("###")[0] for head in heads[1:])
    assert "![Figure 11: The dimensions of a Transformer.](../figures/reference/fig11.png)" in fig11
    assert "| claim |" not in fig11 + table3
    assert "Here" not in fig11 + table3
    assert "| **Adam LR** | 1 | 1/fan_in (1) |" in table3
    assert "![" not in table3 + table14
    assert "Here: 2 seeds · scale: smoke." in table14
    assert table14.count("**not judged**") == 4
    assert text.endswith(".\n")
