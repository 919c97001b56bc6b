"""Judging a figure's claims against thresholds that were fixed before the runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict

from experiments.declare.claims import Claim, Measured
from experiments.declare.references import load
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.files import DamagedFileError, read_json, write_atomically

if TYPE_CHECKING:
    import pandas as pd

JUDGED_AT: tuple[Scale, ...] = ("small", "gpu", "paper")
Decision = Literal["holds", "fails", "undecided", "not judged"]


@dataclass(frozen=True)
class Verdict:
    """A claim and what came of it."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    id: str
    statement: str
    source: str
    verdict: Decision
    value: float | None
    low: float | None
    high: float | None
    relation: str
    threshold: float
    unit: str
    note: str
    blind: float | None = None
    """The probability that a blind guess meets the claim, as far as one can be made."""
    paper: str = ""
    """The paper's own number, if it has one."""


def judge(claim: Claim, runs: pd.DataFrame, scale: Scale) -> Verdict:
    """Measure a claim on the tidy table of runs and compare it with its threshold.

    At `smoke` a claim is measured, so that the code runs, but not judged. An infinite value is
    judged, but a verdict has no number for it, so its note says so.
    """
    measured: Measured = load(claim.measure, f"the claim {claim.id}")(runs)
    decision, note = decide(claim, measured), measured.note
    if math.isinf(measured.value):
        note = f"the value is infinite; {note}" if note else "the value is infinite"
    if scale not in JUDGED_AT:
        decision, note = "not judged", f"not judged at the scale {scale}"
    return Verdict(
        id=claim.id,
        statement=claim.statement,
        source=claim.source,
        verdict=decision,
        value=_finite(measured.value),
        low=_finite(measured.low),
        high=_finite(measured.high),
        relation=claim.relation,
        threshold=claim.threshold,
        unit=claim.unit,
        note=note,
        blind=_blind(claim, measured.picks),
        paper=claim.paper,
    )


def _blind(claim: Claim, picks: Sequence[float]) -> float | None:
    """The share of blind guesses that meet a claim; None if there are none, or not of all."""
    if not len(picks) or any(math.isnan(pick) for pick in picks):
        return None
    return sum(_meets(pick, claim) for pick in picks) / len(picks)


def decide(claim: Claim, measured: Measured) -> Decision:
    """Whether a claim holds or fails; `undecided` if its interval contains the threshold.

    `not judged` where the value could not be measured, or has no interval that could decide.
    """
    ends = [measured.value]
    if claim.decided_by == "interval":
        if measured.low is None or measured.high is None:
            return "not judged"
        ends = [measured.low, measured.value, measured.high]
    if any(math.isnan(end) for end in ends):
        return "not judged"
    met = [_meets(end, claim) for end in ends]
    return "holds" if all(met) else "undecided" if any(met) else "fails"


def _meets(number: float, claim: Claim) -> bool:
    return number <= claim.threshold if claim.relation == "<=" else number >= claim.threshold


def _finite(x: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return x if x is not None and math.isfinite(x) else None


def save(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Verdicts as JSON."""
    content = json.dumps([asdict(v) for v in verdicts], indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, content.encode())


def read(path: Path) -> list[Verdict]:
    """Verdicts from JSON.

    Raises:
        UserError: if they are not there, or not of this form.
    """
    name = path.parent.name
    try:
        return read_json(path, list[Verdict])
    except FileNotFoundError:
        raise UserError(f"no verdicts at {path}; run `snakemake {name}` first") from None
    except DamagedFileError as error:
        raise UserError(f"{error}; `python -m experiments draw {name}` makes it again") from None


def damage(path: Path) -> str:
    """What is wrong with verdicts that are there; "" if nothing is.

    Raises:
        UserError: something else than a file is in their place.
    """
    try:
        read_json(path, list[Verdict])
    except DamagedFileError as error:
        return str(error)
    except FileNotFoundError:
        pass
    return ""


def measured_text(verdict: Verdict) -> str:
    """The value with its interval, such as "-0.97 [-1.02, -0.91]"; a note says why not."""
    if verdict.value is None:
        return "—"
    text = f"{verdict.value:.3g}"
    if verdict.low is not None and verdict.high is not None:
        text += f" [{verdict.low:.3g}, {verdict.high:.3g}]"
    return text


def blind_text(verdict: Verdict) -> str:
    """The probability that a blind guess meets the claim, such as "0.13"; empty without one."""
    return "" if verdict.blind is None else f"{verdict.blind:.2g}"


def threshold_text(verdict: Verdict) -> str:
    """The threshold with its unit, such as "<= 1 grid steps"."""
    return f"{verdict.relation} {verdict.threshold:g} {verdict.unit}"


def markdown(verdicts: Sequence[Verdict]) -> str:
    """A Markdown table, and the notes below it; a column that would be empty is left out."""
    columns = {
        "claim": [v.statement for v in verdicts],
        "verdict": [f"**{v.verdict}**" for v in verdicts],
        "measured": [measured_text(v) for v in verdicts],
        "paper's number": [v.paper for v in verdicts],
        "threshold": [threshold_text(v) for v in verdicts],
        "a blind guess passes": [blind_text(v) for v in verdicts],
        "source": [v.source for v in verdicts],
    }
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    rows = [[*shown], ["---"] * len(shown), *zip(*shown.values(), strict=True)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"- {v.statement}: {v.note}." for v in verdicts if v.note]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"
