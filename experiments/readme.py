"""The part of the README that is generated: figures, tables and verdicts of the reference."""

from __future__ import annotations

from experiments import claims, grid, products, registry
from experiments.files import write_atomically
from experiments.spec import Figure, Product, Table, load
from experiments.store import ROOT

BEGIN, END = "<!-- reference:begin -->", "<!-- reference:end -->"
README = ROOT / "README.md"


def generated() -> str:
    """Every product that has a committed reference, as Markdown."""
    there = (
        _part(product)
        for name, product in sorted(registry.products().items(), key=_place)
        if products.claims_file(name, products.REFERENCE).exists()
    )
    return "\n".join(there)


def _place(item: tuple[str, Product]) -> tuple[bool, int, str]:
    """Figures before tables, both by number."""
    name, product = item
    return isinstance(product, Table), int("0" + "".join(filter(str.isdigit, name))), name


def _part(product: Product) -> str:
    """Heading, picture or table, caption, and what there is of setting and verdicts."""
    runs, scale = products.read_runs(product.name, products.REFERENCE)
    parts = [f"### {product.name}: {product.title}"]
    if isinstance(product, Figure):
        parts.append(f"![{product.name}](figures/reference/{product.name}.png)")
    parts.append(f"{product.caption} Source: Tensor Programs V, {product.source}.")
    if isinstance(product, Table):
        parts.append(grid.markdown(load(product.render)(runs)).rstrip())
    if product.scaled:
        count = f"{len(runs)} runs; " if product.sweeps else ""
        parts.append(f"Here: {count}{products.setting(runs, scale)}.")
    if product.claims:
        verdicts = claims.read(products.claims_file(product.name, products.REFERENCE))
        parts.append(claims.markdown(verdicts).rstrip())
    return "\n\n".join(parts) + "\n"


def updated(text: str) -> str:
    """`text` with its generated part brought up to date."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{generated()}{END}{tail}"


def update() -> None:
    """Rewrite the README's generated part."""
    text = README.read_text(encoding="utf-8")
    write_atomically(README, updated(text).encode())
