"""DDP and FSDP2 on two processes: the rates and a step of training are those of one process."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import mupkit
from tests.mupkit.kinds import KINDS, LABELS, TOKENS, loss_of, make
from tests.mupkit.models import Tied, by_name

WORLD, STEPS = 2, 3
WRAPPERS = ("DDP", "FSDP2", "FSDP2 of parts", "FSDP2 then parametrize")
REFUSED = ("FSDP2 then parametrize", "table 9")
CASES = [(w, kind) for w in WRAPPERS for kind in KINDS if (w, kind) != REFUSED]


def wrap(wrapper, kind):
    if wrapper == "DDP":
        return DistributedDataParallel(make(kind))
    mesh = init_device_mesh("cpu", (WORLD,))
    build, parametrize = KINDS[kind]
    if wrapper == "FSDP2 then parametrize":
        torch.manual_seed(0)
        return parametrize(fully_shard(build(48), mesh=mesh), build(16))
    model = make(kind)
    if wrapper == "FSDP2 of parts":
        fully_shard(model.hidden if isinstance(model, Tied) else model.attention, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train(model, rank=0, world=1):
    """Outputs, rates by name and parameters after some steps, each process on its share."""
    optimizer = mupkit.MuAdamW(model, lr=0.01, weight_decay=0.1, eps=1e-3)
    found = {option: by_name(model, optimizer, option) for option in ("lr", "weight_decay", "eps")}
    share = len(TOKENS) // world
    tokens = TOKENS[rank * share : (rank + 1) * share]
    labels = LABELS.view(len(TOKENS), -1)[rank * share : (rank + 1) * share].flatten()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, tokens, labels).backward()
        optimizer.step()
    whole = {
        name.removeprefix("module."): (p.full_tensor() if isinstance(p, DTensor) else p).detach()
        for name, p in model.named_parameters()
    }
    with torch.no_grad():
        outputs = model(TOKENS)
    named = {k: {n.removeprefix("module."): v for n, v in d.items()} for k, d in found.items()}
    return {**named, "parameters": whole, "outputs": outputs}


def process(rank, port_file, results):
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{port_file}", rank=rank, world_size=WORLD
    )
    found = {case: train(wrap(*case), rank, WORLD) for case in CASES}
    with pytest.raises(ValueError, match=r"is sharded already .* parametrize the model first"):
        wrap(*REFUSED)
    if rank == 0:
        torch.save(found, results)
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def distributed_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    results = folder / "results.pt"
    multiprocessing.spawn(process, (str(folder / "rendezvous"), str(results)), nprocs=WORLD)
    return torch.load(results, weights_only=True)


@pytest.mark.parametrize(("wrapper", "kind"), CASES)
def test_distributed_training_is_that_of_one_process(distributed_runs, wrapper, kind):
    found, expected = distributed_runs[wrapper, kind], train(make(kind))
    for option in ("lr", "weight_decay", "eps"):
        assert found[option] == expected[option]
    assert found["parameters"].keys() == expected["parameters"].keys()
    for name, p in expected["parameters"].items():
        torch.testing.assert_close(found["parameters"][name], p, rtol=0, atol=1e-6, msg=name)
    torch.testing.assert_close(found["outputs"], expected["outputs"], rtol=0, atol=1e-6)
