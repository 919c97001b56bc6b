"""What one folder of `families/` declares: what it shows, and the model family that it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.declare.config import RunConfig
from experiments.declare.product import Figure, Product, Table
from experiments.declare.scales import Scale
from experiments.errors import unknown


@dataclass(frozen=True)
class Search:
    """A random search of hyperparameters at the base width, whose winner sweeps start from.

    First `trials` random points, one run each. Then the learning rate of each of the best
    `finalists` is swept with several seeds, and the one with the lowest mean over three
    neighbouring rates wins: a lucky seed or a narrow spike does not.

    Args:
        config: class of the run configuration.
        base: values that stay.
        space: candidate values by key, `log2lr` among them, drawn uniformly and independently.
        trials, finalists: how many.
        rates: values of log2lr for the finalists, evenly spaced.
        seeds: of the finalists.
        draws: seed of the random points.
    """

    config: type[RunConfig]
    base: Mapping[str, Any]
    space: Mapping[str, Sequence[Any]]
    trials: int
    finalists: int
    rates: Sequence[float]
    seeds: int
    draws: int = 0


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """What one folder of `families/` shows. It trains nothing; a `Family` does.

    Args:
        title: for readers.
        figures, tables: what it shows.
        data_sources: names of the data that it can use, with what a figure's foot calls them; the
            first is the usual one.
        choose_data: function of a requested source, or None, to the one to use. By default the
            requested one, else the first, else "" for an exhibit without data.
        name: of its folder; the registry sets it.
    """

    title: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    data_sources: Mapping[str, str] = field(default_factory=dict)
    choose_data: Callable[[str | None], str] | None = None
    name: str = ""

    @property
    def products(self) -> tuple[Product, ...]:
        """Its figures and tables."""
        return (*self.figures, *self.tables)

    def resolve_data(self, requested: str | None = None) -> str:
        """The data source that its runs use.

        Raises:
            UserError: if it does not know the requested one, or has none that can be had.
        """
        if requested is not None and requested not in self.data_sources:
            raise unknown("data", requested, self.data_sources)
        if self.choose_data is not None:
            return self.choose_data(requested)
        return requested or next(iter(self.data_sources), "")


@dataclass(frozen=True, kw_only=True)
class Family(Exhibit):
    """A model family: what it trains and what it shows.

    Args:
        config: class of its run configurations.
        example: values of a typical run, the defaults of `python -m experiments run`.
        searches: of base hyperparameters, by the scale at which they are made and used.
        base_from: where base hyperparameters, which its sweeps hold fixed, come from, by scale; a
            few words for the foot of pictures. `gpu` and `paper` need them: what was found at
            another scale must not pass for their own.
    """

    config: type[RunConfig]
    example: Mapping[str, Any]
    searches: Mapping[Scale, Search] = field(default_factory=dict)
    base_from: Mapping[Scale, str] = field(default_factory=dict)
