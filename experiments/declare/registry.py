"""What all folders of `families/` declare, found by their `spec.py`. No torch and no pandas."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import cache
from pathlib import Path

from experiments.declare.family import Exhibit, Family
from experiments.declare.product import Product
from experiments.errors import UserError, unknown

FOLDER = Path(__file__).parents[1] / "families"


@cache
def exhibits() -> dict[str, Exhibit]:
    """Every folder by name: the model families, and those that train nothing.

    Each is given its folder's name, and so are its figures and tables.

    Raises:
        UserError: if a folder declares nothing, a run configuration belongs to another family, or
            two folders declare the same figure or table.
    """
    found: dict[str, Exhibit] = {}
    declared: dict[str, Path] = {}
    for spec in sorted(FOLDER.glob("*/spec.py")):
        exhibit = _named(spec)
        for product in exhibit.products:
            if product.name in declared:
                raise UserError(f"{spec}: {product.name} is declared in {declared[product.name]}")
            declared[product.name] = spec
        found[exhibit.name] = exhibit
    return found


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
        raise unknown("family", name, exhibits())
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
        raise unknown("figure or table", name, products())
    return products()[name]
