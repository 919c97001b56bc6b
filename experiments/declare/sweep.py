"""A base run and a grid around it, overridden by scale."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.declare.config import RunConfig
from experiments.declare.scales import SCALES, Scale


@dataclass(frozen=True)
class Override:
    """How a scale changes a sweep: values of the base run, axes of the grid, points, seeds."""

    base: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    points: Sequence[Mapping[str, Any]] | None = None
    seeds: int | Sequence[int] | None = None


def draw_points(space: Mapping[str, Sequence[Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Points of a random search: each value drawn uniformly and by itself."""
    draw = random.Random(seed)
    return [{k: draw.choice(values) for k, values in space.items()} for _ in range(count)]


@dataclass(frozen=True)
class Sweep:
    """A base run and a grid around it. `scales` overrides it; without an entry it stays as it is.

    Args:
        name: unique in its family.
        config: class of the run configuration.
        base: values of the base run.
        grid: values by key; the sweep is their product.
        seeds: number of seeds, 0 to seeds - 1, or the seeds themselves: a claim that some runs
            suggested is judged by others.
        scales: overrides by scale.
        points: values that go together, such as those of a random search; the whole grid is run at
            each.
    """

    name: str
    config: type[RunConfig]
    base: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]
    seeds: int | Sequence[int]
    scales: Mapping[Scale, Override] = field(default_factory=dict)
    points: Sequence[Mapping[str, Any]] = ({},)
    _made: dict[tuple[Scale, str], tuple[RunConfig, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def by_scale(cls, name: str, config: type[RunConfig], at: Callable[[Scale], Override]) -> Sweep:
        """A sweep whose values each scale has for itself.

        Args:
            name: unique in its family.
            config: class of the run configuration.
            at: function of a scale to its values; those of `paper` are the declaration, which the
                others override.
        """
        paper = at("paper")
        if paper.seeds is None:
            raise ValueError(f"{name}: the scale paper has no number of seeds")
        return cls(
            name=name,
            config=config,
            base=paper.base,
            grid=paper.grid,
            seeds=paper.seeds,
            scales={scale: at(scale) for scale in SCALES if scale != "paper"},
            points=({},) if paper.points is None else paper.points,
        )

    def axes(self, scale: Scale) -> dict[str, Sequence[Any]]:
        """The grid at a scale, seeds last."""
        override = self.scales.get(scale, Override())
        grid = {**self.grid, **override.grid}
        seeds = self.seeds if override.seeds is None else override.seeds
        return {**grid, "seed": range(seeds) if isinstance(seeds, int) else seeds}

    def runs(self, scale: Scale, data: str) -> tuple[RunConfig, ...]:
        """Every run of the sweep at a scale, on the data source `data`; made once."""
        if (scale, data) not in self._made:
            self._made[scale, data] = self._runs(scale, data)
        return self._made[scale, data]

    def _runs(self, scale: Scale, data: str) -> tuple[RunConfig, ...]:
        axes, override = self.axes(scale), self.scales.get(scale, Override())
        base = {**self.base, **override.base, "data": data}
        points = self.points if override.points is None else override.points
        return tuple(
            self.config.make(**{**base, **point, **dict(zip(axes, values, strict=True))})
            for point in points
            for values in itertools.product(*axes.values())
        )
