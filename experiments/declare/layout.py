"""Which panels a figure of many has, as data; `analysis.panels` draws and measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.declare.claims import Claim
from experiments.declare.references import Call
from experiments.declare.statements import keeps_gain, transfers

PANELS = "experiments.analysis.panels"
MARKS = (  # of a caption
    "Circles mark each size's best value; crosses above a panel mark divergences, open ones where "
    "only some seeds diverged."
)


@dataclass(frozen=True)
class Layout:
    """Which panels a figure has: a column for each hyperparameter, a row for each of `rows`.

    Args:
        keys: hyperparameters.
        rows: (parametrization, dimension) of each row.
    """

    keys: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]

    def draw(self, heads: Sequence[str] = ()) -> Call:
        """The figure; `heads` stand before each row's loss axis."""
        return Call(f"{PANELS}:draw", {"layout": self, "heads": heads})

    def regret(self, row: tuple[str, str], keys: Sequence[str] = ()) -> Call:
        """The largest regret of a row's hyperparameters, or of those that `keys` names."""
        return Call(f"{PANELS}:worst_regret", {"layout": self, "row": row, "keys": keys})

    def transfers(
        self, source: str, what: str, *, id: str, row: tuple[str, str], keys: Sequence[str] = ()
    ) -> Claim:
        """The claim that the smallest model's best value costs the largest next to nothing."""
        return transfers(source, what, id=id, measure=self.regret(row, keys))

    def kept_gain(self, row: tuple[str, str], keys: Sequence[str] = ()) -> Call:
        """The least kept gain of a row's hyperparameters, or of those that `keys` names."""
        return Call(f"{PANELS}:least_kept_gain", {"layout": self, "row": row, "keys": keys})

    def drift(self, row: tuple[str, str], key: str) -> Call:
        """How far the best value of a hyperparameter moves per doubling of a row's size."""
        return Call(f"{PANELS}:optimum_drift", {"layout": self, "row": row, "key": key})

    def keeps_gain(
        self, source: str, what: str, *, id: str, row: tuple[str, str], keys: Sequence[str] = ()
    ) -> Claim:
        """The claim that the smallest model's best value keeps most of the largest one's gain."""
        return keeps_gain(source, what, id=id, measure=self.kept_gain(row, keys))
