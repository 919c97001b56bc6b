"""Commands that lay results side by side or on one page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table as RichTable

from experiments.cli.options import console
from experiments.declare import registry
from experiments.errors import UserError
from experiments.messages import note
from experiments.runs.places import figures_dir, results_dir

app = typer.Typer()
REFERENCE = "reference"


def check_results(results: str) -> str:
    """Results by name or by folder.

    Raises:
        UserError: they are not there.
    """
    folder = results_dir(results)
    if not folder.is_dir():
        known = sorted(path.name for path in results_dir("").iterdir() if path.is_dir())
        raise UserError(
            f"no results at {folder}; give a scale, reference or a folder that holds such "
            f"results (there are {', '.join(known) or 'none yet'})"
        )
    return results


ResultsArgument = Annotated[
    str, typer.Argument(help="A scale, reference, or a folder like results/small.")
]


@app.command(
    epilog="Examples: `python -m experiments report reference`; "
    "`python -m experiments report --compare ~/their/results/small`"
)
def report(
    results: ResultsArgument = "small",
    compare: Annotated[
        str | None, typer.Option(help="Further results, laid over the pictures.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The page; by default figures/{results}/report.html.")
    ] = None,
) -> None:
    """Make one page of all that is there: interactive pictures, verdicts, origins.

    It needs no network and no server: open it in a browser.
    """
    from experiments.products.report.page import make_report

    check_results(results)
    if compare is not None:
        check_results(compare)
    if output is None:
        name = Path(results).name
        output = figures_dir(name) / "report.html"
    entries = make_report(results, output, compare)
    missing = [entry.name for entry in entries if entry.missing]
    note(f"{output}: {len(entries) - len(missing)} of {len(entries)} figures and tables")
    if missing:
        note(f"not there: {', '.join(missing)}")


@app.command(name="paper-scale", epilog="Example: `python -m experiments paper-scale`")
def paper_scale() -> None:
    """Write docs/paper_scale.md: what the scale paper trains, costs and shares with the paper."""
    from experiments.products.paper_scale import page

    page.update()
    console.print(str(page.PAGE), soft_wrap=True)


@app.command(
    epilog="Example: `python -m experiments compare reference small`; "
    "`python -m experiments compare reference ~/their/results/small fig1`"
)
def compare(
    before: ResultsArgument,
    after: ResultsArgument,
    names: Annotated[
        list[str] | None, typer.Argument(help="Figures or tables; all that both have without any.")
    ] = None,
) -> None:
    """Show which verdicts differ between two results, and by how much the values do."""
    from experiments.analysis.verdicts import measured_text
    from experiments.products.compare import compare as compared

    products = [registry.product(name) for name in names or registry.products()]
    found = compared(products, check_results(before), check_results(after))
    changed = [change for change in found if change.changed]
    for change in changed:
        console.print(f"{change.product}: {change.statement}", soft_wrap=True)
        for results, verdict in ((before, change.before), (after, change.after)):
            told = f"{verdict.verdict}, {measured_text(verdict)}" if verdict else "not claimed"
            console.print(f"  {results}: {told}", soft_wrap=True)
        if change.difference is not None and change.after is not None:
            console.print(f"  differs by {change.difference:+.3g} {change.after.unit}")
    table = RichTable("figure or table", "claims", "other verdict", box=None, pad_edge=False)
    counts = Counter(change.product for change in found)
    others = Counter(change.product for change in changed)
    for name, count in counts.items():
        table.add_row(name, str(count), str(others[name] or ""))
    console.print(table)
    console.print(f"{len(found) - len(changed)} of {len(found)} claims have the same verdict")
