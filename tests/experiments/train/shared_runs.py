"""What two processes of torchrun do for test_distributed: every case once, in one start.

    torchrun --nproc-per-node 2 -m tests.experiments.train.shared_runs FOLDER

Process 0 writes what it found of each case to FOLDER/found.pt.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor

import mupkit
from experiments.cli import train as cli
from experiments.cli.main import app
from experiments.declare.config import RunConfig
from experiments.declare.way import Place, Way, place
from experiments.errors import UserError
from experiments.train import checkpoint as checkpoint_module
from experiments.train import distributed, engine
from experiments.train.checkpoint import Checkpoint
from experiments.train.distributed import Team, joined
from experiments.train.parts import Part
from experiments.train.process import Machine
from tests.tiny_runs import tiny_run

MACHINE = Machine("cpu", 1, "highest")
STEPS, WORDS, BROKEN = 6, 12, 2
OPTIONS = "--width 32 --base-width 16 --steps 3 --batch-size 4 --seq-len 8 --vocab-size 100"
COMMAND = ["run", "transformer_wikitext2", *OPTIONS.split(), "--parallel", "fsdp2"]
ORIGIN = {"id": "a"}
WAYS = {
    "ddp": Way("ddp", 2),
    "ddp, accumulated": Way("ddp", 2, 2, recompute=True),
    "fsdp2": Way("fsdp2", 2),
    "fsdp2, accumulated": Way("fsdp2", 2, 2, recompute=True),
}
SGD = {"optimizer": "sgd", "momentum": 0.9, "log2lr": -3.0, "weight_decay": 0.01}
KINDS = {
    "adam": {"weight_decay": 0.1, "optimizer": "adamw", "schedule": "linear", "warmup": 2},
    "sgd": SGD,
    "clipped": {**SGD, "grad_clip": 0.05},
    "float16": {"precision": "float16"},
    "bfloat16": {"precision": "bfloat16"},
    "diverging": {**SGD, "log2lr": 8.0, "momentum": 0.0},
    "spoiled": {**SGD, "steps": BROKEN + 1},
}

CASES = [(way, kind) for way in ("ddp", "fsdp2, accumulated") for kind in KINDS]
CASES += [(way, kind) for way in ("ddp, accumulated", "fsdp2") for kind in ("adam", "clipped")]


class Block(nn.Module):
    """A residual block with dropout."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return x + self.dropout(self.down(F.gelu(self.up(x))))


class Net(nn.Module):
    """Words to words: an embedding that the readout shares, blocks, a buffer, factors of rates."""

    def __init__(self, width: int, dropout: float = 0.0):
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(2))
        self.readout = mupkit.MuSharedReadout(self.embed.weight, bias=False)
        self.register_buffer("offset", torch.full((width,), 0.5), persistent=False)

    def forward(self, tokens):
        x = self.embed(tokens) + self.offset
        for block in self.blocks:
            x = block(x)
        return self.readout(x)

    def adam_factor(self, name: str) -> float:
        return 0.5 if name.startswith("blocks.") else 1.0


class Weighted:
    """Next words of rows (B, L); words 0 count for nothing, so that parts have unequal counts."""

    fingerprint = "none"
    epoch = 4
    dropout = 0.0

    def __init__(self, config: RunConfig):
        self.config = config

    def build(self) -> nn.Module:
        torch.set_float32_matmul_precision("highest")
        make = partial(Net, dropout=self.dropout)
        self.model = mupkit.parametrize(make(30), make(10), make(20), rules=mupkit.TABLE_3)
        return self.model

    def batches(self, device: str) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(self.config.seed)
        while True:
            words = torch.randint(WORDS, (8, 5), generator=generator)
            words[:5] *= torch.rand(words[:5].shape, generator=generator) < 0.5
            yield words

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return self.part(model, batch, Part(0, 1))

    def part(self, model: nn.Module, batch: torch.Tensor, part: Part) -> torch.Tensor:
        rows = part.rows(batch)
        losses = F.cross_entropy(
            model(rows[:, :-1]).flatten(0, 1),
            rows[:, 1:].flatten(),
            ignore_index=0,
            reduction="sum",
        )
        return losses / (batch[:, 1:] != 0).sum()

    def validate(self, model: nn.Module) -> float:
        return float(self.evaluate(model)["mean"])

    def evaluate(self, model: nn.Module) -> dict[str, float | str]:
        assert not model.training and not torch.is_grad_enabled()
        assert not any(isinstance(p, DTensor) for p in model.parameters())
        return {"mean": model(torch.arange(WORDS)).float().logsumexp(-1).mean().item(), "text": "µ"}


class Dropping(Weighted):
    """The same with dropout."""

    dropout = 0.3


class Overflow(torch.autograd.Function):
    """A number whose gradient is infinite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.inf


class Overflowing(Weighted):
    """The gradient of one step overflows, of the last part of its batch alone."""

    def batches(self, device):
        for number, batch in enumerate(super().batches(device)):
            self.number = number
            yield batch

    def part(self, model, batch, part):
        share = super().part(model, batch, part)
        broken = self.number == BROKEN and part.index + 1 == part.parts
        return Overflow.apply(share) if broken else share


class BatchNormed(Weighted):
    """A model whose normalization reads the whole batch."""

    def build(self) -> nn.Module:
        return mupkit.parametrize(nn.Sequential(nn.BatchNorm1d(4)), None)


class Undivided:
    """A task without parts."""

    fingerprint = "none"

    def __init__(self, config: RunConfig):
        self.build, self.config = Weighted(config).build, config


def config_of(kind: str) -> RunConfig:
    return tiny_run(**{"steps": STEPS, "log2lr": -5.0, **KINDS[kind]})


def task_of(kind: str, config: RunConfig) -> Weighted:
    return (Overflowing if kind in ("float16", "spoiled") else Weighted)(config)


class StopError(Exception):
    """What an interruption looks like from inside."""


def stop(at: int):
    def on_step(step: int, loss: float) -> None:
        if step == at:
            raise StopError

    return on_step


def small_scale(config: RunConfig, machine: Machine) -> torch.amp.GradScaler:
    """A scale at which nothing overflows by itself."""
    return torch.amp.GradScaler("cpu", init_scale=64.0, enabled=config.precision == "float16")


class Watched:
    """`hold`, and what was held."""

    def __init__(self, hold=engine.Held):
        self.hold = hold

    def __call__(self, *args) -> engine.Held:
        self.held = self.hold(*args)
        return self.held

    def found(self, result: engine.RunResult) -> dict:
        """All that should be the same however it is computed."""
        held = self.held
        names = {id(p): name for name, p in held.model.named_parameters()}
        groups = [
            {names[id(p)]: (group["lr"], group["weight_decay"], group.get("eps")) for p in members}
            for group in held.optimizer.param_groups
            for members in [group["params"]]
        ]
        return {
            "losses": torch.tensor(result.losses, dtype=torch.float64),
            "diverged": result.diverged_step,
            "final": result.final_loss,
            "metrics": dict(result.metrics),
            "valid": result.valid_losses,
            "groups": {name: values for group in groups for name, values in group.items()},
            "weights": {
                name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
                for name, p in held.model.named_parameters()
            },
            "scale": held.scaler.get_scale(),
        }


def trained(config: RunConfig, task, hold=engine.Held, checkpoint=None) -> dict:
    watched = Watched(hold)
    return watched.found(engine.train(config, task, MACHINE, None, checkpoint, watched))


def interrupted(config: RunConfig, path: Path, at: int, way: Way, hold=engine.Held) -> None:
    """Train until the loss of step `at` is known; the checkpoint is that of the step before."""
    kept = Checkpoint(path, ORIGIN, way)
    with suppress(StopError):
        engine.train(config, Weighted(config), MACHINE, stop(at), kept, hold)


def resumed(folder: Path, ways: list[Way], rank: int, kind: str) -> dict:
    """A run that goes on in another way after steps 2 and 4."""
    config, path = config_of(kind), folder / f"{kind}.safetensors"
    hold = [engine.Held if way == Way() else Team(way, rank).hold for way in ways]
    for number, at in enumerate((2, 4)):
        if ways[number] != Way() or rank == 0:
            interrupted(config, path, at, ways[number], hold[number])
    kept = Checkpoint(path, ORIGIN, ways[2])
    if ways[2] == Way() and rank > 0:
        return {}
    found = trained(config, Weighted(config), hold[2], kept)
    return {**found, "stretches": [(s.from_step, s.parallel, s.processes) for s in kept.stretches]}


RESUMED = {
    "one, fsdp2, ddp": [Way(), WAYS["fsdp2"], WAYS["ddp"]],
    "fsdp2, one, fsdp2": [WAYS["fsdp2"], Way(), WAYS["fsdp2"]],
    "ddp, fsdp2, one": [WAYS["ddp"], WAYS["fsdp2"], Way()],
}


def refused(make) -> str:
    try:
        make()
    except UserError as error:
        return str(error)
    return ""


def commanded(folder: Path, rank: int) -> tuple[str, str]:
    """What the command prints that trains a run and then finds it trained, to stdout and stderr."""

    @contextmanager
    def already_joined(way: Way, here: Place) -> Iterator[Team]:
        yield Team(way, here.rank)

    printed, noted = io.StringIO(), io.StringIO()
    distributed.joined = already_joined
    cli.results_dir = lambda scale: folder
    cli.console.file = printed
    with redirect_stderr(noted):
        for words in (COMMAND, [*COMMAND, "--parallel", "ddp"]):
            app(words, standalone_mode=False)
    return printed.getvalue(), noted.getvalue()


def main(folder: Path) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    here = place()
    engine.loss_scaler = small_scale
    found = {}
    with joined(WAYS["ddp"], here) as first:
        rank = first.rank
        for name, kind in CASES:
            config, hold = config_of(kind), Team(WAYS[name], rank).hold
            found[name, kind] = trained(config, task_of(kind, config), hold)
        config = config_of("adam")
        found["dropout"] = trained(config, Dropping(config), Team(WAYS["ddp"], rank).hold)
        checkpoint_module.SECONDS, checkpoint_module.SHARE = 0.0, 1e9
        for name, ways in RESUMED.items():
            for kind in ("adam", "sgd"):
                (folder / name).mkdir(exist_ok=True)
                found[name, kind] = resumed(folder / name, ways, rank, kind)
                first.any(False)  # process 0 may have gone on by itself
        held = Team(WAYS["fsdp2"], rank).hold(config, Weighted(config), MACHINE)
        if rank == 1:
            with torch.no_grad():
                held.model.embed.weight.to_local().fill_(torch.nan)
        found["shard spoiled"] = held.spoiled()
        for task in (BatchNormed, Undivided):
            hold = Team(WAYS["fsdp2"], rank).hold
            found[task.__name__] = refused(lambda: hold(config, task(config), MACHINE))  # noqa: B023
        others = {"torch_version": f"2.{rank}"}
        found["unlike"] = refused(lambda: first.agreed(lambda: (None, others)))

        def fail() -> tuple[None, dict]:
            if rank == 1:
                raise UserError("no data here")
            return None, {}

        found["unable"] = refused(lambda: first.agreed(fail))
        found["printed"] = first.gather(json.dumps(commanded(folder, rank)))
        found["told"] = first.tell(f"µ {rank}"), first.gather(f"{rank}" * (rank + 1))
    if rank == 0:
        torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
