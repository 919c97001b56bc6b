"""Claims by kind: what the paper says again and again, said once. No torch and no pandas.

The statement is made of the threshold, so that the two cannot part.
"""

from __future__ import annotations

from typing import Literal

from experiments.declare.claims import Claim
from experiments.declare.references import Reference

LANDSCAPES = "experiments.analysis.landscapes"
MOST = 0.05  # nats that a transfer may cost


def stays(
    source: str,
    what: str = "learning rate of µP",
    id: str = "mup-optimum-stays",
    measure: Reference = f"{LANDSCAPES}:mup_optimum_range",
    over: str = " over all widths",
) -> Claim:
    """The best value moves by at most one grid step."""
    statement = f"The best {what} moves by at most one grid step{over}"
    return Claim(id, statement, source, measure, "<=", 1.0, "grid steps")


def falls(source: str, octaves: float, words: str) -> Claim:
    """SP's best learning rate falls with the width, by `octaves` per doubling, in `words`."""
    return Claim(
        id="sp-optimum-falls",
        statement=f"The best learning rate of SP falls by at least {words}",
        source=source,
        measure=f"{LANDSCAPES}:sp_optimum_drift",
        relation="<=",
        threshold=-octaves,
        unit="octaves per doubling",
    )


def wider_is_better(
    source: str,
    measure: Reference = f"{LANDSCAPES}:mup_worst_widening",
    words: str = "wider is not worse in µP beyond seed noise",
) -> Claim:
    """Up to the narrowest model's best rate no widening costs more than seeds explain."""
    statement = f"At every learning rate up to the optimum, {words}"
    unit = "of what seed noise allows"
    return Claim("mup-wider-is-better", statement, source, measure, "<=", 1.0, unit)


def beats_sp(
    source: str,
    measure: Reference = f"{LANDSCAPES}:mup_minus_sp",
    statement: str = "The widest µP model at its best is not worse than the widest SP model",
    unit: str = "nats",
    id: str = "mup-beats-sp",
    higher: bool = False,
    decided_by: Literal["value", "interval"] = "value",
) -> Claim:
    """The wide µP model is not worse than the wide SP model; `higher` of an accuracy."""
    return Claim(id, statement, source, measure, ">=" if higher else "<=", 0.0, unit, decided_by)


def transfers(
    source: str,
    measure: Reference = f"{LANDSCAPES}:mup_regret",
    what: str = "",
    id: str = "mup-transfers",
    most: float = MOST,
) -> Claim:
    """The smallest model's best value costs the largest at most `most` nats."""
    words = (
        f"{what}, the best value of the smallest model costs the largest"
        if what
        else "The narrowest model's best learning rate costs the widest µP model"
    )
    statement = f"{words} at most {most:g} nats"
    return Claim(id, statement, source, measure, "<=", most, "nats", "interval")


def does_not_transfer(
    source: str,
    measure: Reference = f"{LANDSCAPES}:sp_regret",
    words: str = "The narrowest model's best learning rate costs the widest SP model",
    least: float = MOST,
) -> Claim:
    """In SP the smallest model's best value costs the largest more than `least` nats."""
    statement = f"{words} more than {least:g} nats"
    return Claim(
        "sp-does-not-transfer", statement, source, measure, ">=", least, "nats", "interval"
    )


def searched_beats_sp(source: str) -> Claim:
    """Of a search whose winner is carried to a wide model: µP gets no worse an accuracy than SP."""
    return beats_sp(
        source,
        "experiments.analysis.searched:mup_above_sp",
        "The wide µP model is not worse than the wide SP model",
        "percentage points",
        "mup-transfers-better",
        higher=True,
        decided_by="interval",
    )
