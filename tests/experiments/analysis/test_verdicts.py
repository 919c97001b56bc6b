"""Decisions on claims, and their way through JSON and Markdown."""

import json
import math
import sys
from types import SimpleNamespace

import pytest

from experiments.analysis import verdicts
from experiments.analysis.verdicts import Verdict
from experiments.declare.claims import Claim, Measured
from experiments.errors import UserError

INF, NAN = math.inf, math.nan


def claim(relation="<=", decided_by="value", threshold=0.5, paper="") -> Claim:
    return Claim(
        id="it-transfers",
        statement="The rate transfers",
        source="Section 4",
        measure="measures_for_test_claims:measure",
        relation=relation,
        threshold=threshold,
        unit="nats",
        decided_by=decided_by,
        paper=paper,
    )


def verdict(**changes) -> Verdict:
    values = {
        "id": "it-transfers",
        "statement": "The rate transfers",
        "source": "Section 4",
        "verdict": "holds",
        "value": 0.25,
        "low": 0.125,
        "high": 0.375,
        "relation": "<=",
        "threshold": 0.5,
        "unit": "nats",
        "note": "",
    }
    return Verdict(**{**values, **changes})


@pytest.fixture
def judged(monkeypatch):
    """Judges a claim whose measurement is given."""

    def judge(measured, scale, **options) -> Verdict:
        module = SimpleNamespace(measure=lambda runs: measured)
        monkeypatch.setitem(sys.modules, "measures_for_test_claims", module)
        return verdicts.judge(claim(**options), "runs", scale)

    return judge


@pytest.mark.parametrize(
    ("relation", "decided_by", "value", "low", "high", "decision"),
    [
        ("<=", "value", 0.4, 0.3, 0.6, "holds"),
        ("<=", "value", 0.5, None, None, "holds"),
        ("<=", "value", 0.6, 0.4, 0.8, "fails"),
        ("<=", "value", -INF, None, None, "holds"),
        ("<=", "value", INF, None, None, "fails"),
        ("<=", "value", NAN, 0.1, 0.2, "not judged"),
        (">=", "value", 0.6, 0.4, 0.8, "holds"),
        (">=", "value", 0.5, None, None, "holds"),
        (">=", "value", 0.4, 0.3, 0.6, "fails"),
        (">=", "value", INF, None, None, "holds"),
        (">=", "value", NAN, 0.6, 0.7, "not judged"),
        ("<=", "interval", 0.3, 0.2, 0.4, "holds"),
        ("<=", "interval", 0.4, 0.3, 0.5, "holds"),
        ("<=", "interval", 0.4, 0.3, 0.6, "undecided"),
        ("<=", "interval", 0.6, 0.4, 0.7, "undecided"),
        ("<=", "interval", 0.6, 0.5, 0.7, "undecided"),
        ("<=", "interval", 0.6, 0.55, 0.7, "fails"),
        ("<=", "interval", INF, INF, INF, "fails"),
        ("<=", "interval", INF, 0.1, INF, "undecided"),
        ("<=", "interval", INF, 0.6, INF, "fails"),
        ("<=", "interval", INF, None, INF, "not judged"),
        ("<=", "interval", 0.4, 0.3, None, "not judged"),
        ("<=", "interval", 0.4, 0.3, NAN, "not judged"),
        (">=", "interval", 0.7, 0.6, 0.8, "holds"),
        (">=", "interval", 0.6, 0.5, 0.7, "holds"),
        (">=", "interval", 0.6, 0.4, 0.7, "undecided"),
        (">=", "interval", 0.4, 0.3, 0.6, "undecided"),
        (">=", "interval", 0.4, 0.3, 0.45, "fails"),
        (">=", "interval", 0.0, -0.1, 0.0, "fails"),
        (">=", "interval", INF, INF, INF, "holds"),
        (">=", "interval", 0.6, None, 0.7, "not judged"),
        (">=", "interval", 0.6, NAN, 0.7, "not judged"),
    ],
)
def test_decision(relation, decided_by, value, low, high, decision) -> None:
    made = verdicts.decide(claim(relation, decided_by), Measured(value, low, high))
    assert made == decision


@pytest.mark.parametrize("scale", ["small", "gpu", "paper"])
def test_judged_with_what_was_measured(judged, scale) -> None:
    found = judged(Measured(0.25, 0.125, 0.375, "rough"), scale)
    assert found == verdict(note="rough")


def test_smoke_is_measured_but_not_judged(judged) -> None:
    found = judged(Measured(0.25, 0.125, 0.375, "rough"), "smoke")
    assert found == verdict(verdict="not judged", note="not judged at the scale smoke")


def test_the_table_reaches_the_measurement(monkeypatch) -> None:
    module = SimpleNamespace(measure=lambda runs: Measured(len(runs) / 10))
    monkeypatch.setitem(sys.modules, "measures_for_test_claims", module)
    assert verdicts.judge(claim(), "four", "small").value == 0.4


@pytest.mark.parametrize(
    ("measured", "decision", "note"),
    [
        (Measured(INF, INF, INF), "holds", "the value is infinite"),
        (Measured(INF, note="why"), "not judged", "the value is infinite; why"),
        (Measured(NAN, note="why"), "not judged", "why"),
    ],
)
def test_a_value_without_a_number_is_explained(judged, measured, decision, note) -> None:
    found = judged(measured, "small", relation=">=", decided_by="interval")
    assert (found.verdict, found.note) == (decision, note)
    assert (found.value, found.low, found.high) == (None, None, None)


def test_verdicts_survive_a_file(judged, tmp_path) -> None:
    found = [
        judged(Measured(0.1 + 0.2, 1 / 3, 2.0, "µP ± 1"), "small"),
        judged(Measured(NAN, -INF, INF), "small"),
        judged(Measured(INF), "small"),
    ]
    path = tmp_path / "fig1" / "claims.json"
    verdicts.save(path, found)
    assert verdicts.read(path) == found

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_verdicts_without_the_papers_number_are_read(tmp_path) -> None:
    path = tmp_path / "fig1" / "claims.json"
    verdicts.save(path, [verdict(note="old")])
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored[0].pop("paper") == ""
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert verdicts.read(path) == [verdict(note="old")]


def test_missing_verdicts_name_the_fix(tmp_path) -> None:
    with pytest.raises(UserError, match="snakemake fig7"):
        verdicts.read(tmp_path / "fig7" / "claims.json")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "0.25 [0.125, 0.375]"),
        ({"value": -0.97123, "low": -1.0249, "high": -0.9}, "-0.971 [-1.02, -0.9]"),
        ({"low": None, "high": None}, "0.25"),
        ({"high": None}, "0.25"),
        ({"value": 0.0, "low": 0.0, "high": 0.0}, "0 [0, 0]"),
        ({"value": None}, "—"),
    ],
)
def test_measured_text(changes, text) -> None:
    assert verdicts.measured_text(verdict(**changes)) == text


def test_markdown() -> None:
    other = verdict(verdict="fails", value=None, relation=">=", threshold=1.0, unit="grid steps")
    plain = verdicts.markdown([verdict(), other])
    assert plain == (
        "| claim | verdict | measured | threshold | source |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| The rate transfers | **holds** | 0.25 [0.125, 0.375] | <= 0.5 nats | Section 4 |\n"
        "| The rate transfers | **fails** | — | >= 1 grid steps | Section 4 |\n"
    )
    found = verdicts.markdown([verdict(blind=0.128, note="an edge"), other])
    assert "threshold | a blind guess passes | source |" in found
    assert "<= 0.5 nats | 0.13 | Section 4 |" in found and ">= 1 grid steps |  | Section" in found
    assert found.endswith("Section 4 |\n\n- The rate transfers: an edge.\n")


@pytest.mark.parametrize(
    ("picks", "relation", "blind"),
    [
        ((), "<=", None),
        ((0.1, 0.5, 0.6, INF), "<=", 0.5),
        ((0.1, 0.5, 0.6, INF), ">=", 0.75),
        ((0.1, NAN), "<=", None),
    ],
)
def test_the_share_of_blind_guesses_that_pass(judged, picks, relation, blind) -> None:
    found = judged(Measured(0.25, 0.2, 0.3, picks=picks), "small", relation=relation)
    assert found.blind == blind


def test_the_papers_number_stands_beside_the_measured(judged) -> None:
    found = judged(Measured(0.25), "small", paper="0.2 nats (Table 2)")
    assert found.paper == "0.2 nats (Table 2)"
    assert verdicts.markdown([found, verdict()]) == (
        "| claim | verdict | measured | paper's number | threshold | source |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| The rate transfers | **holds** | 0.25 | 0.2 nats (Table 2) | <= 0.5 nats | Section 4 |\n"
        "| The rate transfers | **holds** | 0.25 [0.125, 0.375] |  | <= 0.5 nats | Section 4 |\n"
    )
