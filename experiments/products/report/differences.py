"""What differs between a product at the paper's scale and at another, by its declarations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from experiments.declare import registry
from experiments.declare.product import Product
from experiments.declare.scales import Scale

LISTED = 8  # values of a key, beyond which their range is told
FOLLOWS = ("id", "data")  # keys that say nothing, or that have a row of their own


def differences(product: Product, scale: Scale, data: Iterable[str]) -> list[tuple[str, str, str]]:
    """(key, at the paper's scale, here) of each key whose values differ.

    Runs that follow from what was found are not declared, so that their keys are not in it.

    Args:
        product: a figure or table.
        scale: of the runs that are shown.
        data: their data sources.
    """
    sources = registry.exhibit(product.exhibit).data_sources
    here = list(data)
    found = []
    if sources and here:
        labels = [", ".join(sources.get(name, name) for name in sorted(set(here)))]
        canonical = sources[next(iter(sources))]
        if labels != [canonical]:
            found.append(("data", canonical, labels[0]))
    if product.computation:
        paper, ours = (product.computation.at(s) for s in ("paper", scale))
        told = {key: (_told([paper.get(key)]), _told([ours.get(key)])) for key in {**paper, **ours}}
    else:
        source = next(iter(here), "")
        paper, ours = (_values(product, s, source) for s in ("paper", scale))
        told = {
            key: (_told(paper.get(key, ())), _told(ours.get(key, ()))) for key in {**paper, **ours}
        }
    return found + [(key, *pair) for key, pair in told.items() if pair[0] != pair[1]]


def _values(product: Product, scale: Scale, data: str) -> dict[str, list[Any]]:
    """The values of each key in a product's runs, and how many runs there are."""
    runs = product.runs(scale, data)
    seen: dict[str, dict[Any, None]] = {}
    for run in runs:
        for key, value in run:
            if key not in FOLLOWS:
                seen.setdefault(key, {})[value] = None
    count = {"runs": [len(runs)]} if runs else {}
    return {**count, **{key: list(found) for key, found in seen.items()}}


def _told(values: Iterable[Any]) -> str:
    """Values in words: a list of a few, the range of many."""
    flat = [
        item
        for value in values
        for item in (value if isinstance(value, (list, tuple)) else [value])
        if item is not None
    ]
    unique = list({repr(item): item for item in flat}.values())
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in unique)
    if numbers:
        unique.sort()
    texts = [f"{x:,.6g}" if numbers else str(x) for x in unique]
    if numbers and len(texts) > LISTED:
        return f"{texts[0]} to {texts[-1]}, {len(texts)} values"
    return ", ".join(texts[: 3 * LISTED]) + (" …" if len(texts) > 3 * LISTED else "")
