"""The scaling rules and the hyperparameters they scale, as tidy tables. Imports torch (mupkit)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.declare import registry
from experiments.declare.product import Product
from experiments.declare.scales import Scale
from experiments.declare.sweep import Sweep
from experiments.families.theory.hyperparameters import HYPERPARAMETERS, Hyperparameter
from mupkit.infshape import Role
from mupkit.rules import FAMILIES, RULES, SP, TABLE_8, Exponents, Rule

ROLES: tuple[Role, ...] = ("input", "output", "hidden", "scalar")


def rule_entries(settings: Mapping[str, Any], data: str) -> pd.DataFrame:
    """Exponents of one set of rules: one row per role and quantity, those of SP beside them.

    Args:
        settings: `table`, a name of `mupkit.rules.RULES`.
        data: not used.
    """
    rules = RULES[settings["table"]]
    rows = []
    for role in ROLES:
        ours, sp = quantities(rules[role]), quantities(SP[role])
        for quantity, (fan_in, fan_out) in ours.items():
            rows.append(
                {
                    "table": rules.name,
                    "quantity": quantity,
                    "role": role,
                    "fan_in": fan_in,
                    "fan_out": fan_out,
                    "sp_fan_in": sp[quantity][0],
                    "sp_fan_out": sp[quantity][1],
                }
            )
    return pd.DataFrame(rows)


def quantities(rule: Rule) -> dict[str, Exponents]:
    """Exponents by the names of the paper's rows; the variance has twice those of the std."""
    std_in, std_out = rule.init_std
    rates = {f"lr_{family}": rule.lr[family] for family in FAMILIES}
    variance = (2 * std_in, 2 * std_out)
    return {"init_var": variance, "multiplier": rule.multiplier, **rates, "eps": rule.eps}


def hyperparameters(settings: Mapping[str, Any], data: str) -> pd.DataFrame:
    """Each hyperparameter with its exponents and the products that test it at a scale.

    Args:
        settings: `scale`, whose grids are looked at.
        data: not used.

    Returns:
        A row per hyperparameter and product; one without product if none tests it. Exponents are
        those of Table 8 for Adam, missing where the rules say nothing.
    """
    rows, scale = [], settings["scale"]
    searches = {p.name: _runs(p, scale) for p in registry.products().values() if p.follow_up}
    for one in HYPERPARAMETERS:
        known = {
            "hyperparameter": one.name,
            "kind": one.kind,
            "paper": one.paper,
            "source": one.source,
            **_exponents(one),
        }
        tests = list(_tests(one, scale, searches))
        rows += [{**known, **test} for test in tests or [{"product": None, "test": None}]]
    return pd.DataFrame(rows)


def _exponents(one: Hyperparameter) -> dict[str, float]:
    found: dict[str, float] = {}
    for role in ROLES:
        rule = TABLE_8[role]
        of = {"lr": rule.lr["adam"], **{q: getattr(rule, q) for q in ("multiplier", "eps")}}
        of["init_std"] = quantities(rule)["init_var"]
        fan_in, fan_out = of[one.rule] if one.rule else (float("nan"), float("nan"))
        found |= {f"{role}_fan_in": fan_in, f"{role}_fan_out": fan_out}
    return found


def _runs(product: Product, scale: Scale) -> pd.DataFrame:
    """A row per run of a product's sweeps, with the values that its id hashes."""
    runs = product.runs(scale, next(iter(registry.exhibit(product.exhibit).data_sources), ""))
    return pd.DataFrame([run.canonical() for run in runs])


def _tests(
    one: Hyperparameter, scale: Scale, searches: Mapping[str, pd.DataFrame]
) -> Iterator[dict[str, Any]]:
    """Products that sweep it: a hyperparameter over a dimension of scale, or the other way.

    Args:
        one: the hyperparameter.
        scale: of the sweeps.
        searches: runs of products whose search is followed up, by name.
    """
    for product in registry.products().values():
        texts = [text for sweep in product.sweeps for text in _transfers(one, sweep, scale)]
        texts += _carries(one, searches[product.name]) if product.name in searches else ()
        if texts:
            yield {"product": product.name, "test": _with_claims(product, dict.fromkeys(texts))}


def _with_claims(product: Product, texts: Mapping[str, None]) -> str:
    count = len(product.claims)
    claims = f" ({count} claim{'s' if count > 1 else ''})" if count else ""
    return f"{'; '.join(texts)}{claims}"


def _transfers(one: Hyperparameter, sweep: Sweep, scale: Scale) -> Iterator[str]:
    grid = sweep.axes(scale)
    axes = {key: values for key, values in grid.items() if len(values) > 1}
    if "mup" not in grid.get("parametrization", (sweep.base.get("parametrization", "mup"),)):
        return
    if not axes.keys() & set(one.keys):
        return
    for other in HYPERPARAMETERS:
        if not axes.keys() & set(other.keys) or (one.kind == "scale") == (other.kind == "scale"):
            continue
        dimension = one if one.kind == "scale" else other
        key = next(key for key in dimension.keys if key in axes)
        across = f"{dimension.name} {_range(axes[key])}"
        yield f"{other.name}, over {across}" if one is dimension else f"across {across}"


def _carries(one: Hyperparameter, values: pd.DataFrame) -> Iterator[str]:
    """What a search in a narrow model, with runs of these values, is for: a wider one or deeper."""

    def varies(other: Hyperparameter) -> bool:
        return any(key in values and values[key].nunique() > 1 for key in other.keys)

    searched = [other for other in HYPERPARAMETERS if other.kind != "scale" and varies(other)]
    if "width" in one.keys:
        yield from (f"{other.name}, carried to a wider model" for other in searched)
    elif one.kind == "scale" and varies(one):
        yield from (f"{other.name}, carried to another {one.name}" for other in searched)
    elif one in searched:
        yield "carried to a wider model"


def _range(values: Sequence[Any]) -> str:
    """The ends of an axis; how many values where they are not numbers."""
    if all(isinstance(value, int | float) for value in values):
        return f"{min(values):g} to {max(values):g}"
    return f"({len(values)} values)"
