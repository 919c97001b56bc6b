"""Commands that look after what is stored."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from experiments.cli.options import Data, Scale, console
from experiments.declare import registry, scales
from experiments.declare.data_sources import resolve_all
from experiments.declare.product import Product
from experiments.declare.scales import check_scale
from experiments.errors import UserError
from experiments.runs.places import results_dir
from experiments.runs.store import STALE, Store

app = typer.Typer()


@app.command(epilog="Example: `python -m experiments forget fig1 --stale`")
def forget(
    name: Annotated[str, typer.Argument(help="A figure or table.")],
    scale: Scale = "small",
    data: Data = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="Only runs made by other code or of other data.")
    ] = False,
) -> None:
    """Drop stored runs or a computation, so that the next workflow makes them again."""
    checked, product = check_scale(scale), registry.product(name)
    if not product.sweeps:
        console.print(_forget_computation(product, checked, stale))
        return
    source = resolve_all(data)[product.exhibit]
    dropped = _forget_runs(product.runs(checked, source), Store(results_dir(checked)), stale)
    console.print(f"{dropped} runs of {name} dropped")


def _forget_computation(product: Product, scale: scales.Scale, stale: bool) -> str:
    from experiments.products.computing import forget, state

    if product.schematic:
        return f"{product.name} is drawn by code alone, there is nothing to forget"
    folder = results_dir(scale) / product.name
    found = state(product, folder)
    if found == "missing" or (stale and found == "done"):
        return f"0 computations of {product.name} dropped"
    forget(product, folder)
    return f"1 computation of {product.name} dropped"


def _forget_runs(runs: Any, store: Store, stale: bool) -> int:
    """Damaged runs are always dropped; with `stale` only those of other code, data or schema."""
    from experiments.products.doctor import DataNow

    look = partial(store.look, data_now=DataNow() if stale else None)
    states = [(run.id, look(run.id).state) for run in runs]
    drop = [i for i, s in states if (s in ("damaged", *STALE) if stale else s != "missing")]
    for run_id in drop:
        store.remove(run_id)
    return len(drop)


@app.command(epilog="Examples: `python -m experiments doctor --mend`; with `--stale`")
def doctor(
    scale: Scale = "small",
    data: Data = None,
    mend: Annotated[bool, typer.Option("--mend", help="Remove what is named.")] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="With --mend, runs of other code or data too.")
    ] = False,
) -> None:
    """Look for damaged, left-behind and outdated files; exit status 1 if something was found.

    `--mend` removes only what the next workflow makes again or nobody needs.
    """
    from experiments.products import doctor as doctors

    checked = check_scale(scale)
    if stale and not mend:
        raise UserError("--stale says what --mend removes; give both")
    found = doctors.examine(checked, resolve_all(data))
    done = doctors.mend(found, checked, stale) if mend else {}
    for finding in found:
        console.print(finding.line(done.get(finding), mend), soft_wrap=True, markup=False)
    wrong = sum(not finding.note for finding in found)
    if not wrong:
        console.print(f"results/{scale} is in order")
        return
    console.print(f"{wrong} found, {sum(done.values())} mended" if mend else f"{wrong} found")
    raise typer.Exit(1)


@app.command(epilog="Example: `python -m experiments reference fig1`")
def reference(
    name: Annotated[str, typer.Argument(help="A figure or table.")], scale: Scale = "small"
) -> None:
    """Make a finished figure the committed reference, and bring the README's verdicts up to it."""
    from experiments.products import readme, reference

    reference.make_reference(registry.product(name), check_scale(scale))
    readme.update()
