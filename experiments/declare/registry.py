"""What all folders of `families/` declare, found by their `spec.py`. No torch and no pandas."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

from experiments.declare.family import Exhibit, Family
from experiments.declare.product import Figure, Product, Table
from experiments.errors import UserError, unknown
from experiments.files import DamagedFileError
from experiments.messages import note

COLLECTIVE = {"all": (Figure, Table), "figures": (Figure,), "tables": (Table,)}
FOLDER = Path(__file__).parents[1] / "families"
_LEFT_OUT: dict[str, str] = {}


@cache
def exhibits() -> dict[str, Exhibit]:
    """Every folder by name: the model families, and those that train nothing.

    Each is given its folder's name, and so are its figures and tables. A folder with a damaged file
    is named on stderr and left out, so that the others go on.

    Raises:
        UserError: if a folder declares nothing, a run configuration belongs to another family, or
            two folders declare the same figure or table.
    """
    found: dict[str, Exhibit] = {}
    declared: dict[str, Path] = {}
    for spec in sorted(FOLDER.glob("*/spec.py")):
        try:
            exhibit = _named(spec)
        except DamagedFileError as error:
            _LEFT_OUT[spec.parent.name] = str(error)
            note(f"{spec.parent.name} is left out: {error}")
            continue
        for product in exhibit.products:
            if product.name in declared:
                raise UserError(f"{spec}: {product.name} is declared in {declared[product.name]}")
            declared[product.name] = spec
        found[exhibit.name] = exhibit
    return found


def left_out() -> dict[str, str]:
    """Why folders with a damaged file are not among the exhibits, by name."""
    exhibits()
    return _LEFT_OUT


def _unknown(what: str, name: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that is not there, unless it may be one that is left out."""
    if _LEFT_OUT:
        why = "; ".join(f"{folder} is left out: {error}" for folder, error in _LEFT_OUT.items())
        return UserError(f"{what} {name!r} is not there; {why}")
    return unknown(what, name, allowed)


def _named(spec: Path) -> Exhibit:
    """What a `spec.py` declares, with the name of its folder."""
    folder = spec.parent.name
    module = importlib.import_module(f"experiments.families.{folder}.spec")
    exhibit: Exhibit | None = getattr(module, "FAMILY", None) or getattr(module, "EXHIBIT", None)
    if exhibit is None:
        raise UserError(f"{spec}: declares neither FAMILY nor EXHIBIT")
    if isinstance(exhibit, Family) and exhibit.config.family != folder:
        raise UserError(f"{spec}: {exhibit.config.__name__}.family is {exhibit.config.family!r}")
    if isinstance(exhibit, Family) and not hasattr(exhibit.config, "task"):
        raise UserError(
            f"{spec}: {exhibit.config.__name__}.task is missing; it names the function of a "
            'configuration to its task, such as f"{__package__}.task:Task"'
        )
    return replace(
        exhibit,
        name=folder,
        figures=tuple(replace(figure, exhibit=folder) for figure in exhibit.figures),
        tables=tuple(replace(table, exhibit=folder) for table in exhibit.tables),
    )


@cache
def products() -> dict[str, Product]:
    """Every figure and table by name."""
    return {p.name: p for exhibit in exhibits().values() for p in exhibit.products}


def exhibit(name: str) -> Exhibit:
    """One folder; a UserError that lists the names if there is none."""
    if name not in exhibits():
        raise _unknown("family", name, exhibits())
    return exhibits()[name]


def family(name: str) -> Family:
    """One model family; a UserError if there is none of that name, or if it trains nothing."""
    found = exhibit(name)
    if not isinstance(found, Family):
        raise UserError(f"{name} trains nothing; `python -m experiments list` says what it shows")
    return found


def product(name: str) -> Product:
    """One figure or table; a UserError that lists the names if there is none."""
    if name not in products():
        raise _unknown("figure or table", name, products())
    return products()[name]


def asked(targets: Collection[str]) -> list[str]:
    """The figures and tables that targets of the workflow stand for.

    Args:
        targets: names of products and of `COLLECTIVE`, none for all; other words are left out.
    """
    kinds = {kind for target in targets or ("all",) for kind in COLLECTIVE.get(target, ())}
    return [
        name
        for name, product in products().items()
        if name in targets or isinstance(product, tuple(kinds))
    ]
