"""The kill matrix: right models pass, bugs are noticed, by each kind of check."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments.families.kill_matrix import bugs, figures, matrix

SETTINGS = {"seeds": 4, "steps": 3, "wider_steps": 10}
# A bug for each kind of check, of those that are quick.
EXPECTED = {
    "right: CNN, Table 8, Adam": set(),
    "right: MLP, Table 8, SGD": set(),
    "forgotten convolutional head": {"update", "mup"},
    "bias rate unscaled": {"explain", "update"},
    "input rate unscaled": {"change", "update"},
}


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    return matrix.measure({**SETTINGS, "names": list(EXPECTED)}, None)


@pytest.mark.parametrize("case", EXPECTED)
def test_who_notices_what(found, case):
    part = found[found["case"] == case]
    noticed = set(part.loc[part["caught"], "check"]) - {"wider"}
    assert noticed == EXPECTED[case]
    assert set(part["check"]) == set(figures.CHECKS)


def test_there_are_fourteen_bugs_and_right_models():
    cases = list(bugs.cases())
    assert len({case.name for case in cases}) == len(cases)
    assert sum(not case.right for case in cases) >= 14
    assert {case.kind for case in cases if case.right} == {
        bugs.TRANSFORMERS,
        bugs.EVEN,
        bugs.UNEVEN,
        bugs.CNNS,
    }


def test_the_claims_count_what_is_missed_and_accused(found):
    assert figures.unnoticed(found).value == 0
    assert figures.accused(found).value == 0
    missed = found.assign(caught=found["caught"] & (found["check"] == "mup"))
    assert figures.unnoticed(missed).value == 3
    assert "bias rate unscaled" in figures.unnoticed(missed).note
    wrong = found.assign(caught=found["caught"] | (found["check"] == "explain"))
    assert figures.accused(wrong).value == 2


def test_the_table_names_what_was_seen(found):
    grid = figures.render_kill_matrix(found)
    cells = dict(zip(grid.columns, next(r for r in grid.rows if "head" in r[0]), strict=True))
    assert cells["updates"].startswith("✗ head.weight +")
    assert cells["explain"] == "·"
