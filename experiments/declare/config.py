"""Everything that changes the numbers of one training run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from experiments.declare.references import Reference
from experiments.declare.schedules import Schedule
from experiments.errors import UserError, unknown

Parametrization = Literal["sp", "mup"]
LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 1e30  # torch's seeds have 32 bits, its float32 ends at 3e38
LARGEST_DIM = 2**20  # the product of three is a size that torch can count
LARGEST_LOG2 = 100.0
SHOWN = 40  # characters of a refused value
OF_MODEL = frozenset(
    {
        *("parametrization", "log2lr", "seed", "optimizer", "momentum"),
        *("beta1", "beta2", "eps", "weight_decay", "grad_clip"),
    }
)
"""Keys on which neither a model's shapes nor its batches depend, but for the seed of these."""


class IdleKeyError(UserError):
    """A key of a run that changes nothing with its other values."""

    def __init__(self, family: str, key: str, reason: str):
        super().__init__(f"{family}: {key}: changes nothing with {reason}; leave it out")
        self.key = key


class RunConfig(BaseModel):
    """Everything that changes the numbers of one training run, and nothing else.

    A field's default is frozen for good: the id leaves out fields at their default, so that a new
    field keeps the ids of older runs, and a changed default would give two meanings to one id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    family: ClassVar[str]
    """The folder of `families/` in which the class is declared."""
    task: ClassVar[str]
    """"module:function" of a configuration to its `experiments.train.engine.Task`."""
    overhead: ClassVar[float] = 0.01
    """Seconds of a step on one core beside its FLOPs, roughly. Jobs are balanced by it."""
    counts: ClassVar[Literal["examples", "tokens"]] = "examples"
    """What `batch_size` counts; a batch of tokens has any number of examples."""
    tokens: ClassVar[str] = "words"
    """What its vocabulary consists of, if it has one, for the foot of a picture."""

    of_model: ClassVar[frozenset[str] | None] = None
    """Keys that change a model's numbers and neither its shapes nor its batches, beside those that
    all runs have (`OF_MODEL`): runs that differ in these alone may be trained together. None: the
    family's runs never are."""

    layer_norm: ClassVar[Literal["pre", "post", ""]] = ""
    """Where its models normalize, for the head of a picture, unless its runs have a key `norm`."""

    measures: ClassVar[tuple[str, ...]] = ()
    """Keys that say what is measured of a model at the end of its run, beside what always is."""

    idle_in_sweeps: ClassVar[frozenset[str]] = frozenset()
    """Idle keys that declared runs have, so that their ids are frozen with them."""

    data: str = Field(description="where the data come from")
    parametrization: Parametrization = Field("mup", description="scaling rules")
    width: int = Field(gt=0, le=LARGEST_DIM, description="width of the model")
    base_width: int = Field(gt=0, le=LARGEST_DIM, description="width at which µP equals SP")
    log2lr: float = Field(
        ge=-LARGEST_LOG2,
        le=LARGEST_LOG2,
        description="base-2 logarithm of the master learning rate",
    )
    seed: int = Field(0, ge=0, description="initial weights and data order")
    steps: int = Field(gt=0, description="optimizer steps")
    batch_size: int = Field(gt=0, description="examples a step")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="update rule")
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's first decay rate")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's second decay rate")
    eps: float = Field(1e-8, ge=0, description="Adam's epsilon")
    momentum: float = Field(0.0, ge=0, lt=1, description="SGD's momentum")
    weight_decay: float = Field(
        0.0, ge=0, description="weight decay at base width; with adam part of the gradient"
    )
    grad_clip: float | None = Field(None, gt=0, description="bound of the gradient's l2 norm")
    schedule: Schedule = Field("constant", description="learning rate over steps")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = Field(
        "float32",
        description="of products; bfloat16 and float16 are autocast, with float32 parameters, and "
        "float16 scales its loss; tf32 is a GPU's",
    )

    @field_validator("*")
    @classmethod
    def _has_a_size_to_compute_with(cls, value: Any) -> Any:
        bound = LARGEST_INT if isinstance(value, int) else LARGEST_FLOAT
        if isinstance(value, int | float) and abs(value) > bound:
            raise ValueError(f"Input should be {bound} or less in magnitude")
        return value

    def _differs_from_default(self, key: str) -> bool:
        return bool(getattr(self, key) != type(self).model_fields[key].default)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "family" not in vars(cls):
            cls.family = cls.__module__.split(".")[-2]

    @classmethod
    def make(cls, **values: Any) -> Self:
        """A validated configuration.

        Raises:
            UserError: naming the key, the value and what is allowed.
        """
        fields = cls.model_fields  # a property of pydantic's, which takes its time
        for key in values:
            if key not in fields:
                raise unknown(f"key of {cls.family}", key, fields)
        try:
            config = cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            message = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
            if not key:  # of several values together; the message names them
                raise UserError(f"{cls.family}: {message}") from None
            got = repr(first["input"])
            got = f"{got[:SHOWN]}..." if len(got) > SHOWN else got
            got = "" if first["type"] == "missing" else f" (got {got})"
            raise UserError(f"{cls.family}: {key}: {message}{got}") from None
        idle = config.idle().keys() - cls.idle_in_sweeps
        if any(map(config._differs_from_default, idle)):
            config.refuse_idle(sorted(config.canonical().keys() & idle))
        return config

    @classmethod
    def of_example(cls, example: Mapping[str, Any], given: Mapping[str, Any]) -> Self:
        """A typical run with a user's values; what these make idle of its own is left out.

        Raises:
            UserError: as `make`; also if a value of the user's changes nothing.
        """
        values = {**example, **given}
        while True:
            try:
                config = cls.make(**values)
                break
            except IdleKeyError as error:
                if error.key in given:
                    raise
                del values[error.key]
        config.refuse_idle(given)
        return config

    def replace(self, **changes: Any) -> Self:
        """This configuration with some values changed, validated."""
        return self.make(**{**self.model_dump(), **changes})

    def idle(self) -> dict[str, str]:
        """Keys that change nothing beside the other values, and which of those is the reason.

        A sweep may have one that `canonical` leaves out, such as `base_width` in SP. Any other that
        is not at its default is refused, since it would train the same run under another id, but
        for `idle_in_sweeps`. A base dimension that equals the model's own is none of them: it says
        that the run is the base itself, which another base would change.
        """
        keys = ("beta1", "beta2", "eps") if self.optimizer == "sgd" else ("momentum",)
        found = dict.fromkeys(keys, f"optimizer={self.optimizer}")
        if self.parametrization == "sp":
            found["base_width"] = "parametrization=sp"
        if self.warmup == 1:
            found["warmup"] = "one step, which has the whole rate anyway"
        if self.steps <= max(1, self.warmup):
            found["schedule"] = "no step after the first and the warm-up"
        return found

    def refuse_idle(self, given: Iterable[str]) -> None:
        """Refuse what a user gave and what changes nothing.

        Args:
            given: keys.

        Raises:
            UserError: naming the key and the reason.
        """
        idle = self.idle()
        for key in given:
            if key in idle and self._differs_from_default(key):
                raise IdleKeyError(self.family, key, idle[key])

    def model(self) -> Reference:
        """What builds its model, without data, to count parameters: "module:function" of the run.

        By default `build` of the module that has its task; a family whose `build` needs more than
        the configuration, or is elsewhere, says so.
        """
        return f"{self.task.partition(':')[0]}:build"

    def weights(self) -> int:
        """Entries of its weight matrices, at least."""
        return self.width**2

    def narrowed(self, width: int) -> Self:
        """The run of a narrower model that behaves as this one: reverse µTransfer.

        A run in SP becomes one in µP whose base width is the run's own, so that
        width_mult = width / base_width < 1 simulates the wide model. A run in µP becomes the same
        run at another width. All other hyperparameters stay.

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
        if self.optimizer == "adamw" and not self.weight_decay:
            del values["optimizer"]  # it is Adam
        return {"family": self.family, **values}

    @cached_property
    def stack_key(self) -> str | None:
        """Equal for runs that may be trained together; None for a run that may not be.

        Whether they really have one structure is seen when their models are built.
        """
        if self.of_model is None or self.precision == "float16":  # each has a scale of its own
            return None
        values = {
            key: value
            for key, value in self.model_dump().items()
            if key not in OF_MODEL | self.of_model and not key.startswith("base_")
        }
        return json.dumps({"family": self.family, **values}, sort_keys=True)

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits, the same on every machine."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def flops(self) -> float:
        """Training FLOPs of the run, roughly. Jobs are balanced by them.

        By default those of one matrix of width x width per example; a family that has other models
        counts its own.
        """
        return 6.0 * self.width**2 * self.batch_size * self.steps

    def ending(self) -> str:
        """What is measured at its end, such as "beam=5": alike in runs of a family that do so."""
        return ", ".join(f"{key}={getattr(self, key)}" for key in self.measures)

    def describe(self) -> str:
        """A few words for a progress line."""
        return f"{self.parametrization} width {self.width} log2lr {self.log2lr:g} seed {self.seed}"
