"""The kill matrix: right models pass, bugs are noticed, by each kind of check."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest

from experiments.families.kill_matrix import bugs, figures, matrix
from mupkit.optim import family_of

SETTINGS = {"check": [], "seeds": 4, "wider_steps": 10, "mup_steps": 3}
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


def test_every_bug_has_a_right_model_beside_it():
    """Of its kind and with its family of optimizers; else the check might accuse the right one."""
    cases = list(bugs.cases())
    assert len({case.name for case in cases}) == len(cases)
    assert sum(not case.right for case in cases) >= 20

    def setting(case):
        width = case.kind.widths[0]
        return case.kind, family_of(type(case.make_optimizer(case.build(width), case.lr)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = {setting(case) for case in cases if case.right}
        assert {setting(case) for case in cases if not case.right} <= right


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
