"""How the steps of a run are computed: what changes its numbers by rounding alone, and no id."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from experiments.declare.config import RunConfig
from experiments.errors import UserError, unknown

Parallel = Literal["", "ddp", "fsdp2"]
Count = Annotated[int, Field(gt=0)]
EXAMPLE = "torchrun --nproc-per-node 2 -m experiments run FAMILY --parallel ddp"


@dataclass(frozen=True)
class Way:
    """How a run's steps are computed.

    Attributes:
        parallel: how several processes share the run; "" for one process without a group.
        processes: that share it.
        accumulate: parts of a process's share of a batch, computed one after another.
        recompute: whether activations of blocks are computed again in the backward pass.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    parallel: Parallel = ""
    processes: Count = 1
    accumulate: Count = 1
    recompute: bool = False

    @property
    def parts(self) -> int:
        """Parts of a batch, over all processes."""
        return self.processes * self.accumulate

    def refuse(self, config: RunConfig) -> None:
        """Refuse a run whose batches it cannot divide.

        Raises:
            UserError: naming the batch and the parts.
        """
        if config.counts == "examples" and config.batch_size % self.parts:
            raise UserError(
                f"{config.family}: batch_size: {config.batch_size} examples do not divide into "
                f"{self.parts} equal parts (processes x --accumulate: {self.processes} x "
                f"{self.accumulate}); give a multiple of {self.parts}"
            )


ALONE = Way()


@dataclass(frozen=True)
class Stretch(Way):
    """A way of computing, and the first step that was computed so."""

    from_step: Annotated[int, Field(ge=0)] = 0

    def same_way(self, other: Way) -> bool:
        """Whether another way is the same, whatever its first step."""
        return {**asdict(self), "from_step": 0} == {"from_step": 0, **asdict(other)}


def going_on(stretches: Sequence[Stretch], way: Way, step: int) -> list[Stretch]:
    """The ways of computing a run that goes on at a step; none if one process did it all, plainly.

    Args:
        stretches: before that step.
        way: from that step on.
    """
    before = [*stretches] or [Stretch()]
    if step == 0:
        before = []
    if before and before[-1].same_way(way):
        return [*stretches]
    found = [*before, Stretch(**asdict(way), from_step=step)]
    return [] if found == [Stretch()] else found


def text_of(stretches: Sequence[Stretch]) -> str:
    """Stretches as JSON, for the provenance; "" for none."""
    return json.dumps([asdict(s) for s in stretches], sort_keys=True) if stretches else ""


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that `torchrun` started.

    Attributes:
        rank: its number; 0 alone writes and prints.
        local_rank: its number on its machine.
        processes: of all machines together.
    """

    rank: int
    local_rank: int
    processes: int


def place() -> Place | None:
    """Where this process stands, or None if `torchrun` did not start it.

    Raises:
        UserError: if the environment holds no such numbers.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    if not any(name in os.environ for name in names):
        return None
    found = [os.environ.get(name, "") for name in names]
    if not all(text.isdecimal() for text in found) or int(found[0]) >= int(found[2]):
        said = ", ".join(f"{name}={text!r}" for name, text in zip(names, found, strict=True))
        raise UserError(
            f"{said}: no numbers of a process, which torchrun sets; start it so: {EXAMPLE}"
        )
    return Place(*map(int, found))


def chosen(parallel: str | None, accumulate: int, recompute: bool, place: Place | None) -> Way:
    """The way that a user asked for.

    Args:
        parallel, accumulate, recompute: as the command line has them.
        place: of this process, if `torchrun` started it.

    Raises:
        UserError: if `parallel` and the way in which the process was started do not fit.
    """
    if parallel is None:
        if place is not None and place.processes > 1:
            raise UserError(
                f"torchrun started {place.processes} processes, which would all train the same; "
                "give --parallel ddp or --parallel fsdp2"
            )
        return Way("", 1, accumulate, recompute)
    if parallel not in ("ddp", "fsdp2"):
        raise unknown("--parallel", parallel, ("ddp", "fsdp2"))
    if place is None:
        raise UserError(f"--parallel {parallel} needs processes that torchrun starts: {EXAMPLE}")
    return Way("ddp" if parallel == "ddp" else "fsdp2", place.processes, accumulate, recompute)
