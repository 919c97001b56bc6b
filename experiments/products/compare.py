"""Which verdicts differ between two results, and by how much."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from experiments.analysis import verdicts
from experiments.analysis.verdicts import Verdict
from experiments.declare.product import Product
from experiments.errors import UserError
from experiments.products.tidy_tables import Results, claims_file


@dataclass(frozen=True)
class Change:
    """A claim in two results; None where it is in one of them alone."""

    product: str
    statement: str
    before: Verdict | None
    after: Verdict | None

    @property
    def changed(self) -> bool:
        """Whether another verdict came out."""
        return (self.before and self.before.verdict) != (self.after and self.after.verdict)

    @property
    def difference(self) -> float | None:
        """By how much the value differs, in the unit of the claim."""
        values = [v.value if v else None for v in (self.before, self.after)]
        return None if values[0] is None or values[1] is None else values[1] - values[0]


def compare(products: Iterable[Product], before: Results, after: Results) -> list[Change]:
    """The claims of all products that both results have.

    Raises:
        UserError: they have none in common.
    """
    found: list[Change] = []
    for product in products:
        files = [claims_file(product, results) for results in (before, after)]
        if not all(file.exists() for file in files):
            continue
        one, other = ({verdict.id: verdict for verdict in verdicts.read(f)} for f in files)
        for id in {**one, **other}:
            statement = (other.get(id) or one[id]).statement
            found.append(Change(product.name, statement, one.get(id), other.get(id)))
    if not found:
        raise UserError(f"{before} and {after} have no judged figure or table in common")
    return found
