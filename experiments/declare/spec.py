"""What an experiment is: run configuration, sweep, measurement, claim, figure, table, search.

Families declare these in their `spec.py`. Nothing here imports torch: a workflow reads the
declarations at every call.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from experiments.declare.schedules import Schedule
from experiments.errors import UserError, unknown

Scale = Literal["smoke", "small", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
Parametrization = Literal["sp", "mup"]
FILE_NAME = re.compile(r"[a-z][a-z0-9_]*")  # what may become the name of a file or folder
# Folders beside those of products.
NO_PRODUCT = ("runs", "groups", "locks", "checkpoints", "reverse")


class RunConfig(BaseModel):
    """Everything that changes the numbers of one training run, and nothing else.

    A field's default is frozen for good: the id leaves out fields at their default, so that a new
    field keeps the ids of older runs, and a changed default would give two meanings to one id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: ClassVar[str]

    data: str = Field(description="where the data come from")
    parametrization: Parametrization = Field("mup", description="scaling rules")
    width: int = Field(gt=0, description="width of the model")
    base_width: int = Field(gt=0, description="width at which µP equals SP")
    log2lr: float = Field(description="base-2 logarithm of the master learning rate")
    seed: int = Field(0, ge=0, description="initial weights and data order")
    steps: int = Field(gt=0, description="optimizer steps")
    batch_size: int = Field(gt=0, description="examples a step")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="update rule")
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's first decay rate")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's second decay rate")
    eps: float = Field(1e-8, ge=0, description="Adam's epsilon")
    momentum: float = Field(0.0, ge=0, lt=1, description="SGD's momentum")
    weight_decay: float = Field(0.0, ge=0, description="weight decay at base width")
    grad_clip: float | None = Field(None, gt=0, description="bound of the gradient's l2 norm")
    schedule: Schedule = Field("constant", description="learning rate over steps")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of products; bfloat16 is autocast, with float32 parameters"
    )

    @classmethod
    def make(cls, **values: Any) -> Self:
        """A validated configuration.

        Raises:
            UserError: naming the key, the value and what is allowed.
        """
        for key in values:
            if key not in cls.model_fields:
                raise unknown(f"key of {cls.family}", key, cls.model_fields)
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            got = "" if first["type"] == "missing" else f" (got {first['input']!r})"
            where = f"{cls.family}: {key}: " if key else f"{cls.family}: "
            raise UserError(f"{where}{first['msg']}{got}") from None

    def replace(self, **changes: Any) -> Self:
        """This configuration with some values changed, validated."""
        return self.make(**{**self.model_dump(), **changes})

    def narrowed(self, width: int) -> Self:
        """The run of a narrower model that behaves as this one: reverse µTransfer.

        Of a run in SP it is one in µP whose base width is the run's own, so that
        width_mult = width / base_width < 1 simulates the wide model; of a run in µP the same at
        another width. All other hyperparameters stay.

        Raises:
            UserError: if `width` is wider than this run.

        Source: Tensor Programs V, Appendix I and Fig. 21 right.
        """
        if width > self.width:
            raise UserError(
                f"{self.family}: narrow: {width} is wider than the run's width, {self.width}; give "
                f"--narrow {self.width} or less, or a larger --width"
            )
        if self.parametrization == "mup":
            return self.replace(width=width)
        return self.replace(parametrization="mup", base_width=self.width, width=width)

    def canonical(self) -> dict[str, Any]:
        """What the id hashes: the values that differ from their default and matter.

        A family drops what its other values make irrelevant.
        """
        fields = type(self).model_fields
        values = {k: v for k, v in self.model_dump().items() if v != fields[k].default}
        if self.parametrization == "sp":
            values.pop("base_width", None)
        return {"family": self.family, **values}

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits, the same on every machine."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> str:
        """A few words for a progress line."""
        return f"{self.parametrization} width {self.width} log2lr {self.log2lr:g} seed {self.seed}"


@dataclass(frozen=True)
class Override:
    """How a scale changes a sweep: values of the base run, axes of the grid, number of seeds."""

    base: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    points: Sequence[Mapping[str, Any]] | None = None
    seeds: int | None = None


def draw_points(space: Mapping[str, Sequence[Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Points of a random search: each value drawn uniformly and by itself."""
    draw = random.Random(seed)
    return [{k: draw.choice(values) for k, values in space.items()} for _ in range(count)]


@dataclass(frozen=True)
class Sweep:
    """A base run and a grid around it. `scales` overrides it; without an entry it stays as it is.

    Args:
        name: unique in its experiment.
        config: class of the run configuration.
        base: values of the base run.
        grid: values by key; the sweep is their product.
        seeds: number of seeds, 0 to seeds - 1.
        scales: overrides by scale.
        points: values that go together, such as those of a random search; at each the whole grid.
    """

    name: str
    config: type[RunConfig]
    base: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]
    seeds: int
    scales: Mapping[Scale, Override] = field(default_factory=dict)
    points: Sequence[Mapping[str, Any]] = ({},)

    def axes(self, scale: Scale) -> dict[str, Sequence[Any]]:
        """The grid at a scale, seeds last."""
        override = self.scales.get(scale, Override())
        grid = {**self.grid, **override.grid}
        seeds = self.seeds if override.seeds is None else override.seeds
        return {**grid, "seed": range(seeds)}

    def runs(self, scale: Scale, data: str) -> tuple[RunConfig, ...]:
        """Every run of the sweep at a scale, on the data source `data`."""
        axes, override = self.axes(scale), self.scales.get(scale, Override())
        base = {**self.base, **override.base, "data": data}
        points = self.points if override.points is None else override.points
        return tuple(
            self.config.make(**{**base, **point, **dict(zip(axes, values, strict=True))})
            for point in points
            for values in itertools.product(*axes.values())
        )


@dataclass(frozen=True)
class Measured:
    """What a claim's function returns.

    Args:
        value: the measured value; NaN where the data do not allow to measure it.
        low, high: its bootstrap interval over seeds, nominally of 95 %, with two seeds hardly more
            than their range; None where a value has none (a count of grid steps).
        note: what a reader needs to know about it, or why it could not be measured.
    """

    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Call:
    """A function with arguments: imported when it is called, so that declaring costs nothing.

    Args:
        function: "module:function".
        arguments: what it gets beside the table.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


Reference = str | Call  # "module:function", or one with arguments


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, measurable, with a threshold that is fixed before any run.

    Args:
        id: unique in the figure.
        statement: in our words.
        source: section or figure of the paper.
        measure: "module:function" of the tidy table of runs to `Measured`.
        relation, threshold: the claim holds if the value stands in this relation to it.
        unit: of the value.
        decided_by: which number is held against the threshold: the value itself, or the end of
            its interval that is less favourable.
    """

    id: str
    statement: str
    source: str
    measure: Reference
    relation: Literal["<=", ">="]
    threshold: float
    unit: str
    decided_by: Literal["value", "interval"] = "value"


@dataclass(frozen=True)
class Measurement:
    """Numbers that a function gives without a sweep, such as a coordinate check of a few steps.

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

    Its numbers come from sweeps or from a measurement; with neither it is a schematic, drawn from
    an empty table.

    Args:
        name: target of the workflow, such as "fig1".
        title, caption, source: for readers; the source says where it stands in `work`.
        work: what is reproduced; empty for what goes beyond it.
        sweeps: what has to be trained.
        follow_up: "module:function" of the sweeps' runs, their tidy table and the scale to further
            runs, which are chosen by what was found: a search's winner at a larger width. They
            are trained when its tables are made.
        measurement: what has to be measured.
        over_steps: whether it is drawn and judged from the losses of every step, a row each,
            instead of a row a run.
        claims: judged at the scales `small` and `paper`.
    """

    name: str
    title: str
    caption: str
    source: str
    work: Literal["Tensor Programs V", "the announcement post", ""] = "Tensor Programs V"
    sweeps: tuple[Sweep, ...] = ()
    follow_up: str = ""
    measurement: Measurement | None = None
    over_steps: bool = False
    claims: tuple[Claim, ...] = ()

    kinds: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if not FILE_NAME.fullmatch(self.name) or self.name in NO_PRODUCT:
            raise ValueError(f"{self.name!r}: a name is letters, digits and _, and no folder's")
        if self.sweeps and self.measurement:
            raise ValueError(f"{self.name}: sweeps or a measurement, not both")
        if self.follow_up and not self.sweeps:
            raise ValueError(f"{self.name}: what follows up needs sweeps")
        if self.claims and self.schematic:
            raise ValueError(f"{self.name}: a schematic has no numbers to claim anything of")

    @property
    def cited(self) -> str:
        """Where it comes from, as a sentence."""
        return f"Source: {self.work}, {self.source}." if self.work else f"Ours: {self.source}."

    @property
    def schematic(self) -> bool:
        """Whether it is drawn without numbers."""
        return not self.sweeps and self.measurement is None

    @property
    def scaled(self) -> bool:
        """Whether the scale changes its numbers."""
        return bool(self.sweeps or (self.measurement and self.measurement.scales))

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of its tidy tables: `curves` is of trainings alone."""
        return ("runs", "curves", "provenance") if self.sweeps else ("runs", "provenance")

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the files that are made of it; a schematic has no numbers for a CSV."""
        return self.kinds if self.schematic else (*self.kinds, "csv")

    @property
    def functions(self) -> tuple[str, ...]:
        """References of the functions that draw and judge it, and that choose its last runs."""
        chosen = (self.follow_up,) if self.follow_up else ()
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

    `animate` is "module:function" of the tidy table to a `matplotlib.animation.FuncAnimation`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("svg", "png", "gif", "html")
    animate: str

    @property
    def functions(self) -> tuple[str, ...]:
        return (self.animate, *super().functions)


@dataclass(frozen=True, kw_only=True)
class Table(Product):
    """A table; `render` is "module:function" of the tidy table to an `experiments.analysis.grid.Grid`."""

    kinds: ClassVar[tuple[str, ...]] = ("md", "tex", "html")
    render: str

    @property
    def functions(self) -> tuple[str, ...]:
        return (self.render, *super().functions)


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
        scales: overrides of `base` by scale.
    """

    config: type[RunConfig]
    base: Mapping[str, Any]
    space: Mapping[str, Sequence[Any]]
    trials: int
    finalists: int
    rates: Sequence[float]
    seeds: int
    draws: int = 0
    scales: Mapping[Scale, Override] = field(default_factory=dict)


def no_data(requested: str | None) -> str:
    """The data source of an exhibit that needs none."""
    return ""


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """What one folder shows. It trains nothing; an `Experiment` does.

    Args:
        name: of its folder.
        title: for readers.
        sources: data sources it can use.
        source: function of a requested one of them (or None) to the one to use.
    """

    name: str
    title: str
    sources: tuple[str, ...] = ()
    source: Callable[[str | None], str] = no_data
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def products(self) -> tuple[Product, ...]:
        """Its figures and tables."""
        return (*self.figures, *self.tables)


@dataclass(frozen=True, kw_only=True)
class Experiment(Exhibit):
    """A model family: what it trains and what it shows.

    Args:
        config: class of its run configurations.
        task: "module:function" that returns the `experiments.train.engine.Task` of a configuration.
        example: values of a typical run, the defaults of `python -m experiments run`.
        cost: function of a configuration to training FLOPs, for grouping and estimates.
        overhead: seconds of a step beside its FLOPs on one core, roughly, for grouping.
        search: of base hyperparameters.
    """

    config: type[RunConfig]
    task: str
    example: Mapping[str, Any]
    cost: Callable[[Any], float]
    overhead: float
    search: Search | None = None


def name_of(reference: Reference) -> str:
    """The "module:function" of a reference."""
    return reference if isinstance(reference, str) else reference.function


def load(reference: Reference) -> Callable[..., Any]:
    """The function of a reference with its arguments, imported when it is needed."""
    module, _, name = name_of(reference).partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function if isinstance(reference, str) else partial(function, **reference.arguments)


def check_scale(scale: str) -> Scale:
    """`scale` itself, or a UserError that lists the scales."""
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    return scale
