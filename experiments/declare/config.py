"""Everything that changes the numbers of one training run."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from experiments.declare.schedules import Schedule
from experiments.errors import UserError, unknown

Parametrization = Literal["sp", "mup"]
ADAM, SGD = ("beta1", "beta2", "eps"), ("momentum",)  # keys of one optimizer alone


class RunConfig(BaseModel):
    """Everything that changes the numbers of one training run, and nothing else.

    A field's default is frozen for good: the id leaves out fields at their default, so that a new
    field keeps the ids of older runs, and a changed default would give two meanings to one id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: ClassVar[str]
    """The folder of `families/` in which the class is declared."""
    task: ClassVar[str]
    """"module:function" of a configuration to its `experiments.train.engine.Task`."""
    overhead: ClassVar[float] = 0.01
    """Seconds of a step on one core beside its FLOPs, roughly. Jobs are balanced by it."""
    tokens: ClassVar[str] = "words"
    """What its vocabulary consists of, if it has one, for the foot of a picture."""

    data: str = Field(description="where the data come from")
    parametrization: Parametrization = Field("mup", description="scaling rules")
    width: int = Field(gt=0, description="width of the model")
    base_width: int = Field(gt=0, description="width at which µP equals SP")
    log2lr: float = Field(description="base-2 logarithm of the master learning rate")
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
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of products; bfloat16 is autocast, with float32 parameters"
    )

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
        return {"family": self.family, **values}

    def idle(self, key: str) -> str:
        """Beside which value a key does nothing, such as "optimizer adam"; "" if it counts."""
        if key in (ADAM if self.optimizer == "sgd" else SGD):
            return f"optimizer {self.optimizer}"
        usual = getattr(self, key) == type(self).model_fields[key].default
        dropped = self.parametrization == "sp" and not usual and key not in self.canonical()
        return "parametrization sp" if dropped else ""

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

    def describe(self) -> str:
        """A few words for a progress line."""
        return f"{self.parametrization} width {self.width} log2lr {self.log2lr:g} seed {self.seed}"
