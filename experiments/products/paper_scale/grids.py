"""The paper's statements beside the declared sweeps of the scale `paper`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.declare import registry
from experiments.declare.product import PAPER, Product
from experiments.products.paper_scale import declared
from experiments.products.paper_scale.stated import OPEN, QUANTITIES, STATED, Stated, spaces

SWEPT = "swept"
NOT_SWEPT = frozenset({"seed", "parametrization"})  # which every figure may vary


@dataclass(frozen=True)
class Compared:
    """A statement beside one of our products.

    Attributes:
        stated: what the paper states.
        product: name of ours.
        ours: the declared values, ascending.
        agrees: whether these are the paper's.
        as_declared: whether these are what the statement says of ours, where it differs.
    """

    stated: Stated
    product: str
    ours: tuple[Any, ...]
    agrees: bool
    as_declared: bool

    @property
    def undeclared(self) -> bool:
        """Whether it differs in another way than is said, or has a reason and does not differ."""
        if not self.stated.why:
            return not self.agrees
        return self.agrees or not self.as_declared


def compare() -> list[Compared]:
    """Every statement beside every product that it is about, in the order of the statements."""
    found = []
    for stated in STATED:
        for name in stated.products:
            ours = _ours(stated, registry.product(name))
            pinned = not stated.here or _agrees(replace(stated, paper=stated.here), ours)
            found.append(Compared(stated, name, ours, _agrees(stated, ours), pinned))
    return found


def uncovered() -> list[str]:
    """Keys of sweeps of the paper's products that no statement and no entry of `OPEN` speaks of."""
    found = []
    for product in declared.trained():
        if product.work != PAPER:
            continue
        known = {key for keys in OPEN.get(product.exhibit, {}) for key in keys.split(", ")}
        for stated in STATED:
            if product.name in stated.products:
                known |= {stated.key, *QUANTITIES.get(stated.key, (None, ()))[1]}
        used = {
            key
            for sweep in product.sweeps
            for part in (sweep.base, sweep.axes(declared.SCALE), *sweep.points)
            for key in part
        }
        found += [f"{product.name}: {key}" for key in sorted(used - known)]
    return found


def _ours(stated: Stated, product: Product) -> tuple[Any, ...]:
    if stated.space:
        return _sorted(spaces()[product.name][stated.key])
    if product.computation is not None:
        return (product.computation.at(declared.SCALE)[stated.key],)
    runs = [
        run
        for part in declared.runs_of(product.name)
        for run in part
        if all(getattr(run, key) == value for key, value in stated.where.items())
    ]
    if stated.key == SWEPT:
        return _sorted(_swept(product))
    function = QUANTITIES.get(stated.key, (lambda run: getattr(run, stated.key), ()))[0]
    return _sorted({function(run) for run in runs})


def _swept(product: Product) -> set[str]:
    """Keys that have several values within a sweep."""
    found = set()
    for sweep in product.sweeps:
        values: dict[str, set[Any]] = {}
        for key, axis in sweep.axes(declared.SCALE).items():
            values.setdefault(key, set()).update(axis)
        for point in sweep.points:
            for key, value in point.items():
                values.setdefault(key, set()).add(value)
        found |= {key for key, several in values.items() if len(several) > 1}
    return found - NOT_SWEPT


def _sorted(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(values))


def _agrees(stated: Stated, ours: Sequence[Any]) -> bool:
    paper = sorted(stated.paper)
    if not ours:
        return False
    match stated.form:
        case "one":
            return len(ours) == 1
        case "ends":
            return _close(paper, (ours[0], ours[-1]), stated.within)
        case "has":
            return all(any(_close([x], [y], stated.within) for y in ours) for x in paper)
        case "values":
            return _close(paper, _distinct(ours, stated.within), stated.within)


def _distinct(values: Sequence[Any], within: float) -> list[Any]:
    """Values, ascending, without those that are the same as the one before."""
    found: list[Any] = []
    for value in values:
        if not found or not _close([found[-1]], [value], within):
            found.append(value)
    return found


def _close(left: Sequence[Any], right: Sequence[Any], within: float) -> bool:
    return len(left) == len(right) and all(
        math.isclose(x, y, rel_tol=within) if _number(x) and _number(y) else x == y
        for x, y in zip(left, right, strict=True)
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
