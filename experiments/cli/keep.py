"""Commands that look after what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from experiments.cli.options import DataOption, ScaleOption, console
from experiments.declare import registry
from experiments.declare.config import RunConfig
from experiments.declare.data_sources import resolve_all
from experiments.declare.product import Product
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.runs.places import results_dir
from experiments.runs.store import STALE, Store

app = typer.Typer()


@app.command(epilog="Example: `python -m experiments forget fig1 --stale`")
def forget(
    name: Annotated[str, typer.Argument(help="A figure or table.")],
    scale: ScaleOption = "small",
    data: DataOption = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="Only runs made by other code or with other data.")
    ] = False,
) -> None:
    """Drop stored runs or a computation, so that the next workflow makes them again."""
    product = registry.product(name)
    if not product.sweeps:
        console.print(_forget_computation(product, scale, stale))
        return
    source = resolve_all(data)[product.exhibit]
    dropped = _forget_runs(product.runs(scale, source), Store(results_dir(scale)), stale)
    console.print(f"{dropped} runs of {name} dropped")


def _forget_computation(product: Product, scale: Scale, stale: bool) -> str:
    from experiments.products.computing import forget, state

    if product.schematic:
        return f"{product.name} is drawn by code alone, there is nothing to forget"
    folder = results_dir(scale) / product.name
    found = state(product, folder)
    if found == "missing" or (stale and found == "done"):
        return f"0 computations of {product.name} dropped"
    forget(product, folder)
    return f"1 computation of {product.name} dropped"


def _forget_runs(runs: Sequence[RunConfig], store: Store, stale: bool) -> int:
    """Damaged runs are always dropped; with `stale` only those of other code, data or schema."""
    from experiments.products.doctor.runs import DataNow

    look = partial(store.look, data_now=DataNow() if stale else None)
    states = [(run.id, look(run.id).state) for run in runs]
    drop = [i for i, s in states if (s in ("damaged", *STALE) if stale else s != "missing")]
    for run_id in drop:
        store.remove(run_id)
    return len(drop)


@app.command(epilog="Examples: `python -m experiments doctor --fix`; with `--stale`")
def doctor(
    scale: ScaleOption = "small",
    data: DataOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Remove what is named.")] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="With --fix, runs of other code or data too.")
    ] = False,
) -> None:
    """Look for damaged, left-behind and outdated files; exit status 1 if something was found.

    `--fix` removes only what the next workflow makes again or nobody needs.
    """
    from experiments.products.doctor.examine import examine
    from experiments.products.doctor.fix import fix as fixed

    if stale and not fix:
        raise UserError("--stale says what --fix removes; give both")
    if stale and registry.left_out():  # what code made their runs cannot be known
        raise UserError(f"--stale needs every family; left out: {', '.join(registry.left_out())}")
    resolve_all(data)  # refuses unknown data and a missing MUPKIT_DATA
    found = examine(scale)
    done = fixed(found, scale, stale) if fix else {}
    for finding in found:
        console.print(finding.line(done.get(finding), fix), soft_wrap=True, markup=False)
    wrong = sum(not finding.note for finding in found)
    if not wrong:
        console.print(f"results/{scale} is in order")
        return
    console.print(f"{wrong} found, {sum(done.values())} fixed" if fix else f"{wrong} found")
    raise typer.Exit(1)


@app.command(epilog="Example: `python -m experiments reference fig1`")
def reference(
    name: Annotated[str, typer.Argument(help="A figure or table.")], scale: ScaleOption = "small"
) -> None:
    """Make a finished figure the committed reference, and update the README's verdicts."""
    from experiments.products import readme, reference

    reference.make_reference(registry.product(name), scale)
    readme.update()
