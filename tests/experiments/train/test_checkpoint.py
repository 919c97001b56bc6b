"""An interrupted run goes on with the same bits, and never from a file that is not its own."""

import json
import multiprocessing
import os
import signal
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import mupkit
from experiments.declare.way import Stretch
from experiments.runs import training
from experiments.runs.store import Store
from experiments.train import checkpoint as module
from experiments.train import engine
from experiments.train.checkpoint import METADATA, Checkpoint
from experiments.train.process import Machine
from tests.tiny_runs import tiny_run

MACHINE = Machine("cpu", 1, "highest")
ORIGIN = {"id": "a", "code_version": "c"}


class Net(nn.Module):
    """Tied weights, buffers that change, a buffer that no state dict has, and dropout."""

    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.hidden = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.readout = mupkit.MuSharedReadout(self.embed.weight, bias=False)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.calls += 1
        x = F.dropout(self.norm(self.hidden(self.embed(x))).relu(), 0.2)
        return self.readout(x) * (1 + 0.1 * self.calls.sin())


class Noisy:
    """A task that draws from torch's global generator in batches and loss."""

    fingerprint = "none"

    def __init__(self, config):
        self.config = config

    def build(self):
        torch.set_float32_matmul_precision("highest")
        self.model = mupkit.parametrize(Net(32), Net(16), Net(24))
        return self.model

    def batches(self, device):
        generator = torch.Generator().manual_seed(self.config.seed)
        while True:
            noise = torch.randint(20, (16,))
            yield (torch.randint(20, (16,), generator=generator) + noise) % 20

    def loss(self, model, batch):
        return F.cross_entropy(model(batch), (batch * 7) % 20) + 0.01 * torch.rand(())

    epoch = 3

    def validate(self, model):
        return float(model(torch.arange(20)).square().mean())

    def evaluate(self, model):
        return {"mean": float(model(torch.arange(20)).mean())}


class InterruptError(Exception):
    """What an interruption looks like from inside."""


def weights(task) -> dict:
    named = [*task.model.named_parameters(), *task.model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def interrupt(at):
    def on_step(step, loss):
        if step == at:
            raise InterruptError

    return on_step


def interrupted(config, path, at) -> None:
    """Train until the loss of step `at` is known; the checkpoint is that of the step before."""
    with pytest.raises(InterruptError):
        engine.train(config, Noisy(config), MACHINE, interrupt(at), Checkpoint(path, ORIGIN))


@pytest.fixture
def always(monkeypatch):
    """A checkpoint after every step."""
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "SHARE", 1e9)


CASES = {
    "adam": {},
    "adam with clipping and a schedule": {"grad_clip": 0.1, "schedule": "cosine", "warmup": 3},
    "momentum": {"optimizer": "sgd", "momentum": 0.9, "log2lr": -4},
    "momentum with clipping": {"optimizer": "sgd", "momentum": 0.9, "grad_clip": 0.05},
    "sgd": {"optimizer": "sgd", "log2lr": -4},
    "float16": {"optimizer": "sgd", "momentum": 0.9, "log2lr": -4, "precision": "float16"},
    "float16 with adam": {"precision": "float16"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("at", [1, 2, 7, 11])
def test_resumed_is_undisturbed_bit_for_bit(always, tmp_path, capsys, case, at) -> None:
    config = tiny_run(steps=12, **CASES[case])
    task = Noisy(config)
    undisturbed = engine.train(config, task, MACHINE)
    expected = weights(task)
    path = tmp_path / "checkpoints" / "a.safetensors"
    interrupted(config, path, at)
    torch.rand(5)  # whatever else the process does
    task, seen = Noisy(config), []
    resumed = engine.train(
        config, task, MACHINE, lambda *step: seen.append(step), Checkpoint(path, ORIGIN)
    )
    assert resumed.losses == undisturbed.losses
    assert resumed.final_loss == undisturbed.final_loss
    assert len(resumed.valid_losses) == 4
    assert resumed.valid_losses == undisturbed.valid_losses
    assert resumed.seconds > 0
    assert seen == list(enumerate(resumed.losses))
    assert f"goes on after {at} steps" in capsys.readouterr().err
    for name, tensor in weights(task).items():
        assert torch.equal(tensor, expected[name]), name
    assert task.model.readout.weight is task.model.embed.weight


def test_interrupted_again_and_again(always, tmp_path) -> None:
    config = tiny_run(steps=8)
    undisturbed = engine.train(config, Noisy(config), MACHINE)
    path = tmp_path / "a.safetensors"
    for at in (2, 3, 6):
        interrupted(config, path, at)
    resumed = engine.train(config, Noisy(config), MACHINE, None, Checkpoint(path, ORIGIN))
    assert resumed.losses == undisturbed.losses


def _train_and_die(folder, run, at) -> None:
    module.SECONDS, module.SHARE = 0.0, 1e9

    def on_step(step, loss):
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    training.train_runs([run], Store(folder), on_step=on_step)


def test_killed_run_goes_on_in_another_process(tiny, tmp_path, capsys) -> None:
    run = tiny_run(steps=9)
    (undisturbed,) = training.train_runs([run], Store(tmp_path / "undisturbed"))
    context = multiprocessing.get_context("spawn")
    for at in (3, 7):
        worker = context.Process(target=_train_and_die, args=(tmp_path, run, at))
        worker.start()
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        assert training.missing([run], Store(tmp_path)) == [run]
    folder = tmp_path / "checkpoints"
    (folder / f".{run.id}.safetensors.mupkit-12345678.safetensors").write_bytes(
        b"half"
    )  # a killed write
    (folder / ".other.safetensors.mupkit-12345678.safetensors").write_bytes(b"half")
    (record,) = training.train_runs([run], Store(tmp_path))
    assert f"run {run.id}: goes on after 7 steps" in capsys.readouterr().err
    assert record.losses == undisturbed.losses
    assert record.final_loss == undisturbed.final_loss
    assert [p.name for p in folder.iterdir()] == [".other.safetensors.mupkit-12345678.safetensors"]


def test_short_runs_write_no_checkpoint(tiny, tmp_path) -> None:
    training.train_runs([tiny_run()], Store(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_writing_takes_a_bounded_share_of_the_time(tmp_path, monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    written = []

    def write(*args):
        written.append(clock[0])
        clock[0] += 10.0

    kept = Checkpoint(tmp_path / "a", ORIGIN)
    monkeypatch.setattr(kept, "_write", write)
    while clock[0] < 1000:
        clock[0] += 1
        kept.keep(None, None, [], 0.0, {})
    assert written == [60, 270, 480, 690, 900]


def damage_tensor(path) -> None:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
    tensors[WEIGHT][0, 0] += 1
    save_file(tensors, path, meta)


def rewritten(path, change, digest=True) -> None:
    """Write the file again after `change(tensors, meta)`, under a right digest or the old one."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()[METADATA])
    change(tensors, meta)
    if digest:
        meta.pop("digest")
        meta["digest"] = module._digest(tensors, meta)
    save_file(tensors, path, {METADATA: json.dumps(meta)})


def rewrite(digest=True, **changes):
    """A header of other values."""
    return lambda path: rewritten(path, lambda tensors, meta: meta.update(changes), digest)


def forge(name, value):
    """A tensor of other values, or another tensor; None drops it."""

    def change(tensors, meta) -> None:
        found = tensors.pop(name, torch.zeros(2))
        if value is not None:
            other = isinstance(value, torch.Tensor)
            tensors[name] = value if other else torch.full_like(found, value)

    return lambda path: rewritten(path, change)


def forge_groups(key, value):
    """Groups of the optimizer that have another value."""

    def change(tensors, meta) -> None:
        meta["groups"] = [{**group, key: value} for group in meta["groups"]]

    return lambda path: rewritten(path, change)


def forge_scalars(path) -> None:
    """Another number of each parameter, which Adam does not have."""
    rewritten(path, lambda tensors, meta: [s.update(x=1) for s in meta["scalars"].values()])


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


WEIGHT = "model.hidden.weight"
BAD = {
    "empty": (lambda path: path.write_bytes(b""), ""),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-9]), ""),
    "half a header": (lambda path: path.write_bytes(path.read_bytes()[:60]), ""),
    "a flipped bit": (flip, "checksum"),
    "another weight": (damage_tensor, "checksum"),
    "another loss": (rewrite(digest=False, losses=[1.0] * 4), "checksum"),
    "no safetensors": (lambda path: path.write_bytes(b"PAR1" * 100), ""),
    "no metadata": (lambda path: save_file({"a": torch.zeros(2)}, path), METADATA),
    "other code": (rewrite(origin={**ORIGIN, "code_version": "d"}), "code_version is d, not c"),
    "other run": (rewrite(origin={**ORIGIN, "id": "b"}), "id is b, not a"),
    "older origin": (rewrite(origin={"id": "a"}), "code_version is None"),
    "other optimizer": (rewrite(groups=[]), "optimizer is a different one"),
    "another epsilon": (forge_groups("eps", 1.0), "optimizer is a different one"),
    "other step": (rewrite(step=3), "losses are not those of its steps"),
    "as many steps as the run": (rewrite(step=6, losses=[1.0] * 6), "losses"),
    "losses that are text": (rewrite(losses=["1.0"] * 4), "losses"),
    "losses that are not finite": (rewrite(losses=[float("nan")] * 4), "losses"),
    "held-out losses of no step": (rewrite(valid_losses={"9": 1.0}), "held-out"),
    "ways of computing of later steps": (
        rewrite(stretches=[asdict(Stretch(from_step=4))]),
        "ways of comp",
    ),
    "a way of computing of no form": (rewrite(stretches=[{"processes": 0}]), "processes"),
    "half a scale": (rewrite(scaler={"scale": 2.0}), "scale of the loss"),
    "a scale that is not finite": (rewrite(scaler={"scale": float("inf")}), "scale"),
    "negative seconds": (rewrite(seconds=-1.0), "seconds"),
    "no scalars": (rewrite(scalars={}), "its optimizer has numbers"),
    "further scalars": (forge_scalars, "its optimizer has numbers"),
    "foreign scalars": (rewrite(scalars={"x": {}}), "its optimizer has numbers"),
    "scalars of no form": (rewrite(scalars=[1]), "scalars"),
    "an unknown key": (rewrite(news=1), "news"),
    "rates that are not numbers": (forge_groups("lr", float("nan")), "learning rate is nan"),
    "rates without end": (forge_groups("lr", float("inf")), "learning rate is inf"),
    "negative rates": (forge_groups("lr", -0.5), "learning rate is -0.5"),
    "rates of another type": (forge_groups("lr", True), "learning rate is True"),
    "a parameter of another type": (forge(WEIGHT, torch.zeros(32, 32).double()), "model is a diff"),
    "parameters that are not finite": (forge(WEIGHT, float("nan")), "not finite"),
    "no momentum": (forge("optimizer.0.exp_avg", None), "optimizer's state"),
    "state of no parameter": (forge("optimizer.99.exp_avg", 0.0), "optimizer's state"),
    "another momentum": (forge("optimizer.0.exp_avg_sq", -1.0), "negative"),
    "momentum of another shape": (forge("optimizer.0.exp_avg", torch.zeros(3)), "another shape"),
    "momentum of another type": (
        forge("optimizer.0.exp_avg", torch.zeros(20, 32).double()),
        "another shape or type",
    ),
    "more steps of Adam": (forge("optimizer.0.step", 9.0), "number of its steps"),
    "fewer steps of Adam": (forge("optimizer.0.step", 2.0), "number of its steps"),
    "a spoiled generator": (forge("generator.cpu", 255), ""),
    "no generator": (forge("generator.cpu", None), "generator.cpu"),
}


@pytest.fixture(scope="module")
def after_four(tmp_path_factory):
    """The losses of six steps, and the checkpoint after four of them."""
    config, path = tiny_run(steps=6), tmp_path_factory.mktemp("whole") / "a.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SECONDS", 0.0)
        patch.setattr(module, "SHARE", 1e9)
        interrupted(config, path, 4)
    return engine.train(config, Noisy(config), MACHINE).losses, path.read_bytes()


@pytest.mark.parametrize("case", BAD)
def test_damaged_or_foreign_checkpoint_is_named_and_dropped(
    after_four, tmp_path, capsys, case
) -> None:
    config = tiny_run(steps=6)
    undisturbed, whole = after_four
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole)
    spoil, reason = BAD[case]
    spoil(path)
    capsys.readouterr()
    seen = []

    def on_step(step, loss):
        seen.append(path.exists())

    again = engine.train(config, Noisy(config), MACHINE, on_step, Checkpoint(path, ORIGIN))
    assert seen[0] is False
    assert again.losses == undisturbed
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert reason in line


def test_checkpoint_of_another_width_is_foreign(always, tmp_path, capsys) -> None:
    config = tiny_run(steps=6)
    path = tmp_path / "a.safetensors"
    interrupted(config, path, 3)
    small = nn.Linear(3, 3)
    optimizer = torch.optim.Adam(small.parameters())
    before = small.weight.clone()
    assert Checkpoint(path, ORIGIN).restore(small, optimizer, 6) is None
    assert "its model is a different one" in capsys.readouterr().err
    assert torch.equal(small.weight, before)


def test_groups_of_mup_survive(always, tmp_path) -> None:
    config = tiny_run(steps=6, schedule="linear")
    path = tmp_path / "a.safetensors"
    interrupted(config, path, 3)
    task = Noisy(config)
    model = task.build()
    fresh = engine.make_optimizer(model, config)
    optimizer = engine.make_optimizer(model, config)
    assert Checkpoint(path, ORIGIN).restore(model, optimizer, 6) is not None
    assert len({group["lr_mult"] for group in fresh.param_groups}) > 1
    for new, restored in zip(fresh.param_groups, optimizer.param_groups, strict=True):
        assert restored["lr"] == new["lr"] * (1 - 2 / 6)
        assert {**restored, "lr": 0, "params": 0} == {**new, "lr": 0, "params": 0}
        assert all(p is q for p, q in zip(new["params"], restored["params"], strict=True))


def test_older_files_have_no_ways_of_computing(always, tmp_path, capsys) -> None:
    config = tiny_run(steps=4)
    path = tmp_path / "a.safetensors"
    interrupted(config, path, 2)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()[METADATA])
    assert meta.pop("scaler") == {} and meta.pop("stretches") == []
    save_file(tensors, path, {METADATA: json.dumps(meta)})  # the digest is as it was
    assert module.damage(path) == ""
    engine.train(config, Noisy(config), MACHINE, None, Checkpoint(path, ORIGIN))
    assert "goes on after 2 steps" in capsys.readouterr().err


def test_full_disk_does_not_end_the_run(always, tmp_path, capsys, monkeypatch) -> None:
    def full(*args):
        raise OSError(28, "No space left on device")

    config = tiny_run(steps=3)
    undisturbed = engine.train(config, Noisy(config), MACHINE)
    monkeypatch.setattr(module, "save_file", full)
    kept = Checkpoint(tmp_path / "c" / "a.safetensors", ORIGIN)
    assert engine.train(config, Noisy(config), MACHINE, None, kept).losses == undisturbed.losses
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "c").iterdir()) == []


def test_no_pickle_in_the_file(always, tmp_path) -> None:
    config = tiny_run(steps=4)
    path = tmp_path / "a.safetensors"
    interrupted(config, path, 2)
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()[METADATA])
        assert file.get_tensor("generator.cpu").dtype == torch.uint8
    assert meta["step"] == len(meta["losses"]) == 2
    assert meta["origin"] == ORIGIN
