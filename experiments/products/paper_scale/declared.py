"""What is declared at the scale `paper`: the runs of each product, and how they differ."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.declare import registry
from experiments.declare.config import RunConfig
from experiments.declare.product import Product
from experiments.declare.references import load
from experiments.declare.scales import Scale
from experiments.products.following import expected
from experiments.runs import planning
from experiments.runs.store import Store

if TYPE_CHECKING:
    from torch import nn

SCALE: Scale = "paper"


@dataclass(frozen=True)
class Configuration:
    """Runs that are the same but for rates, multipliers, seeds and lengths: one kind of step.

    Attributes:
        key: 16 digits, as of `planning.shape`.
        run: one of them, with the middle learning rate, on the paper's data.
        products: names of the figures and tables that have such runs.
    """

    key: str
    run: RunConfig
    products: tuple[str, ...]


def papers_data(product: Product) -> str:
    """The first data source of a product's exhibit: the paper's, or what stands for it."""
    return next(iter(registry.exhibit(product.exhibit).data_sources), "")


@cache
def runs_of(name: str) -> tuple[tuple[RunConfig, ...], tuple[RunConfig, ...]]:
    """The runs of a product's sweeps, and those that follow, with outcomes that are made up."""
    product = registry.product(name)
    data = papers_data(product)
    if not product.follow_up:
        return product.runs(SCALE, data), ()
    with tempfile.TemporaryDirectory() as empty:
        more = expected(product, SCALE, data, Store(Path(empty)))
    return product.runs(SCALE, data), tuple(more)


def build(run: RunConfig) -> nn.Module:
    """The model of a run, on torch's default device, without its data."""
    model: nn.Module = load(run.model(), run.family)(run)
    return model


@cache
def trained() -> tuple[Product, ...]:
    """The products that train something."""
    return tuple(product for product in registry.products().values() if product.sweeps)


@cache
def configurations() -> tuple[Configuration, ...]:
    """All that differ, those with the fewest FLOPs of a step first."""
    by_key: dict[str, dict[str, RunConfig]] = {}
    names: dict[str, dict[str, None]] = {}
    for product in trained():
        for run in itertools.chain(*runs_of(product.name)):
            key = planning.shape(run)
            by_key.setdefault(key, {})[run.id] = run
            names.setdefault(key, {})[product.name] = None
    found = []
    for key, runs in by_key.items():
        ordered = sorted(runs.values(), key=lambda run: (run.log2lr, run.id))
        found.append(Configuration(key, ordered[len(ordered) // 2], tuple(names[key])))
    return tuple(sorted(found, key=lambda one: (planning.step_flops(one.run), one.key)))
