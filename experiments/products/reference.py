"""The committed runs: a product's tidy tables copied, its pictures drawn from them."""

from __future__ import annotations

import shutil

from experiments.declare.product import Product
from experiments.declare.scales import Scale
from experiments.products.draw import draw
from experiments.products.tidy_tables import REFERENCE, folder_of, read_runs


def make_reference(product: Product, scale: Scale) -> None:
    """Copy a product's tables to results/reference and draw figures/reference from them.

    The losses of every step, megabytes of them, are copied only where they are drawn.
    """
    read_runs(product, scale)
    tables = [t for t in product.tidy_tables if t != "curves" or product.over_steps]
    target = folder_of(product, REFERENCE)
    target.mkdir(parents=True, exist_ok=True)
    for file in (*(f"{table}.parquet" for table in tables), "scale.json"):
        shutil.copyfile(folder_of(product, scale) / file, target / file)
    draw(product, REFERENCE)
