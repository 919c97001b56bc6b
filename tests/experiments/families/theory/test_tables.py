"""The paper's Tables 3, 8 and 9, typed in by hand, against what is rendered from the rules."""

import dataclasses
import re

import pandas as pd
import pytest

from experiments.analysis import text_table
from experiments.declare import registry
from experiments.declare.scales import SCALES
from experiments.declare.sweep import Override
from experiments.families.theory import entries, tables
from experiments.families.theory.hyperparameters import HYPERPARAMETERS
from experiments.families.theory.spec import EXHIBIT
from mupkit.rules import TABLE_8

# Source: Tensor Programs V. Columns: input weights & all biases, output weights, hidden weights;
# SP in parentheses where it differs.
PAPER = {
    "3": {
        "init_var": ("1/fan_in", "1/fan_in^2 (1/fan_in)", "1/fan_in"),
        "lr_sgd": ("fan_out (1)", "1/fan_in (1)", "1"),
        "lr_adam": ("1", "1/fan_in (1)", "1/fan_in (1)"),
    },
    "8": {
        "init_var": ("1/fan_in", "1 (1/fan_in)", "1/fan_in"),
        "multiplier": ("1", "1/fan_in (1)", "1"),
        "lr_sgd": ("fan_out (1)", "fan_in (1)", "1"),
        "lr_adam": ("1", "1", "1/fan_in (1)"),
    },
    "9": {
        "init_var": ("1/fan_out (1/fan_in)", "1/fan_in", "1/fan_in"),
        "multiplier": ("fan_out^0.5 (1)", "1/fan_in^0.5 (1)", "1"),
        "lr_sgd": ("1", "1", "1"),
        "lr_adam": ("1/fan_out^0.5 (1)", "1/fan_in^0.5 (1)", "1/fan_in (1)"),
    },
}
COLUMNS = ("input", "output", "hidden")


def width_power(entry: str, role: str) -> float:
    """The power of the width in a paper's entry: in a role's finite dimension it is none."""
    infinite = {"input": ("fan_out",), "output": ("fan_in",), "hidden": ("fan_in", "fan_out")}
    total = 0.0
    above, _, below = entry.partition("/")
    for part, sign in ((above, 1), (below, -1)):
        for name, power in re.findall(r"(fan_in|fan_out)\^?([\d.]*)", part):
            total += sign * float(power or 1) * (name in infinite[role])
    return total


def disagreements(number: str) -> list[str]:
    """Entries of a table whose power of the width, fans growing alike, is not the paper's."""
    found = entries.rule_entries({"table": number}, "").set_index(["quantity", "role"])
    wrong = []
    for quantity, row in PAPER[number].items():
        for role, text in zip(COLUMNS, row, strict=True):
            ours, sp = (text.rstrip(")").split(" (") * 2)[:2]
            e = found.loc[quantity, role]
            if e["fan_in"] + e["fan_out"] != width_power(ours, role):
                wrong.append(f"{quantity} {role}: {ours}")
            if e["sp_fan_in"] + e["sp_fan_out"] != width_power(sp, role):
                wrong.append(f"{quantity} {role}, SP: {sp}")
    return wrong


@pytest.mark.parametrize("number", PAPER)
def test_the_rules_are_the_papers(number) -> None:
    assert disagreements(number) == []


def test_a_wrong_exponent_is_found(monkeypatch) -> None:
    right = TABLE_8
    planted = dataclasses.replace(right["hidden"], lr={**right["hidden"].lr, "adam": (-0.5, 0.0)})
    wrong = dataclasses.replace(right, by_role={**right.by_role, "hidden": planted})
    monkeypatch.setattr(entries, "RULES", {"8": wrong})
    assert disagreements("8") == ["lr_adam hidden: 1/fan_in"]


# As a reader sees it; a and b mark where the paper writes 1/fan_in or 1 for the same.
RENDERED = {
    "3": {
        "Init. var.": ("1ᵃ", "1/fan_in² (1/fan_in)", "1/fan_in"),
        "SGD LR": ("fan_out (1)", "1/fan_in (1)", "fan_out/fan_inᵇ (1)"),
        "Adam LR": ("1", "1/fan_in (1)", "1/fan_in (1)"),
    },
    "8": {
        "Init. var.": ("1ᵃ", "1 (1/fan_in)", "1/fan_in"),
        "Multiplier": ("1", "1/fan_in (1)", "1"),
        "SGD LR": ("fan_out (1)", "fan_in (1)", "fan_out/fan_inᵇ (1)"),
        "Adam LR": ("1", "1", "1/fan_in (1)"),
    },
    "9": {
        "Init. var.": ("1/fan_out (1ᵃ)", "1/fan_in", "1/fan_in"),
        "Multiplier": ("√fan_out (1)", "1/√fan_in (1)", "1"),
        "SGD LR": ("1", "1", "fan_out/fan_inᵇ (1)"),
        "Adam LR": ("1/√fan_out (1)", "1/√fan_in (1)", "1/fan_in (1)"),
    },
}


@pytest.mark.parametrize("number", RENDERED)
def test_rendered_entries(number) -> None:
    made = tables.render_rules(entries.rule_entries({"table": number}, ""))
    rows = {row[0].strip("*"): tuple(row[1:]) for row in made.rows}
    assert made.columns[1:3] == ["Input weights & all biases", "Output weights"]
    assert made.columns[4] == "Scalars †ᶜ"
    papers = {label: row[:3] for label, row in rows.items() if "†" not in label}
    assert papers == RENDERED[number]
    assert {row[3] for label, row in rows.items() if "†" not in label} == {"1"}
    assert [label for label in rows if "†" in label] == [
        "Adam ε †ᵈ",
        "Lion LR †ᵉ",
        "Frobenius-normalized LR †ᶠ",
        "Muon LR †ᵍ",
    ]
    assert rows["Lion LR †ᵉ"] == rows["Adam LR"]
    assert rows["Muon LR †ᵍ"][2] == "√fan_out/√fan_in (1)"


@pytest.mark.parametrize("number", RENDERED)
def test_every_mark_has_its_note(number) -> None:
    made = tables.render_rules(entries.rule_entries({"table": number}, ""))
    shown = " ".join([*made.columns, *(cell for row in made.rows for cell in row)])
    assert {*re.findall("[ᵃᵇᶜᵈᵉᶠᵍ]", shown)} == {note[0] for note in made.notes}
    assert len({note[0] for note in made.notes}) == len(made.notes)
    epsilon = next(note for note in made.notes if note.startswith("ᵈ"))
    assert "Appendix B.3 has 1/fan_in for all parameters" in epsilon


@pytest.mark.parametrize(
    ("exponents", "text"),
    [
        ((0, 0), "1"),
        ((-1, 0), "1/fan_in"),
        ((-2, 0), "1/fan_in²"),
        ((-0.5, 0), "1/√fan_in"),
        ((-1, 1), "fan_out/fan_in"),
        ((0.5, 1), "√fan_in fan_out"),
        ((-1, -0.5), "1/(fan_in √fan_out)"),
        ((-0.25, 0), "1/fan_in^0.25"),
    ],
)
def test_exponents_as_text(exponents, text) -> None:
    assert tables.scaling(*exponents) == text


@pytest.mark.parametrize("scale", SCALES)
def test_hyperparameters_and_who_tests_them(scale) -> None:
    found = entries.hyperparameters({"scale": scale}, "").set_index(["hyperparameter", "product"])
    assert set(found.index.get_level_values(0)) == {h.name for h in HYPERPARAMETERS}
    widths = {"smoke": "16 to 32", "small": "32 to 256", "gpu": "128 to 2048"}.get(
        scale, "128 to 8192"
    )
    assert found.loc[("learning rate", "fig1"), "test"] == f"across width {widths} (8 claims)"
    assert found.loc[("width", "fig1"), "test"] == f"learning rate, over width {widths} (8 claims)"


def test_a_sweep_of_sp_alone_tests_no_transfer(monkeypatch) -> None:
    fig1 = registry.product("fig1")
    sweep = fig1.sweeps[0]
    sp = dataclasses.replace(sweep, grid={**sweep.grid, "parametrization": ("sp",)}, scales={})
    narrow = dataclasses.replace(sweep, scales={"small": Override(grid={"width": (32,)})})
    for other in (sp, narrow):
        product = dataclasses.replace(fig1, sweeps=(other,))
        monkeypatch.setattr(registry, "products", lambda product=product: {"fig1": product})
        found = entries.hyperparameters({"scale": "small"}, "")
        assert found["product"].isna().all()


def test_keys_of_hyperparameters_are_keys_of_runs() -> None:
    known = set()
    for experiment in registry.exhibits().values():
        if hasattr(experiment, "config"):
            known |= experiment.config.model_fields.keys()
    # The last two are for families that do not exist yet.
    assert {key for h in HYPERPARAMETERS for key in h.keys} - known <= {"dropout", "depth"}


def test_tables_1_and_2() -> None:
    found = entries.hyperparameters({"scale": "small"}, "")
    first = {row[0]: row[1:] for row in tables.render_table1(found).rows}
    assert len(first) == 4 + 5
    optimizer = next(row for name, row in first.items() if name.startswith("**optimizer**"))
    assert "by exponents: learning rate, Adam's ε" in optimizer[1]
    assert "Adam's ε: if not negligible, scales as 1/fan_in for all parameters" in optimizer[0]
    assert "fig1: learning rate across width" in optimizer[2]
    assert first["**depth**"][1] == "none: the same at any value"
    second = {row[0]: row[1:] for row in tables.render_table2(found).rows}
    assert second["**learning rate**"][2] == "input 1, hidden 1/fan_in, output 1"
    carried = "table13: carried to a wider model (1 claim)"
    assert second["**momentum**"][2:] == ["constant in width", carried]
    assert second["**Adam's β1**"][2:] == ["constant in width", "not yet"]
    assert second["**Adam's β2**"][3].startswith("fig17: across width 32 to 128; ")
    regularization = next(row for name, row in first.items() if "dropout" in name)
    assert regularization[2] == f"table13: weight decay {carried.partition(': ')[2]}"
    assert "momentum, carried to a wider model" in first["**width**"][2]
    depth = [test for test in first["**depth**"][2].split(", ") if "carried" in test]
    assert depth and all("carried to another depth" in test for test in depth)
    assert second["**multipliers of weights and logits**"][2].endswith("output 1/fan_in")
    assert not any("decay" in name or "width" in name for name in second)


@pytest.mark.parametrize("table", EXHIBIT.tables, ids=lambda table: table.name)
def test_every_table_renders_in_three_languages(table) -> None:
    from experiments.declare.references import load

    frame = load(table.computation.function, table.name)(table.computation.at("smoke"), "")
    made = load(table.render, "a test")(pd.DataFrame(frame))
    for text in (
        text_table.markdown(made),
        text_table.latex(made, table.title, table.caption),
        text_table.html_page(made, table.title, table.caption),
    ):
        assert len(text) > 300
    latex = text_table.latex(made, table.title, table.caption)
    latex.encode("ascii")
