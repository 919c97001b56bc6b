"""All experiments, found by their `spec.py`. Imports neither torch nor pandas."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from experiments.errors import unknown
from experiments.spec import Experiment, Product


@cache
def experiments() -> dict[str, Experiment]:
    """Every experiment by name.

    Raises:
        ValueError: if a figure or table is declared twice or a folder and its name disagree.
    """
    found: dict[str, Experiment] = {}
    products: set[str] = set()
    for spec in sorted(Path(__file__).parent.glob("*/spec.py")):
        experiment: Experiment = importlib.import_module(
            f"experiments.{spec.parent.name}.spec"
        ).EXPERIMENT
        names = [p.name for p in (*experiment.figures, *experiment.tables)]
        if experiment.name != spec.parent.name or experiment.config.family != experiment.name:
            raise ValueError(f"{spec}: folder, experiment and config.family must have one name")
        if twice := products.intersection(names):
            raise ValueError(f"{spec}: {', '.join(sorted(twice))} declared twice")
        products.update(names)
        found[experiment.name] = experiment
    return found


@cache
def products() -> dict[str, Product]:
    """Every figure and table by name."""
    return {p.name: p for e in experiments().values() for p in (*e.figures, *e.tables)}


def experiment(name: str) -> Experiment:
    """One experiment; a UserError that lists the names if there is none."""
    if name not in experiments():
        raise unknown("experiment", name, experiments())
    return experiments()[name]


def product(name: str) -> Product:
    """One figure or table; a UserError that lists the names if there is none."""
    if name not in products():
        raise unknown("figure or table", name, products())
    return products()[name]


def owner(name: str) -> Experiment:
    """The experiment that declares a figure or table."""
    found = product(name)
    return next(e for e in experiments().values() if found in (*e.figures, *e.tables))
