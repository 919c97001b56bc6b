"""The scaling rules as data: exponents of the width multipliers of fan-in and fan-out.

A quantity scales as (fan_in / base fan_in)**a * (fan_out / base fan_out)**b with (a, b) from the
table; finite dimensions have multiplier 1, so a rule may name both and only widths count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mupkit.infshape import InfShape, Role

Family = Literal["sgd", "adam"]
Exponents = tuple[float, float]  # of fan-in, of fan-out
CONSTANT: Exponents = (0.0, 0.0)


@dataclass(frozen=True)
class Rule:
    """How one role scales: std of the initialization, output multiplier, learning rate."""

    init_std: Exponents = CONSTANT
    multiplier: Exponents = CONSTANT
    lr: Mapping[Family, Exponents] = field(
        default_factory=lambda: {"sgd": CONSTANT, "adam": CONSTANT}
    )


Table = Mapping[Role, Rule]

SP: Table = {
    "input": Rule(),
    "hidden": Rule(init_std=(-0.5, 0)),
    "output": Rule(init_std=(-0.5, 0)),
    "scalar": Rule(),
}
"""Standard parametrization. Source: Tensor Programs V, Table 8, the entries in grey."""

TABLE_8: Table = {
    "input": Rule(lr={"sgd": (0, 1), "adam": (0, 0)}),
    "hidden": Rule(init_std=(-0.5, 0), lr={"sgd": (-1, 1), "adam": (-1, 0)}),
    "output": Rule(multiplier=(-1, 0), lr={"sgd": (1, 0), "adam": (0, 0)}),
    "scalar": Rule(),
}
"""µP with output multipliers, which allows tied embeddings. Source: Tensor Programs V, Table 8.

The table gives a hidden weight an SGD rate of 1 because there fan-in and fan-out grow together;
where their multipliers differ the rate is their ratio, as in Appendix J (and the `mup` package).
"""


def rule_for(infshape: InfShape, table: Table = TABLE_8) -> Rule:
    """The row of `table` for a parameter."""
    return table[infshape.role()]


def scale(infshape: InfShape, exponents: Exponents) -> float:
    """The factor (fan_in mult)**a * (fan_out mult)**b for exponents (a, b)."""
    fan_in, fan_out = infshape.fanin_fanout()
    a, b = exponents
    return float(fan_in.width_mult() ** a * fan_out.width_mult() ** b)
