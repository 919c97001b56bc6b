"""Runs that are trained together have the numbers of the same runs alone."""

import dataclasses
import itertools
import math
import weakref

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.data import held
from experiments.declare import registry
from experiments.declare.config import OF_MODEL
from experiments.declare.references import load
from experiments.errors import Interrupted
from experiments.families.gpt_proxy import task as gpt_task
from experiments.runs import training
from experiments.train import engine, process, stacked, updates
from experiments.train.checkpoint import Checkpoint

BUILT_IN = {  # families whose data come with the dependencies
    "transformer_wikitext2": {
        "vocab_size": 100,
        "seq_len": 8,
        "batch_size": 4,
        "width": 32,
        "base_width": 16,
        "output_mult": 1.0,
    },
    "mlp_cifar10": {"width": 16, "base_width": 8, "batch_size": 8, "log2lr": -9.0},
    "resnet_cifar10": {"width": 2, "base_width": 1, "images": 64, "batch_size": 8},
    "gpt_proxy": {"vocab_size": 300, "seq_len": 8, "batch_size": 4, "width": 32, "base_width": 16},
}
STEPS = 8
TOLERANCE = 2e-5
"""Of losses, relative: float32 rounds to 6e-8, and a few steps let that grow."""
VARIED = [
    {"seed": 0, "parametrization": "mup"},
    {
        "seed": 1,
        "parametrization": "mup",
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "grad_clip": 0.5,
    },
    {"seed": 0, "parametrization": "sp", "optimizer": "adamw", "eps": 1e-3, "momentum": 0.0},
    {"seed": 2, "optimizer": "sgd", "momentum": 0.5, "grad_clip": 0.01},
    {"seed": 2, "parametrization": "sp", "log2lr": 60.0},
]


def machine(device: str) -> process.Machine:
    return process.Machine(device, 1, "highest")


def configs(name: str, **changes) -> list:
    """Members that differ in all that may differ: also in each multiplier of the family."""
    family = registry.family(name)
    found = []
    for number, varied in enumerate(VARIED):
        values = {**BUILT_IN[name], **varied, "steps": STEPS, **changes}
        for key in family.config.of_model:
            default = family.config.model_fields[key].default
            if isinstance(default, float) and key != "t":
                values[key] = default * 2.0 ** (number - 1)
        typical = {**family.example, "data": family.resolve_data(None)}
        found.append(family.config.of_example({**typical, **values}, {}))
    return found


def together(runs, device: str = "cpu", **options) -> dict:
    members = [stacked.make_member(run, task_of(run), machine(device)) for run in runs]
    assert len({stacked.structure(member) for member in members}) == 1
    found = {}

    def done(member, result) -> None:
        found[member.config.id] = result

    stacked.train_stacked(members, machine(device), done, **options)
    return found


def task_of(run):
    return load(run.task, run.family)(run)


def agree(alone: engine.RunResult, result: engine.RunResult, tolerance: float = TOLERANCE) -> None:
    assert result.diverged_step == alone.diverged_step
    assert result.losses == pytest.approx(alone.losses, rel=tolerance, nan_ok=True)
    numbers = {k: v for k, v in alone.metrics.items() if k != "step_seconds"}
    found = {k: v for k, v in result.metrics.items() if k != "step_seconds"}
    assert found == pytest.approx(numbers, rel=0.02)
    if alone.diverged_step is None:
        assert result.final_loss == pytest.approx(alone.final_loss, rel=tolerance)
    else:
        assert math.isnan(result.final_loss)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path_factory.getbasetemp() / "stacked-cache"))
    monkeypatch.setattr(gpt_task, "VALIDATED", 256)


@pytest.mark.parametrize("name", BUILT_IN)
def test_members_are_as_if_alone(name, monkeypatch) -> None:
    """Also with the diverging one, after which the others are stacked anew."""
    monkeypatch.setattr(stacked, "FETCHED", 3)
    runs = configs(name)
    assert len({run.stack_key for run in runs}) == 1
    found = together(runs)
    results = [engine.train(run, task_of(run), machine("cpu")) for run in runs]
    for run, alone in zip(runs, results, strict=True):
        agree(alone, found[run.id])
    assert [r.diverged_step is not None for r in results] == [False] * 4 + [True]


def eager(step) -> stacked.Recorded:
    """In place of a CUDA graph, with the same promises: the same tensors at each replay."""
    losses = step().clone()

    def replay() -> None:
        losses.copy_(step())

    for _ in range(stacked.WARM_UP):
        replay()
    return replay, losses


@pytest.mark.parametrize("name", ["mlp_cifar10", "resnet_cifar10"])
def test_a_recorded_step_keeps_the_numbers(name, monkeypatch, tmp_path) -> None:
    """Rates as tensors, what recording changed put back, and plain rates in checkpoints."""
    monkeypatch.setattr(stacked, "FETCHED", 3)
    runs = configs(name, schedule="linear")[:-1]
    plain = together(runs)
    monkeypatch.setattr(stacked, "RECORDED", {"cpu"})
    monkeypatch.setattr(stacked, "record", eager)
    found = together(runs)
    for run in runs:
        agree(plain[run.id], found[run.id], 1e-6)
    kept = [
        stacked.make_member(
            run, task_of(run), machine("cpu"), Checkpoint(tmp_path / run.id, {"id": run.id})
        )
        for run in runs
    ]
    with pytest.raises(Interrupted):
        stacked.train_stacked(kept, machine("cpu"), lambda *_: None, stopped=lambda: True)
    for run in runs:
        checkpoint = Checkpoint(tmp_path / run.id, {"id": run.id})
        again = stacked.make_member(run, task_of(run), machine("cpu"), checkpoint)
        assert len(again.losses) == 3
        assert all(isinstance(group["lr"], float) for group in again.optimizer.param_groups)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_graph_on_the_gpu_does_the_same(name, precision, monkeypatch) -> None:
    monkeypatch.setattr(stacked, "FETCHED", 3)
    process.set_up()
    runs = configs(name, precision=precision)
    found = together(runs, "cuda")
    for run in runs:
        alone = engine.train(run, task_of(run), machine("cuda"))
        agree(alone, found[run.id], 1e-3 if precision == "float32" else 0.05)


def test_what_batches_depend_on_is_in_the_key() -> None:
    """A member's batches and loss are computed by the task of another run of its seed."""
    for name in BUILT_IN:
        run = configs(name)[0]
        task = task_of(run)
        seen: set[str] = set()

        class Watched:
            def __getattribute__(self, key, run=run, seen=seen):
                seen.add(key)
                return getattr(run, key)

        model = task.build()
        task.config = Watched()
        batch = next(task.batches("cpu"))
        task.objective(model, *task.inputs(batch, torch.device("cpu")))
        free = {key for key in type(run).model_fields if key.startswith("base_")}
        assert seen & (OF_MODEL | run.of_model | free) <= {"seed"}
        assert "batch_size" in seen


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"log2lr": 1.0}, True),
        ({"base_width": 32}, True),
        ({"width": 64}, False),
        ({"steps": 9}, False),
        ({"schedule": "linear"}, False),
        ({"precision": "bfloat16"}, False),
        ({"seq_len": 16}, False),
    ],
)
def test_only_what_may_differ_is_left_out_of_the_key(changes, same) -> None:
    run = configs("transformer_wikitext2")[0]
    assert (run.replace(**changes).stack_key == run.stack_key) is same


def test_models_of_other_structure_are_told_apart() -> None:
    run = configs("transformer_wikitext2")[0]
    alike = [run, run.replace(log2lr=0.0), run.replace(n_head=2), run.replace(norm="pre")]
    member, same, *others = [stacked.make_member(r, task_of(r), machine("cpu")) for r in alike]
    assert stacked.structure(same) == stacked.structure(member)
    assert all(stacked.structure(other) != stacked.structure(member) for other in others)


def test_an_interrupted_stack_goes_on_from_the_checkpoints_of_its_members(
    tmp_path, monkeypatch
) -> None:
    """Told to stop after three steps; the losses are those of a stack that was not."""
    monkeypatch.setattr(stacked, "FETCHED", 3)
    runs = configs("mlp_cifar10")[:3]
    whole = together(runs)

    def members():
        return [
            stacked.make_member(
                run, task_of(run), machine("cpu"), Checkpoint(tmp_path / run.id, {"id": run.id})
            )
            for run in runs
        ]

    with pytest.raises(Interrupted):
        stacked.train_stacked(members(), machine("cpu"), lambda *_: None, stopped=lambda: True)
    again = members()
    assert [len(member.losses) for member in again] == [3, 3, 3]
    found = {}
    stacked.train_stacked(
        again, machine("cpu"), lambda member, result: found.setdefault(member.config.id, result)
    )
    assert {i: r.losses for i, r in found.items()} == {i: r.losses for i, r in whole.items()}


def test_numbers_are_set_and_put_back() -> None:
    """Fields of frozen options, too."""
    runs = configs("mlp_cifar10")[:2]
    models = [task_of(run).build() for run in runs]
    numbers = stacked._differing(models, "cpu")
    assert ("", "options", "output_mult") in numbers
    before = models[0].options
    with stacked._set(models[0], {place: values[1] for place, values in numbers.items()}):
        assert float(models[0].options.output_mult) == models[1].options.output_mult
        assert dataclasses.replace(before) == before
    assert models[0].options is before


def peak(steps) -> int:
    """Of the memory that is allocated while a function runs, in bytes; a GPU counts it itself.

    On a busy machine the profiler may miss a piece, so that this is the least that it was.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        steps()
    events = seen.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate(size for _, size in changes), default=0)


@pytest.mark.parametrize("name", ["transformer_wikitext2", "resnet_cifar10"])
def test_a_stack_takes_the_memory_that_is_predicted(name, monkeypatch) -> None:
    """From the making of its members to their results, recorded, with one that diverges."""
    monkeypatch.setattr(stacked, "FETCHED", 2)
    monkeypatch.setattr(stacked, "RECORDED", {"cpu"})
    monkeypatch.setattr(stacked, "record", eager)
    width = {"resnet_cifar10": 4}.get(name, 128)
    count, base = 8, configs(name, width=width, steps=4)[1]
    runs = [base.replace(log2lr=base.log2lr - i, seed=i % 2) for i in range(count)]
    tasks = [task_of(run) for run in runs]

    def members(given):
        pairs = zip(given, tasks, strict=False)
        return [stacked.make_member(run, task, machine("cpu")) for run, task in pairs]

    found = [stacked.taken(members(runs[:2]), machine("cpu"), peak) for _ in range(2)]
    each, measuring = map(max, zip(*found, strict=True))
    assert bool(measuring) == bool(tasks[0].evaluate(members(runs[:1])[0].model))
    whole = peak(lambda: stacked.train_stacked(members(runs), machine("cpu"), lambda *_: None))
    (member,) = members(runs[:1])
    # While a GPU's steps are recorded, its weights and moments are kept in the machine's memory.
    elsewhere = 3 * sum(p.nbytes for p in member.model.parameters())
    assert 0.1 < (whole - count * elsewhere) / (count * each + measuring) < 1.0


def test_memory_is_measured_of_members_with_batches_of_their_own(monkeypatch) -> None:
    """Members of one seed share their batches, and take less."""
    seeds = []

    def largest(members, machine, jobs) -> int:
        seeds.extend(member.config.seed for member in members)
        assert all(p.is_meta for member in members for p in member.model.parameters())
        return 7

    monkeypatch.setattr(process, "set_up", lambda: machine("meta"))
    monkeypatch.setattr(stacked, "largest", largest)
    assert training.stack_limit(configs("mlp_cifar10")[0], 1) == 7
    assert len(seeds) == len({*seeds}) == 2


def test_jobs_that_share_a_gpu_share_its_memory() -> None:
    """Jobs that start at once do not count on the same bytes."""
    assert stacked.fitting(1.0, 0.0, 100, 100, 1) == 50
    assert stacked.fitting(1.0, 0.0, 100, 100, 4) == 12
    assert stacked.fitting(1.0, 0.0, 10, 100, 4) == 5
    assert stacked.fitting(1.0, 20.0, 100, 100, 1) == 30, "what measures one member is left free"
    assert stacked.fitting(1000.0, 0.0, 100, 100, 4) == 1
    assert stacked.fitting(0.001, 0.0, 100, 100, 1) == stacked.LARGEST


class Counted(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["mlp_cifar10", "transformer_wikitext2"])
def test_a_step_of_more_members_has_no_more_operations(name) -> None:
    """On a GPU each is a kernel or more, which takes a moment however small it is."""
    runs = configs(name)[:2]
    runs = [run.replace(seed=0, log2lr=run.log2lr - n) for n in range(4) for run in runs]
    counts = []
    for chosen in (runs[:4], runs):
        members = [stacked.make_member(run, task_of(run), machine("cpu")) for run in chosen]
        members.sort(key=lambda member: updates.kind(member.optimizer))
        stack = stacked.Stack(members, machine("cpu"))
        inputs = stack._inputs({0: members[0].task.batches("cpu")})
        with Counted() as counted:
            stack.step(inputs, 1.0)
        counts.append(counted.count)
    assert counts[0] == counts[1]


def test_a_member_that_diverged_holds_no_memory_of_the_stack(monkeypatch) -> None:
    monkeypatch.setattr(stacked, "FETCHED", 3)
    runs = configs("mlp_cifar10")[2:]
    members = [stacked.make_member(run, task_of(run), machine("cpu")) for run in runs]
    held = []

    def done(member, result) -> None:
        held.append(weakref.ref(next(member.model.parameters())))

    stacked.train_stacked(members, machine("cpu"), done)
    assert held[0]() is None


class Waiting(TorchDispatchMode):
    """Counts the copies to the device "meta", in a GPU's place, for which a processor waits."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        options = kwargs or {}
        found = func(*args, **options)
        if func is torch.ops.aten._to_copy.default and found.device != args[0].device:
            self.count += not options.get("non_blocking")
        return found


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_batch_makes_the_processor_wait_for_the_gpu(name, monkeypatch) -> None:
    """But for the first, whether the data are there or too large for it."""
    task = task_of(configs(name)[0])
    like = task.inputs(next(task.batches("cpu")), torch.device("cpu"))
    for room in (2**40, 0):
        monkeypatch.setattr(held, "free", lambda device, room=room: room)
        monkeypatch.setattr(held, "_HELD", {})
        batches = task.batches("meta")
        task.inputs(next(batches), torch.device("meta"))
        with Waiting() as waiting:
            inputs = task.inputs(next(batches), torch.device("meta"))
        assert waiting.count == 0
        assert all(part.device.type == "meta" for part in inputs)
        assert [(p.shape, p.dtype) for p in inputs] == [(p.shape, p.dtype) for p in like]


@pytest.mark.parametrize("name", ["mlp_cifar10", "transformer_wikitext2"])
def test_gradients_come_as_their_weights_lie(name) -> None:
    """Where they do not, torch copies each, which took half of a wide MLP's step."""
    runs = configs(name)[:2]
    members = [stacked.make_member(run, task_of(run), machine("cpu")) for run in runs]
    batches = {run.seed: m.task.batches("cpu") for run, m in zip(runs, members, strict=True)}
    linear = {n for n, m in members[0].model.named_modules() if isinstance(m, torch.nn.Linear)}
    stack = stacked.Stack(members, machine("cpu"))
    weights = {n: p for n, p in stack.params.items() if n.removesuffix(".weight") in linear}
    came = {}
    for key, weight in weights.items():
        weight.register_hook(lambda grad, key=key: came.update({key: grad.stride()}))
    stack.step(stack._inputs(batches), 1.0)
    assert came == {key: weight.stride() for key, weight in weights.items()}
    assert linear
    moments = [t.stride() for t in stack.updates.state if t.ndim == 3]
    assert {weight.stride() for weight in weights.values()} <= {*moments} or not moments
