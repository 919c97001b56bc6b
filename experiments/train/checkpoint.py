"""The state of an unfinished run on disk, so that an interruption costs a minute of it and no more.

There is one safetensors file per run. It holds parameters, buffers, the optimizer's tensors and the
states of torch's generators; everything else is JSON in its header. It holds no pickle.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from experiments.declare.way import ALONE, Stretch, Way, going_on
from experiments.errors import UserError
from experiments.files import atomic_path, irregular, parse_json, remove_unheld, temporaries
from experiments.messages import note

SECONDS = 60.0  # of training from one checkpoint to the next
SHARE = 0.05  # largest share of the time that writing them may take
METADATA = "mupkit.checkpoint"
NO_SCALER: Mapping[str, float] = {}  # of a loss that is not scaled


class _ForeignError(Exception):
    """The checkpoint is not of this run, or not whole."""


Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class _Header:
    """What the file's header says."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    origin: dict[str, Any]
    step: Annotated[int, Field(gt=0)]
    losses: list[Finite]
    valid_losses: dict[str, Finite]
    seconds: Seconds
    groups: list[dict[str, Any]]
    scalars: dict[str, dict[str, Any]]
    digest: str
    scaler: dict[str, int | Finite] = field(default_factory=dict)
    stretches: list[Stretch] = field(default_factory=list)


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on.

    Attributes:
        losses: of the steps that were done; their number is the position in the schedule and in
            the data, too.
        seconds: that they took.
        generators: states of torch's generators by device.
        valid_losses: on held-out data, by the step after which each was measured.
        scaler: state of what scales the loss, if that is scaled.
    """

    losses: list[float]
    seconds: float
    generators: dict[str, Tensor]
    valid_losses: dict[int, float]
    scaler: dict[str, float] = field(default_factory=dict)

    def restore_generators(self) -> None:
        """Let torch's generators go on where they were."""
        torch.set_rng_state(self.generators["cpu"])
        if "cuda" in self.generators:
            torch.cuda.set_rng_state(self.generators["cuda"])


class Checkpoint:
    """The checkpoint of one run.

    A run shorter than `SECONDS` never writes one.

    Args:
        path: of its file; the process that trains the run holds its lock.
        origin: what the run's bits depend on: its id, the code, the machine. A file of another
            origin is not used.
        way: how this training computes its steps. A file of another way is used.

    Attributes:
        stretches: how the run's steps were computed, as `declare.way.going_on` says it.
    """

    def __init__(self, path: Path, origin: Mapping[str, Any], way: Way = ALONE):
        self.path = path
        self.origin = dict(origin)
        self.way = way
        self.stretches = going_on((), way, 0)
        self._due = time.monotonic() + SECONDS

    def hurry(self) -> None:
        """Let the next `keep` write."""
        self._due = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to write it."""
        return time.monotonic() >= self._due

    def keep(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        losses: Sequence[float],
        seconds: float,
        valid_losses: Mapping[int, float],
        scaler: Mapping[str, float] = NO_SCALER,
    ) -> None:
        """Write the state after a step if that is due; if the disk refuses, the run goes on."""
        if not self.due():
            return
        start = time.monotonic()
        try:
            self._write(model, optimizer, losses, seconds, valid_losses, scaler)
        except (UserError, SafetensorError) as error:
            note(f"no checkpoint, training goes on: {error}")
        end = time.monotonic()
        self._due = end + max(SECONDS, (end - start) / SHARE)

    def restore(self, model: nn.Module, optimizer: Optimizer, steps: int) -> Resumed | None:
        """Put the state of the file, if there is one, into a newly built model and optimizer.

        A file that is damaged or foreign, or whose state no training of this run can have had, is
        named on stderr and dropped, and nothing is changed.

        Args:
            model, optimizer: newly built.
            steps: of the whole run.

        Raises:
            UserError: if something else than a regular file is there.
        """
        if not os.path.lexists(self.path):
            return None
        if kind := irregular(self.path):
            raise UserError(f"{self.path}: {kind} where a checkpoint belongs; move it away")
        try:
            tensors, meta = _read(self.path, self.origin)
            _check_fit(tensors, meta, model, optimizer)
            _check_position(meta, steps)
            _check_state(tensors, meta, model, optimizer)
        except Exception as error:  # whatever a damaged file makes the reader raise
            note(f"unusable checkpoint, the run starts anew: {self.path}: {_line(error)}")
            self.remove()
            return None
        with torch.no_grad():
            for name, tensor in _model_tensors(model).items():
                tensor.copy_(tensors[name])
        _load_optimizer(optimizer, tensors, meta)
        generators = {
            name.removeprefix("generator."): tensor
            for name, tensor in tensors.items()
            if name.startswith("generator.")
        }
        note(f"run {meta['origin'].get('id')}: goes on after {len(meta['losses'])} steps")
        before = [Stretch(**stretch) for stretch in meta["stretches"]]
        self.stretches = going_on(before, self.way, meta["step"])
        valid_losses = {int(step): loss for step, loss in meta["valid_losses"].items()}
        return Resumed(meta["losses"], meta["seconds"], generators, valid_losses, meta["scaler"])

    def remove(self) -> None:
        """Drop the file and its temporary files, which a killed write may have left."""
        self.path.unlink(missing_ok=True)
        for left in temporaries(self.path.parent, self.path.name):
            remove_unheld(left)

    def _write(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        losses: Sequence[float],
        seconds: float,
        valid_losses: Mapping[int, float],
        scaler: Mapping[str, float],
    ) -> None:
        tensors, scalars = _optimizer_state(optimizer)
        tensors |= _model_tensors(model)
        tensors["generator.cpu"] = torch.get_rng_state()
        if any(t.is_cuda for t in tensors.values()):
            tensors["generator.cuda"] = torch.cuda.get_rng_state()
        # Copies: safetensors takes neither strides nor tensors that share memory.
        tensors = {
            name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, t in tensors.items()
        }
        meta = {
            "origin": self.origin,
            "step": len(losses),
            "losses": list(losses),
            "valid_losses": {str(step): loss for step, loss in valid_losses.items()},
            "seconds": seconds,
            "groups": _groups(optimizer),
            "scalars": scalars,
            "scaler": dict(scaler),
            "stretches": [asdict(stretch) for stretch in self.stretches],
        }
        meta["digest"] = _digest(tensors, meta)
        with atomic_path(self.path) as temporary:
            save_file(tensors, temporary, {METADATA: json.dumps(meta)})


def _read(path: Path, ours: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a whole file; if not `ours`, then before the tensors are."""
    with safe_open(path, framework="pt") as file:
        header = parse_json((file.metadata() or {})[METADATA], _Header, "its header")
        meta = asdict(header)
        for key in {**ours, **meta["origin"]} if ours else ():
            own, theirs = ours.get(key), meta["origin"].get(key)
            if own != theirs:
                raise _ForeignError(f"its {key} is {theirs}, not {own}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    digest = meta.pop("digest")
    if digest != _digest(tensors, meta):
        raise _ForeignError("its content does not match its checksum")
    return tensors, meta


def damage(path: Path) -> str:
    """What is wrong with a regular file that should be a checkpoint, of whatever run; "" if not."""
    try:
        _read(path, {})
    except Exception as error:  # whatever a damaged file makes the reader raise
        return _line(error)
    return ""


def _line(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, persistent or not; tied ones once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {f"model.{name}": tensor for name, tensor in named}


def _optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Tensors of the state by "optimizer.<parameter>.<key>", and its other values."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, state in optimizer.state_dict()["state"].items():
        scalars[str(index)] = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
    return tensors, scalars


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The optimizer's groups as JSON has them."""
    groups: list[dict[str, Any]] = json.loads(
        json.dumps(optimizer.state_dict()["param_groups"], default=str)
    )
    return groups


def _check_fit(
    tensors: dict[str, Tensor], meta: dict[str, Any], model: nn.Module, optimizer: Optimizer
) -> None:
    def rigid(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in group.items() if k != "lr"} for group in groups]

    expected = _model_tensors(model)
    found = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    if {n: (t.shape, t.dtype) for n, t in expected.items()} != {
        n: (t.shape, t.dtype) for n, t in found.items()
    }:
        raise _ForeignError("its model is a different one")
    if rigid(meta["groups"]) != rigid(_groups(optimizer)):
        raise _ForeignError("its optimizer is a different one")
    state = {*tensors} - {*found} - {"generator.cpu", "generator.cuda"}
    if state != {*_expected_of(meta, optimizer)}:
        raise _ForeignError("its optimizer's state is not that of its parameters")


def _check_position(meta: dict[str, Any], steps: int) -> None:
    """Refuse losses of other steps than those that were done, or of more than a run has left."""
    done = meta["step"]
    if done != len(meta["losses"]) or done >= steps:
        raise _ForeignError("its losses are not those of its steps")
    if meta["scaler"] and {*meta["scaler"]} != {*GradScaler("cpu").state_dict()}:
        raise _ForeignError("its scale of the loss is none of torch's")
    if any(stretch["from_step"] >= done for stretch in meta["stretches"]):
        raise _ForeignError("its ways of computing are not those of its steps")
    if any(step not in map(str, range(done)) for step in meta["valid_losses"]):
        raise _ForeignError("its losses on held-out data are not those of its steps")


def _check_state(
    tensors: dict[str, Tensor], meta: dict[str, Any], model: nn.Module, optimizer: Optimizer
) -> None:
    """Refuse numbers that no training has: not finite, of another form, of another step."""
    expected = _expected_of(meta, optimizer)
    for name, like in expected.items():
        tensor = tensors[name]
        if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            raise _ForeignError(f"{name} has another shape or type")
        if name.endswith(".step"):
            most, least = meta["step"], 0 if meta["scaler"] else meta["step"]
            if not least <= tensor.item() <= most:  # a scaled loss leaves out what overflows
                raise _ForeignError(f"{name} is not the number of its steps")
        if name.endswith(".exp_avg_sq") and bool((tensor < 0).any()):
            raise _ForeignError(f"{name} has a negative square")
    fresh = _model_tensors(model)  # a mask has infinities
    for name, tensor in tensors.items():
        wanted = fresh[name].isfinite().cpu() if name in fresh else True
        if tensor.is_floating_point() and bool((tensor.isfinite() != wanted).any()):
            raise _ForeignError(f"{name} is not finite")
    indices = {name.split(".")[1] for name in expected}
    if {*meta["scalars"]} != indices or any(
        value is not None for state in meta["scalars"].values() for value in state.values()
    ):
        raise _ForeignError("its optimizer has numbers that ours does not have")
    for group in meta["groups"]:
        rate = group.get("lr")
        if not isinstance(rate, float) or not 0 <= rate < math.inf:
            raise _ForeignError(f"its learning rate is {rate}")
    torch.Generator().set_state(tensors["generator.cpu"])


def expected_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """A tensor like each of an optimizer's state after a step, by its name in the file."""
    found: dict[str, Tensor] = {}
    for own, group in zip(
        optimizer.param_groups, optimizer.state_dict()["param_groups"], strict=True
    ):
        for index, p in zip(group["params"], own["params"], strict=True):
            if not isinstance(optimizer, torch.optim.SGD):
                state = {"step": torch.tensor(0.0), "exp_avg": p, "exp_avg_sq": p}
            else:
                state = {"momentum_buffer": p} if group["momentum"] else {}
            found |= {f"optimizer.{index}.{key}": like for key, like in state.items()}
    return found


def _expected_of(meta: dict[str, Any], optimizer: Optimizer) -> dict[str, Tensor]:
    """The same for a file: none if every update so far was left out, as a scaled loss may do it."""
    return expected_state(optimizer) if meta["scalars"] or not meta["scaler"] else {}


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in meta["scalars"].items()}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = (
                tensor.clone()
            )  # into memory that is torch's own
    # The groups are the new optimizer's own: the file's differ in the rates of the last step alone,
    # but JSON makes lists of their tuples.
    groups = [
        {**own, "lr": saved["lr"]}
        for own, saved in zip(optimizer.state_dict()["param_groups"], meta["groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _digest(tensors: dict[str, Tensor], meta: dict[str, Any]) -> str:
    later = ("scaler", "stretches")  # older files have neither of them
    said = {k: v for k, v in meta.items() if v or k not in later}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
