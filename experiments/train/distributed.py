"""One run on several processes that `torchrun` started: DDP, FSDP2, accumulation, recomputation.

The batches are those of one process, in the same order; each process computes its parts of each.
Losses, gradients and the bound of the gradient's norm are those of the whole batch, so that the
result differs from that of one process by rounding alone.

Process 0 has the whole model, too: it is initialized there, read from a checkpoint, written to one,
and measured. So a checkpoint does not depend on the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recomputed

from experiments.declare.config import RunConfig
from experiments.declare.way import Place, Way
from experiments.errors import UserError
from experiments.train import engine
from experiments.train.checkpoint import Checkpoint, Resumed, expected_state
from experiments.train.parts import Divisible, Part
from experiments.train.process import Machine
from mupkit.base_shapes import reattach

PATIENCE = timedelta(days=7)  # of processes that wait for process 0 to measure; torchrun ends them
Found = TypeVar("Found")


@dataclass(frozen=True)
class Team:
    """The processes that share a run, and what they say to each other.

    Every method but `first` is called by all of them, in the same order.

    Attributes:
        way: how they share it.
        rank: number of this process.
    """

    way: Way
    rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there is a group of processes, if only of one."""
        return self.way.parallel != ""

    def sum(self, value: float) -> float:
        """The sum of a value over all processes, the same on all."""
        total = torch.tensor(value, dtype=torch.float64)
        if self.several:
            distributed.all_reduce(total)
        return total.item()

    def any(self, flag: bool) -> bool:
        """Whether it is true on any process."""
        return self.sum(float(flag)) > 0

    def tell(self, text: str) -> str:
        """The text of process 0, on all."""
        return self.gather(text)[0] if self.several else text

    def gather(self, text: str) -> list[str]:
        """The texts of all processes, on all."""
        if not self.several:
            return [text]
        own = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        sizes = [torch.zeros((), dtype=torch.int64) for _ in range(self.way.processes)]
        distributed.all_gather(sizes, torch.tensor(len(own)))
        longest = max(int(size) for size in sizes)
        padded = torch.full((longest,), ord(" "), dtype=torch.uint8)
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(found, padded)
        return [bytes(text.tolist()).decode().strip() for text in found]

    def agreed(self, make: Callable[[], tuple[Found, Mapping[str, Any]]]) -> Found:
        """What each process makes for itself, if all can, and by the same code on equal machines.

        Args:
            make: gives it, and what has to be equal on all.

        Raises:
            UserError: on all, if one cannot, or for what differs.
        """
        found: Found | None = None
        said: Mapping[str, Any] = {}
        try:
            found, said = make()
        except UserError as error:
            said = {"refused": str(error)}
        all_said = [json.loads(text) for text in self.gather(json.dumps(said))]
        for rank, theirs in enumerate(all_said):
            if "refused" in theirs:
                who = "" if rank == 0 else f"process {rank}: "
                raise UserError(f"{who}{theirs['refused']}")
        for rank, theirs in enumerate(all_said):
            for key, value in all_said[0].items():
                if theirs[key] != value:
                    raise UserError(
                        f"{key}: process {rank} has {theirs[key]}, process 0 has {value}; start "
                        "all with the same checkout, environment and data on equal machines"
                    )
        return cast(Found, found)

    def hold(self, config: RunConfig, task: engine.Task, machine: Machine) -> Shared:
        """`engine.Held` of this process."""
        return Shared(config, task, machine, self)


@contextmanager
def joined(way: Way, place: Place | None) -> Iterator[Team]:
    """The processes of a run, joined to a group as long as they share it.

    Args:
        way: how they share it.
        place: of this process, unless it is alone.

    Raises:
        UserError: if a machine has more processes than GPUs.
    """
    if not way.parallel or place is None:
        yield Team(way)
        return
    backend = "gloo"
    if torch.cuda.is_available():
        if place.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"--nproc-per-node: more processes than this machine's {torch.cuda.device_count()} "
                "GPUs; give that many or fewer"
            )
        torch.cuda.set_device(place.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Team(way, place.rank)
    finally:
        distributed.destroy_process_group()


class Shared(engine.Held):
    """A model in training that the processes of a team share.

    With DDP each of them holds all of it, with FSDP2 each its share of every parameter: one unit
    per block (`blocks`), one for the rest.

    Raises:
        UserError: for a model or a task that cannot be shared, naming what is in the way.
    """

    def __init__(self, config: RunConfig, task: engine.Task, machine: Machine, team: Team):
        self.config, self.task, self.machine, self.team = config, task, machine, team
        self.scaler = engine.loss_scaler(config, machine)
        self.whole: nn.Module | None = None  # with FSDP2, on process 0 alone
        sharded = team.way.parallel == "fsdp2"
        with torch.device("meta" if sharded else "cpu"):
            self.model = task.build()
        refuse(self.model, task, team.way, config)
        if team.way.recompute:
            for block in blocks(self.model):
                block.forward = partial(recomputed, block.forward, use_reentrant=False)
        if sharded:
            self._shard()
        else:
            self.model = self.model.to(machine.device)
        # torch's fused SGD takes no sharded tensors.
        fused = not (sharded and config.optimizer == "sgd")
        self.optimizer = engine.make_optimizer(self.model, config, fused)
        self.whole_optimizer = self.optimizer
        if self.whole is not None:
            self.whole_optimizer = engine.make_optimizer(self.whole, config)
        self.called: nn.Module = self.model
        if team.way.parallel == "ddp":
            self.called = DistributedDataParallel(self.model, forward_sync_buffers=False)

    def restore(self, checkpoint: Checkpoint) -> Resumed | None:
        """Go on from a checkpoint that process 0 finds, whatever number of processes wrote it."""
        found = {}
        resumed = None
        if self.team.first:
            whole = self.whole or self.model
            resumed = checkpoint.restore(whole, self.whole_optimizer, self.config.steps)
        if resumed is not None:
            names = ("losses", "seconds", "valid_losses", "scaler")
            found = {name: getattr(resumed, name) for name in names}
        found = json.loads(self.team.tell(json.dumps(found)))
        if not found:
            return None
        if found["scaler"]:
            self.scaler.load_state_dict(found["scaler"])
        self._spread()
        self._spread_optimizer()
        if resumed is not None:
            return resumed
        found["valid_losses"] = {int(step): loss for step, loss in found["valid_losses"].items()}
        return Resumed(**found, generators={"cpu": torch.get_rng_state()})

    def loss(self, batch: Any, step: int) -> float:
        """The mean loss of the whole batch; its gradient is in the parameters."""
        way, total = self.team.way, 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for number in range(way.accumulate):
            part = Part(self.team.rank * way.accumulate + number, way.parts)
            if way.parts > 1:
                torch.manual_seed(seed_of(self.config.seed, step, part.index))
            with self._synchronized(number + 1 == way.accumulate):
                with engine.precision(self.config, self.machine):
                    share = self._part(batch, part)
                # Gradients are averaged over processes, and the batch's is their sum.
                (self.scaler.scale(share) * way.processes).backward()  # type: ignore[no-untyped-call]
            total += share.item()
        return self.team.sum(total)

    def update(self) -> None:
        """Change the parameters by the gradient of the whole batch."""
        engine.apply_gradients(self.model, self.optimizer, self.config.grad_clip, self.scaler)

    def measure(self, function: Callable[[nn.Module], engine.Measured]) -> engine.Measured:
        """What process 0 finds of the whole model; the others wait for it."""
        self._gather()
        found = ""
        if self.team.first:
            whole = (self.whole or self.model).to(self.machine.device)
            with engine.evaluating(whole, self.config, self.machine):
                found = json.dumps(function(whole))
            if self.whole is not None:
                self.whole.to("cpu")
        return cast(engine.Measured, json.loads(self.team.tell(found)))

    def spoiled(self) -> bool:
        """Whether the last update spoiled the model, on whatever process."""
        return self.team.any(super().spoiled())

    def keep(
        self,
        checkpoint: Checkpoint,
        losses: Sequence[float],
        seconds: float,
        valid_losses: Mapping[int, float],
    ) -> None:
        """Let process 0 write the whole state, if that is due by its clock."""
        if not self.team.any(self.team.first and checkpoint.due()):
            return
        self._gather()
        self._gather_optimizer()
        if self.team.first:
            scaler, whole = self.scaler.state_dict(), self.whole or self.model
            checkpoint.keep(whole, self.whole_optimizer, losses, seconds, valid_losses, scaler)

    def _part(self, batch: Any, part: Part) -> Tensor:
        if part.parts == 1:
            return self.task.loss(self.called, batch)
        return cast(Divisible, self.task).part(self.called, batch, part)

    def _synchronized(self, last: bool) -> AbstractContextManager[Any]:
        """DDP averages gradients after the last part; FSDP2 after each, which keeps them small."""
        if isinstance(self.called, DistributedDataParallel) and not last:
            return self.called.no_sync()
        return nullcontext()

    def _shard(self) -> None:
        """Shard the model over all processes, with the values that it has on process 0."""
        if self.team.first:
            torch.manual_seed(self.config.seed)
            self.whole = self.task.build()
        device = self.machine.device
        self.mesh: DeviceMesh = init_device_mesh(device, (self.team.way.processes,))
        # Nothing of ours changes what a model returns in place, which this warns of.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        for module in (*blocks(self.model), self.model):
            fully_shard(module, mesh=self.mesh)
        self.model.to_empty(device=device)
        reattach(self.model)
        self._spread()

    def _shared(self, whole: Tensor | None, like: Tensor) -> Tensor:
        """A tensor of process 0 on all, sharded as `like` if that is.

        Args:
            whole: on process 0.
            like: of its shape.
        """
        if whole is None:
            full = torch.empty(like.shape, dtype=like.dtype, device=self.machine.device)
        else:
            full = whole.detach().to(self.machine.device).contiguous()
        if isinstance(like, DTensor):
            return distribute_tensor(full, like.device_mesh, like.placements)
        distributed.broadcast(full.reshape(-1).view(torch.uint8), 0)
        return full

    @torch.no_grad()
    def _spread(self) -> None:
        """Give all processes the parameters and buffers of process 0."""
        if not self.team.several:
            return
        source = self.whole or (self.model if self.team.first else None)
        values = dict(_tensors(source)) if source is not None else {}
        for name, tensor in _tensors(self.model):
            found = self._shared(values.get(name), tensor)
            _local(tensor).copy_(_local(found))

    def _spread_optimizer(self) -> None:
        """Give all processes the state of process 0's optimizer."""
        if not self.team.several:
            return
        saved = self.whole_optimizer.state_dict()["state"] if self.team.first else {}
        if not self.team.any(bool(saved)):
            return  # no update was made yet
        state: dict[int, dict[str, Tensor]] = {}
        for name, like in expected_state(self.optimizer).items():
            _, index, key = name.split(".", 2)
            value = saved[int(index)][key] if self.team.first else None
            state.setdefault(int(index), {})[key] = self._shared(value, like)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    @torch.no_grad()
    def _gather(self) -> None:
        """With FSDP2, put the parameters of all processes into the whole model of process 0."""
        values = dict(_tensors(self.whole)) if self.whole is not None else {}
        for name, tensor in _tensors(self.model):
            if isinstance(tensor, DTensor):
                full = tensor.full_tensor()
                if name in values:
                    values[name].copy_(full)

    def _gather_optimizer(self) -> None:
        """The same for the optimizer's state."""
        if self.team.way.parallel != "fsdp2":
            return
        saved = self.optimizer.state_dict()
        state = {
            index: {key: self._full(value) for key, value in values.items()}
            for index, values in saved["state"].items()
        }
        if self.team.first:
            groups = self.whole_optimizer.state_dict()["param_groups"]
            for group, ours in zip(groups, saved["param_groups"], strict=True):
                group["lr"] = ours["lr"]
            self.whole_optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _full(self, value: Any) -> Any:
        """A value of an optimizer's state, whole; kept on process 0's CPU alone."""
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if not isinstance(full, Tensor):
            return full
        return full.cpu() if self.team.first else None


def refuse(model: nn.Module, task: engine.Task, way: Way, config: RunConfig) -> None:
    """Refuse what cannot be computed in this way.

    Raises:
        UserError: naming what is in the way.
    """
    family = config.family
    if way.parts > 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise UserError(
            f"{family}: its batch normalization reads the whole batch, which --parallel and "
            "--accumulate divide; train it in one process"
        )
    if way.parts > 1 and not isinstance(task, Divisible):
        raise UserError(
            f"{family}: its task divides no batch (experiments.train.parts.Divisible); leave out "
            "--parallel and --accumulate"
        )
    if way.recompute and not blocks(model):
        raise UserError(f"{family}: its model has no list of blocks; leave out --recompute")


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model: what its lists of modules hold, the inner ones first."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [block for modules in reversed(lists) for block in modules]


def seed_of(seed: int, step: int, part: int) -> int:
    """A seed for what a part of a step's batch draws, whichever process computes it."""
    digest = hashlib.sha256(f"{seed} {step} {part}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
