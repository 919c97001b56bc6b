"""Figures and tables, and where their numbers come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from experiments.declare.claims import Claim
from experiments.declare.config import RunConfig
from experiments.declare.references import Reference, name_of
from experiments.declare.scales import Scale
from experiments.declare.sweep import Sweep

FILE_NAME = re.compile(r"[a-z][a-z0-9_]*")  # what may become the name of a file or folder
NUMBERED = re.compile(r"(?:fig|table)(\d+)(_\w+)?")  # what a work has by number, and variants of it
PAPER: Final = "Tensor Programs V"
POST: Final = "the announcement post"
# Folders beside those of products.
NO_PRODUCT = ("runs", "groups", "locks", "checkpoints", "reverse")


@dataclass(frozen=True)
class Computation:
    """Numbers that a function gives without trainings, such as a coordinate check of a few steps.

    Args:
        function: "module:function" of the settings and the data source ("" where the family has
            none) to the tidy table, a pandas DataFrame; the same settings give the same table.
        settings: what the function is told.
        scales: settings that a scale changes; without an entry they stay as they are.
        reads: patterns of further code, relative to the project, that can change the table.
    """

    function: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[Scale, Mapping[str, Any]] = field(default_factory=dict)
    reads: tuple[str, ...] = ()

    def at(self, scale: Scale) -> dict[str, Any]:
        """The settings at a scale."""
        return {**self.settings, **self.scales.get(scale, {})}


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a figure and a table have in common.

    Its numbers come from sweeps or from a computation; with neither it is a schematic, drawn from
    an empty table.

    Args:
        name: target of the workflow, such as "fig1".
        title, caption, source: for readers; the source says where it stands in `work`.
        work: what is reproduced; empty for what goes beyond it.
        sweeps: what has to be trained.
        follow_up: "module:function" of the sweeps' runs, their tidy table and the scale to further
            runs, which are chosen by what was found: a search's winner at a larger width. They
            are trained when its tables are made.
        computation: what has to be computed.
        over_steps: whether it is drawn and judged from the losses of every step, a row each,
            instead of one row per run.
        claims: judged at all scales but `smoke`.
        exhibit: folder that declares it; the registry sets it.
    """

    name: str
    title: str
    caption: str
    source: str
    work: Literal["Tensor Programs V", "the announcement post", ""] = PAPER
    sweeps: tuple[Sweep, ...] = ()
    follow_up: Reference = ""
    computation: Computation | None = None
    over_steps: bool = False
    claims: tuple[Claim, ...] = ()
    exhibit: str = ""

    kinds: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if not FILE_NAME.fullmatch(self.name) or self.name in NO_PRODUCT:
            raise ValueError(f"{self.name!r}: a name is letters, digits and _, and no folder's")
        if self.sweeps and self.computation:
            raise ValueError(f"{self.name}: sweeps or a computation, not both")
        if self.follow_up and not self.sweeps:
            raise ValueError(f"{self.name}: what follows up needs sweeps")
        if self.claims and self.schematic:
            raise ValueError(f"{self.name}: a schematic has no numbers to claim anything of")

    @property
    def number(self) -> int | None:
        """Its number in the paper, or that of the figure or table that it varies; else None."""
        found = NUMBERED.fullmatch(self.name)
        return int(found[1]) if found and self.work == PAPER else None

    @property
    def label(self) -> str:
        """For readers: "Figure 4", "variant of Figure 9", its place in the post, or "ours"."""
        if self.number is None:
            return f"{self.work}, {self.source}" if self.work else "ours"
        kind = "Table" if self.name.startswith("table") else "Figure"
        own = self.name.removeprefix("fig").removeprefix("table").isdigit()
        return f"{kind} {self.number}" if own else f"variant of {kind} {self.number}"

    @property
    def cited(self) -> str:
        """Where it comes from, as a sentence."""
        return f"Source: {self.work}, {self.source}." if self.work else f"Ours: {self.source}."

    @property
    def schematic(self) -> bool:
        """Whether it is drawn without numbers."""
        return not self.sweeps and self.computation is None

    @property
    def scaled(self) -> bool:
        """Whether the scale changes its numbers."""
        return bool(self.sweeps or (self.computation and self.computation.scales))

    @property
    def tidy_tables(self) -> tuple[str, ...]:
        """Names of its tidy tables: `curves` is of trainings alone."""
        return ("runs", "curves", "provenance") if self.sweeps else ("runs", "provenance")

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the files that are made of it; a schematic has no numbers for a CSV."""
        return self.kinds if self.schematic else (*self.kinds, "csv")

    @property
    def functions(self) -> tuple[str, ...]:
        """References of the functions that draw and judge it, and that choose its last runs."""
        chosen = (name_of(self.follow_up),) if self.follow_up else ()
        return (*chosen, *(name_of(claim.measure) for claim in self.claims))

    def runs(self, scale: Scale, data: str) -> tuple[RunConfig, ...]:
        """The runs of all its sweeps, each once."""
        runs = (run for sweep in self.sweeps for run in sweep.runs(scale, data))
        return tuple({run.id: run for run in runs}.values())


@dataclass(frozen=True, kw_only=True)
class Figure(Product):
    """A figure; `draw` is "module:function" of the tidy table of runs to a Matplotlib figure."""

    kinds: ClassVar[tuple[str, ...]] = ("svg", "png")
    draw: Reference

    @property
    def functions(self) -> tuple[str, ...]:
        return (name_of(self.draw), *super().functions)


@dataclass(frozen=True, kw_only=True)
class Animation(Figure):
    """A figure that moves, too, as a GIF and as a page with a slider that needs nothing else.

    `animate` is "module:function" of the tidy table to `experiments.analysis.animation.Frames`,
    `frames` of the tidy table to the landscapes by the number that changes.
    """

    kinds: ClassVar[tuple[str, ...]] = ("svg", "png", "gif", "html")
    animate: str
    frames: str

    @property
    def functions(self) -> tuple[str, ...]:
        return (self.animate, self.frames, *super().functions)


@dataclass(frozen=True, kw_only=True)
class Table(Product):
    """A table; `render` names a function of the tidy table to a `TextTable` (analysis)."""

    kinds: ClassVar[tuple[str, ...]] = ("md", "tex", "html")
    render: Reference

    @property
    def functions(self) -> tuple[str, ...]:
        return (name_of(self.render), *super().functions)
