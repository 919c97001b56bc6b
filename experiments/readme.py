"""The part of the README that is generated: verdicts of the committed reference runs."""

from __future__ import annotations

from experiments import claims, products, registry
from experiments.files import write_atomically
from experiments.store import ROOT

BEGIN, END = "<!-- reference:begin -->", "<!-- reference:end -->"
README = ROOT / "README.md"


def generated() -> str:
    """Verdicts of every product that has a reference run, as Markdown."""
    parts = []
    for name, product in registry.products().items():
        if not products.claims_file(name, products.REFERENCE).exists():
            continue
        runs, scale = products.read_runs(name, products.REFERENCE)
        verdicts = claims.read(products.claims_file(name, products.REFERENCE))
        parts.append(
            f"### {name}: {product.title}\n\n"
            f"![{name}](figures/reference/{name}.png)\n\n"
            f"{product.caption} Source: Tensor Programs V, {product.source}.\n\n"
            f"Here: {len(runs)} runs; {products.setting(runs, scale)}.\n\n"
            f"{claims.markdown(verdicts)}"
        )
    return "\n".join(parts)


def updated(text: str) -> str:
    """`text` with its generated part brought up to date."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{generated()}{END}{tail}"


def update() -> None:
    """Rewrite the README's generated part."""
    text = README.read_text(encoding="utf-8")
    write_atomically(README, updated(text).encode())
