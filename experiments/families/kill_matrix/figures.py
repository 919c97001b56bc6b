"""The kill matrix as a table, and its claims. Pure functions of the tidy table, without torch."""

from __future__ import annotations

import pandas as pd

from experiments.analysis.text_table import TextTable
from experiments.declare.claims import Measured

CHECKS = {
    "explain": "explain",
    "activation": "activations",
    "change": "changes",
    "update": "updates",
    "wider": "wider is better",
    "mup": "check of `mup`",
}
OURS = [check for check in CHECKS if check != "mup"]


def render_kill_matrix(found: pd.DataFrame) -> TextTable:
    """One row per bug, one column per check: whether it noticed the bug, and by what."""
    rows = []
    for case, part in found.groupby("case", sort=False):
        by_check = part.set_index("check")
        cells = [_noticed(by_check.loc[check]) for check in CHECKS]
        what = "" if by_check["right"].iloc[0] else by_check["what"].iloc[0]
        rows.append([f"**{case}**", what, *cells])
    notes = (
        "explain: the warnings of `python -m mupkit explain`. Activations, changes, updates: "
        "`python -m mupkit check` with its defaults, with the tensor that is farthest from theory "
        "and by how much in the exponent (updates: clipping of gradients, too); ? is undecided. "
        "Wider is better: a wide model trains worse than a narrower one.",
        "Check of `mup`: mean |x| of the activations at width 512 over that at 128, at its rate of "
        "1e-3 (Adam; 0.1 with SGD), more than 1.25 or, for tensors that scale, less than 1/1.25.",
    )
    return TextTable(["Planted", "What is wrong", *CHECKS.values()], rows, notes)


def _noticed(row: pd.Series) -> str:
    if row["caught"]:
        return f"✗ {row['detail']}"
    return f"? {row['detail']}" if row["detail"] else "·"


def unnoticed(found: pd.DataFrame) -> Measured:
    """How many bugs none of our checks notices."""
    bugs = found[~found["right"] & found["check"].isin(OURS)]
    caught = bugs.groupby("case", sort=False)["caught"].any()
    missed = [str(case) for case in caught.index[~caught]]
    return Measured(float(len(missed)), note=f"of {len(caught)}; {', '.join(missed) or 'none'}")


def accused(found: pd.DataFrame) -> Measured:
    """How many right models any of our checks accuses."""
    right = found[found["right"] & found["check"].isin(OURS)]
    wrong = right.groupby("case", sort=False)["caught"].any()
    names = [str(case) for case in wrong.index[wrong]]
    return Measured(float(len(names)), note=f"of {len(wrong)}; {', '.join(names) or 'none'}")
