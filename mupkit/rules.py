"""The scaling rules as data: exponents of the width multipliers of fan-in and fan-out.

A quantity scales as ñ_in^a * ñ_out^b, with the exponents (a, b) of the rule and ñ the size of a fan
over that at base width. For a finite dimension ñ is 1, so that a rule may name both fans and only
widths count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

from mupkit.infshape import InfShape, Role

Family = Literal["sgd", "adam", "lion", "frobenius", "muon"]
"""How the updates of a family's optimizers look, and where the exponents of its rates come from.

sgd: linear in the gradient. Tensor Programs V, Table 3 and Appendix J.2.1.

adam: entries of the size of the rate, whatever the gradient's scale: Adam, AdamW, Adagrad, RMSProp,
and RAdam after its first steps. Tensor Programs V, Table 3, Appendices B.3 and J.1.3.

lion: signs, so entries of exactly the size of the rate, as for Adam. Chen et al. 2023
(arXiv:2302.06675), Algorithm 2, with Tensor Programs V, Appendix J.1.3.

frobenius: the Frobenius norm of the weight times the rate (LARS, LAMB, Adafactor), so entries of
rate * init std. Tensor Programs V, Appendix B.3: 1/sqrt(fan_in) for hidden weights. Deviation: B.3
asks the same of Table 3's output weights; but such an update is relative to the weight and does not
change under Lemma J.1, so their rate is constant in Tables 3, 8 and 9 alike.

muon: orthogonal matrices times the rate, of spectral norm = rate; a layer learns features if that
norm is sqrt(fan_out / fan_in). Yang, Simon, Bernstein 2023 (arXiv:2310.17813), Condition 1
(spectral scaling). Vectors are not for Muon.
"""
FAMILIES: tuple[Family, ...] = get_args(Family)
Exponents = tuple[float, float]  # of fan-in, of fan-out
CONSTANT: Exponents = (0.0, 0.0)


def _lr(
    *,
    sgd: Exponents = CONSTANT,
    adam: Exponents = CONSTANT,
    frobenius: Exponents = CONSTANT,
    muon: Exponents = CONSTANT,
) -> Mapping[Family, Exponents]:
    return {"sgd": sgd, "adam": adam, "lion": adam, "frobenius": frobenius, "muon": muon}


@dataclass(frozen=True)
class Rule:
    """How one role scales, as exponents of (fan-in, fan-out).

    Args:
        init_std: std of the initialization.
        multiplier: factor of the weight in the forward pass.
        lr: learning rate, by family of optimizers.
        eps: epsilon, added after the square root; it scales as the gradient does.
    """

    init_std: Exponents = CONSTANT
    multiplier: Exponents = CONSTANT
    lr: Mapping[Family, Exponents] = field(default_factory=_lr)
    eps: Exponents = CONSTANT


@dataclass(frozen=True)
class Rules:
    """The scaling rules of a parametrization: one rule per role, `rules[role]`.

    Args:
        name: "sp", "3", "8", "9", "ntp" or, for an interpolation, both names and t. A model's state
            dict keeps this name in its metadata.
        title: the name as it is shown, such as "Table 8".
        source: where the rules come from.
        by_role: the rules.
        mup: whether they are a formulation of µP.
    """

    name: str
    title: str
    source: str
    by_role: Mapping[Role, Rule]
    mup: bool = False

    def __getitem__(self, role: Role) -> Rule:
        return self.by_role[role]

    def __repr__(self) -> str:
        """Short, since signatures show it: the name under which `RULES` has them, or the title."""
        named = RULES.get(self.name) is self
        return f"mupkit.RULES[{self.name!r}]" if named else f"<Rules {self.title}>"


SP = Rules(
    "sp",
    "SP",
    "standard parametrization: Tensor Programs V, Table 3, the entries in grey",
    {
        "input": Rule(),
        "hidden": Rule(init_std=(-0.5, 0)),
        "output": Rule(init_std=(-0.5, 0)),
        "scalar": Rule(),
    },
)
"""Standard parametrization."""

NTP = Rules(
    "ntp",
    "NTP",
    "neural tangent parametrization: Jacot et al. 2018 (arXiv:1806.07572); one rate for all",
    {
        "input": Rule(),
        "hidden": Rule(multiplier=(-0.5, 0)),
        "output": Rule(multiplier=(-0.5, 0)),
        "scalar": Rule(),
    },
)
"""Neural tangent parametrization: N(0, 1) weights, 1/sqrt(fan_in) in the forward pass."""

# A hidden weight's SGD rate is 1 in the paper because fan-in and fan-out grow together there; if
# their multipliers differ, it is their ratio, as in Appendix J (and in the mup package). Likewise
# epsilon: Appendix B.3 has 1/fan_in for the tables with output multipliers; a gradient is as large
# as 1/fan_out times the weight's multiplier.
_HIDDEN = Rule(
    init_std=(-0.5, 0),
    lr=_lr(sgd=(-1, 1), adam=(-1, 0), frobenius=(-0.5, 0), muon=(-0.5, 0.5)),
    eps=(0, -1),
)

TABLE_3 = Rules(
    "3",
    "Table 3",
    "Tensor Programs V, Table 3",
    {
        "input": Rule(lr=_lr(sgd=(0, 1), muon=(0, 0.5)), eps=(0, -1)),
        "hidden": _HIDDEN,
        "output": Rule(init_std=(-1, 0), lr=_lr(sgd=(-1, 0), adam=(-1, 0), muon=(-0.5, 0))),
        "scalar": Rule(),
    },
    mup=True,
)
"""µP without multipliers: any model can be parametrized as it is."""

TABLE_8 = Rules(
    "8",
    "Table 8",
    "Tensor Programs V, Table 8",
    {
        "input": Rule(lr=_lr(sgd=(0, 1), muon=(0, 0.5)), eps=(0, -1)),
        "hidden": _HIDDEN,
        "output": Rule(multiplier=(-1, 0), lr=_lr(sgd=(1, 0), muon=(0.5, 0)), eps=(-1, 0)),
        "scalar": Rule(),
    },
    mup=True,
)
"""µP with an output multiplier: input and output weights have the same rules and can be tied."""

TABLE_9 = Rules(
    "9",
    "Table 9",
    "Tensor Programs V, Table 9",
    {
        "input": Rule(
            init_std=(0, -0.5), multiplier=(0, 0.5), lr=_lr(adam=(0, -0.5)), eps=(0, -0.5)
        ),
        "hidden": _HIDDEN,
        "output": Rule(
            init_std=(-0.5, 0), multiplier=(-0.5, 0), lr=_lr(adam=(-0.5, 0)), eps=(-0.5, 0)
        ),
        "scalar": Rule(),
    },
    mup=True,
)
"""µP in the style of Tensor Programs IV: one SGD rate for all weights."""

RULES: Mapping[str, Rules] = MappingProxyType(
    {rules.name: rules for rules in (SP, NTP, TABLE_3, TABLE_8, TABLE_9)}
)
"""The rules that have a name."""


def interpolate(start: Rules, end: Rules, t: float) -> Rules:
    """The rules whose exponents are (1 - t) * start + t * end; t = 0 and t = 1 give the two.

    Source: the announcement post's interpolation of init and rates between SP and µP.
    """

    def mix(a: Exponents, b: Exponents) -> Exponents:
        return ((1 - t) * a[0] + t * b[0], (1 - t) * a[1] + t * b[1])

    if t in (0, 1):
        return end if t else start
    by_role = {
        role: Rule(
            init_std=mix(start[role].init_std, end[role].init_std),
            multiplier=mix(start[role].multiplier, end[role].multiplier),
            lr={f: mix(start[role].lr[f], end[role].lr[f]) for f in FAMILIES},
            eps=mix(start[role].eps, end[role].eps),
        )
        for role in start.by_role
    }
    return Rules(
        f"{start.name}->{end.name}@{t:g}",
        f"{start.title}->{end.title}@{t:g}",
        f"{start.source}; {end.source}",
        by_role,
    )


# Lemma J.1: how each quantity changes when the multiplier changes by theta.
_SHIFT: Mapping[Family, float] = {"sgd": -2, "adam": -1, "lion": -1, "frobenius": 0, "muon": -1}


def shift(rule: Rule, theta: Exponents) -> Rule:
    """An equivalent rule: multiplier * theta, init std / theta, and rates that keep the function.

    SGD's rate scales as theta**-2, a rate that alone decides the size of an update as theta**-1; a
    rate relative to the weight stays. Epsilon scales with the gradient, as theta.

    Source: Tensor Programs V, Lemma J.1.
    """

    def add(a: Exponents, factor: float) -> Exponents:
        return (a[0] + factor * theta[0], a[1] + factor * theta[1])

    return Rule(
        init_std=add(rule.init_std, -1),
        multiplier=add(rule.multiplier, 1),
        lr={family: add(rule.lr[family], _SHIFT[family]) for family in FAMILIES},
        eps=add(rule.eps, 1),
    )


def rule_for(infshape: InfShape, rules: Rules = TABLE_8) -> Rule:
    """The rule for a parameter, by its role."""
    return rules[infshape.role()]


def scale(infshape: InfShape, exponents: Exponents) -> float:
    """The factor (fan_in mult)**a * (fan_out mult)**b for exponents (a, b)."""
    fan_in, fan_out = infshape.fanin_fanout()
    a, b = exponents
    return float(fan_in.width_mult() ** a * fan_out.width_mult() ** b)


def tied_multiplier(rules: Rules) -> Exponents:
    """Exponents of the multiplier of logits whose weight is that of an embedding.

    The weight keeps the init std of its input role; the multiplier gives the logits the size that
    the output rule says: multiplier * init std of the output over init std of the input. Both fans
    are those of an output weight (fan-in: the width).
    """
    output, embedding = rules["output"], rules["input"]
    # The width is the embedding's fan-out and the readout's fan-in.
    return (output.multiplier[0] + output.init_std[0] - embedding.init_std[1], 0.0)


def update_exponents(role: Role, rules: Rules) -> Exponents:
    """Exponents of the entries of a stored parameter's update, for any optimizer, in µP.

    The update of a weight times its multiplier has entries of size 1 for input weights and 1/fan_in
    for hidden and output weights; the stored update lacks the multiplier.

    Source: Tensor Programs V, Appendix J.2.1.
    """
    seen = {"input": CONSTANT, "hidden": (-1.0, 0.0), "output": (-1.0, 0.0), "scalar": CONSTANT}
    (a, b), (c, d) = seen[role], rules[role].multiplier
    return (a - c, b - d)
