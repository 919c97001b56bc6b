"""All experiments, found by their `spec.py`. Imports neither torch nor pandas."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from experiments.declare.spec import Exhibit, Experiment, Product
from experiments.errors import UserError, unknown

FAMILIES = Path(__file__).parents[1] / "families"


@cache
def experiments() -> dict[str, Exhibit]:
    """Every experiment by name, with those that train nothing.

    Raises:
        ValueError: if a figure or table is declared twice or a folder and its name disagree.
    """
    found: dict[str, Exhibit] = {}
    products: set[str] = set()
    for spec in sorted(FAMILIES.glob("*/spec.py")):
        folder = spec.parent.name
        experiment: Exhibit = importlib.import_module(
            f"experiments.families.{folder}.spec"
        ).EXPERIMENT
        family = experiment.config.family if isinstance(experiment, Experiment) else folder
        if {experiment.name, family} != {folder}:
            raise ValueError(f"{spec}: folder, experiment and config.family must have one name")
        names = [p.name for p in experiment.products]
        if twice := products.intersection(names):
            raise ValueError(f"{spec}: {', '.join(sorted(twice))} declared twice")
        products.update(names)
        found[experiment.name] = experiment
    return found


@cache
def products() -> dict[str, Product]:
    """Every figure and table by name."""
    return {p.name: p for e in experiments().values() for p in e.products}


def experiment(name: str) -> Exhibit:
    """One experiment; a UserError that lists the names if there is none."""
    if name not in experiments():
        raise unknown("experiment", name, experiments())
    return experiments()[name]


def trained(name: str) -> Experiment:
    """One experiment that trains; a UserError if it is none or trains nothing."""
    found = experiment(name)
    if not isinstance(found, Experiment):
        raise UserError(f"{name} trains nothing; `python -m experiments list` says what it shows")
    return found


def product(name: str) -> Product:
    """One figure or table; a UserError that lists the names if there is none."""
    if name not in products():
        raise unknown("figure or table", name, products())
    return products()[name]


def owner(name: str) -> Exhibit:
    """The experiment that declares a figure or table."""
    found = product(name)
    return next(e for e in experiments().values() if found in e.products)
