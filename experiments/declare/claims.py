"""A statement of the paper with its threshold, and what measures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from experiments.declare.references import Reference


@dataclass(frozen=True)
class Measured:
    """What a claim's function returns.

    Args:
        value: the measured value; NaN where the data do not allow to measure it.
        low, high: its bootstrap interval, nominally of 95 %, over seeds, with two seeds hardly more
            than their range, or over a search's samples; None where a value has none (a count of
            grid steps).
        note: what a reader needs to know about it, or why it could not be measured.
        picks: the values that blind guesses would have given, each as likely as the others, such
            as every value of the grid instead of the one that the proxy found best; empty where
            that has no meaning.
    """

    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    picks: Sequence[float] = ()


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, measurable, with a threshold that is fixed before any run.

    Args:
        id: unique in the figure.
        statement: in our words.
        source: section or figure of the paper.
        measure: "module:function" of the tidy table of runs to `Measured`.
        relation, threshold: the claim holds if the value stands in this relation to it.
        unit: of the value.
        decided_by: what is compared with the threshold. The interval: the claim is undecided if
            the threshold lies inside it, and not judged without one. Or the value itself, for what
            has no interval, such as a count of grid steps.
        paper: the paper's own value, as text with its unit and where it was read; empty if the
            paper gives none.
    """

    id: str
    statement: str
    source: str
    measure: Reference
    relation: Literal["<=", ">="]
    threshold: float
    unit: str
    decided_by: Literal["interval", "value"] = "interval"
    paper: str = ""
