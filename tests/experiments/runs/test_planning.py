"""Predicted times: interpolation, what is timed, what becomes of it."""

import dataclasses
import json
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from experiments.declare import registry
from experiments.declare.family import Family
from experiments.families.transformer_wikitext2.config import TransformerConfig
from experiments.families.transformer_wikitext2.task import LanguageModeling
from experiments.runs import grouping, planning
from experiments.runs.planning import Speed, Timed, interpolate
from experiments.runs.store import Store
from experiments.train.process import Machine
from tests.experiments.runs.test_store import record
from tests.tiny_runs import tiny_run

FAMILY = "transformer_wikitext2"


def timed(run, seconds: float, start: float = 0.0, members: int = 1) -> Timed:
    flops = planning.step_flops(run)
    return Timed(run.family, run.describe(), flops, seconds, start, members=members)


def test_interpolation() -> None:
    points = [(2.0, 20.0), (1.0, 15.0), (4.0, 30.0)]
    assert interpolate(points, 0.5) == 15.0
    assert interpolate(points, 1.5) == 17.5
    assert interpolate(points, 4.0) == 30.0
    assert interpolate(points, 8.0) == 50.0
    assert interpolate([(2.0, 10.0)], 6.0) == 30.0
    assert interpolate([(1.0, 10.0), (1.0, 20.0)], 1.0) == 15.0
    noisy = [(1.0, 10.0), (2.0, 9.0)]
    assert interpolate(noisy, 4.0) > 9.0


def test_shapes_are_what_time_depends_on() -> None:
    run = tiny_run()
    same = [tiny_run(seed=3), tiny_run(log2lr=-3.0), tiny_run(output_mult=4.0), tiny_run(steps=9)]
    assert {planning.shape(other) for other in same} == {planning.shape(run)}
    others = [tiny_run(width=64), tiny_run(batch_size=8), tiny_run(n_layer=3), tiny_run(norm="pre")]
    assert len({planning.shape(other) for other in (run, *others)}) == 5


def test_few_shapes_are_timed_none_of_them_long_all_at_their_lowest_rate() -> None:
    runs = registry.product("fig1").runs("small", "wikitext2")
    chosen = planning.choose(runs)
    assert len(chosen) <= planning.SHAPES
    assert {run.width for run in chosen.values()} == {32, 64, 128, 256}
    assert {run.log2lr for run in chosen.values()} == {-12}
    paper = planning.choose(registry.product("fig1").runs("paper", "wikitext2"))
    assert paper
    assert all(planning.step_flops(run) <= planning.LONGEST for run in paper.values())
    wide = planning.choose([tiny_run(width=16384)])
    assert [run.width for run in wide.values()] == [registry.exhibit(FAMILY).example["width"]]


def test_without_times_the_constants_predict() -> None:
    assert Speed().seconds(tiny_run()) == pytest.approx(grouping.cost(tiny_run()))


def test_a_plan_counts_what_is_stored_and_balances_the_rest(tmp_path) -> None:
    runs = [tiny_run(seed=seed) for seed in range(3)]
    speed = Speed({planning.shape(runs[0]): timed(runs[0], 2.0, start=1.0)}, process=3.0)
    store = Store(tmp_path)
    all_of_them = planning.plan(runs, store, speed, 1)
    assert (all_of_them.left.to_train, all_of_them.stored) == (3, 0)
    assert all_of_them.left.seconds == 3.0 + 3 * (1.0 + 5 * 2.0)
    stored = record()  # of seed 0: three of five steps in 1.5 seconds
    store.write(stored)
    rest = planning.plan(runs, store, speed, 1)
    assert (rest.left.to_train, rest.stored) == (2, 1)
    assert rest.left.seconds == 3.0 + 2 * 11.0
    assert rest.left == planning.left(runs, store, speed, 1), "one prediction for all commands"
    assert (rest.predicted, rest.took) == (1.0 + 3 * 2.0, 1.5)
    derived = dataclasses.replace(stored.provenance, derived_from="0" * 16, seconds=0.0)
    store.write(dataclasses.replace(stored, provenance=derived))
    assert planning.plan(runs, store, speed, 1).predicted == 0.0


def test_what_follows_is_counted_and_comes_after_the_rest(tmp_path) -> None:
    runs, more = [tiny_run(seed=0)], [tiny_run(seed=seed, width=64) for seed in (1, 2)]
    shapes = {planning.shape(run): timed(run, 2.0) for run in (*runs, *more)}
    speed, store = Speed(shapes, process=1.0), Store(tmp_path)
    found = planning.left(runs, store, speed, 2, more)
    assert (found.count, found.seconds, found.timed) == ("1 + 2", 11.0 + 11.0, True)
    assert planning.left(runs, store, speed, 2).count == "1"
    assert planning.left(runs, store, Speed(), 2).time.startswith("~"), "nothing was timed"
    store.write(dataclasses.replace(record(), id=more[0].id))
    rest = planning.plan(runs, store, speed, 2, more)
    assert (rest.left.count, rest.stored, rest.took) == ("1 + 1", 1, 1.5)


def test_what_is_measured_at_a_runs_end_is_in_its_time(tmp_path) -> None:
    runs = [tiny_run(seed=seed) for seed in range(2)]
    one = dataclasses.replace(timed(runs[0], 2.0), end=7.0)
    speed = Speed({planning.shape(runs[0]): one}, process=0.0)
    assert speed.seconds(runs[0]) == speed.seconds(runs[0], 5) == 10.0 + 7.0
    assert speed.seconds(runs[0], 4) == 8.0, "a run that diverged measures nothing"
    left = planning.left(runs, Store(tmp_path), speed, 2)
    assert (left.seconds, left.ends, left.endless) == (17.0, 14.0, 0)
    other = tiny_run(width=64)
    share = planning.step_flops(other) / planning.step_flops(runs[0])
    assert speed.end(other) == pytest.approx(7.0 * share), "interpolated as steps are"


def test_no_time_is_claimed_of_an_end_that_was_not_timed(tmp_path, monkeypatch) -> None:
    run, like, unlike = tiny_run(), tiny_run(width=64), tiny_run(width=128, tied=True)
    monkeypatch.setattr(type(run), "measures", ("tied",))
    for ending, end in (("tied=False", None), ("tied=True", 3.0)):
        one = dataclasses.replace(timed(run, 2.0), ending=ending, end=end)
        speed = Speed({planning.shape(run): one}, process=0.0)
        assert speed.end(like) is None, "nothing like it, or longer than was waited"
        left = planning.left([like], Store(tmp_path), speed, 1)
        assert (left.ends, left.endless) == (0.0, 1)
    assert speed.end(unlike) > 3.0
    assert planning.left([run], Store(tmp_path), Speed(), 1).endless == 0, "nothing was timed"


def test_each_kind_of_end_is_timed(monkeypatch) -> None:
    monkeypatch.setattr(TransformerConfig, "measures", ("tied",))
    runs = [tiny_run(width=w, tied=w == 80) for w in range(16, 144, 8)]
    chosen = planning.choose(runs).values()
    assert {run.ending() for run in chosen} == {"tied=True", "tied=False"}
    assert len(chosen) <= planning.SHAPES + 1


def test_what_declares_its_ends_has_these_keys() -> None:
    for exhibit in registry.exhibits().values():
        if isinstance(exhibit, Family):
            assert {*exhibit.config.measures} <= exhibit.config.model_fields.keys()
    table6 = registry.product("table6").runs("small", "wikipedia_novels")
    assert {run.ending() for run in table6} == {
        "finetune_examples=0, finetune_epochs=5",
        "finetune_examples=400, finetune_epochs=1",
    }


def test_an_end_is_timed_and_not_waited_for(tiny, monkeypatch) -> None:
    clock = time.process_time

    def busy(seconds: float):
        end = clock() + seconds
        while clock() < end:
            with suppress(Exception):  # as lm-eval and others do
                sum(range(1000))

    class Measured(LanguageModeling):
        epoch = 10

        def evaluate(self, model):
            assert not model.training
            busy(0.2)
            return {}

        def validate(self, model):
            busy(0.4)
            return 0.0

    monkeypatch.setattr(planning, "load", lambda reference, by: Measured)
    run, machine = tiny_run(), Machine("cpu", 1, "highest")
    found = planning.time_steps(run, machine, 0.05)
    assert 0.2 <= found.end < 0.3 and 0.04 <= found.step < 0.2
    assert planning.time_steps(run, machine, 0.0).end is None
    monkeypatch.setattr(planning, "ENDING", 0.1)
    assert planning.time_steps(run, machine, 0.05).end is None


def test_two_cores_share_the_groups(tmp_path, monkeypatch) -> None:
    runs = [tiny_run(seed=seed) for seed in range(4)]
    speed = Speed({planning.shape(runs[0]): timed(runs[0], 2.0)}, process=1.0)
    monkeypatch.setattr(grouping, "GROUP_SECONDS", sum(map(grouping.cost, runs)) / 4)
    assert planning.plan(runs, Store(tmp_path), speed, 1).left.seconds == 4 * (1.0 + 10.0)
    assert planning.plan(runs, Store(tmp_path), speed, 2).left.seconds == 2 * (1.0 + 10.0)
    assert planning.plan(runs, Store(tmp_path), speed, 9).left.seconds == 1.0 + 10.0


def test_a_stack_is_trained_by_one_process_at_once(tmp_path) -> None:
    """Of three runs at most; one that is alone in its shape has no stack to share."""
    runs = [tiny_run(seed=seed) for seed in range(4)]
    speed = Speed({planning.shape(runs[0]): timed(runs[0], 2.0, members=3)}, process=1.0)
    assert planning.seconds_left(runs, speed, 1) == 1.0 + 4 * 10.0
    assert planning.seconds_left(runs, speed, 8) == 1.0 + 3 * 10.0
    other = tiny_run(width=64, precision="float16")  # which is never stacked
    assert (speed.members(tiny_run(width=64)), speed.members(other)) == (3, 1)


def test_fewer_members_than_were_timed_take_less_than_all_and_more_than_one() -> None:
    """Between a run alone and the timed stack; times that do not know runs alone give shares."""
    run = tiny_run()
    stack = dataclasses.replace(timed(run, 1.0, members=5), alone=3.0)
    assert [n * stack.step(n) for n in (1, 3, 5)] == pytest.approx([3.0, 4.0, 5.0])
    assert stack.step(9) == 1.0
    assert timed(run, 1.0, members=5).step(2) == 1.0
    speed = Speed({planning.shape(run): stack})
    assert speed.seconds(run, together=5) == run.steps * 1.0
    assert speed.seconds(run) == speed.seconds(tiny_run(seed=1)) == run.steps * 3.0


def test_stored_runs_are_compared_with_times_of_as_many_as_were_trained_together(tmp_path) -> None:
    store, runs = Store(tmp_path), [tiny_run(), tiny_run(seed=1)]
    for run, stacked in zip(runs, (0, 5), strict=True):
        made = record(seed=run.seed)
        provenance = dataclasses.replace(made.provenance, stacked=stacked)
        store.write(dataclasses.replace(made, provenance=provenance))
    stack = dataclasses.replace(timed(runs[0], 1.0, members=5), alone=3.0)
    found = planning.plan(runs, store, Speed({planning.shape(runs[0]): stack}), 1)
    assert found.predicted == len(made.losses) * (3.0 + 1.0)


def test_families_without_timed_stacks_have_the_times_of_runs_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path))
    run, other = tiny_run(), registry.family("mlp_cifar10")
    mlp = other.config.make(**{**other.example, "data": "cifar10"})
    write(planning.speed_file(1), {planning.shape(r): timed(r, 9.0) for r in (run, mlp)})
    assert planning.known_best(1, 8) == planning.known(1)
    write(planning.speed_file(1, 8), {planning.shape(run): timed(run, 1.0, members=8)})
    best = planning.known_best(1, 8)
    assert (best.step(run, 8), best.step(mlp, 8)) == (1.0, 9.0)


def test_steps_of_stacks_are_timed_with_the_members_that_will_be(tiny) -> None:
    runs = [tiny_run(seed=seed) for seed in range(3)] + [tiny_run(width=64)]
    chosen = planning.choose(runs)
    stacks = [planning._alike(run, runs)[:2] for run in chosen.values()]
    _, times = planning._time_all(stacks, 2, 1, 0.0)
    assert [each.members for each in times] == [2, 1]
    assert [each.alone is None for each in times] == [False, True]
    assert all(0 < each.step < 1 and 0 < each.start < 60 for each in times)
    _, times = planning._time_all([planning._alike(runs[0], runs)], None, 1, 0.0)
    assert times[0].members == 1, "auto, on a CPU"


def test_groups_do_not_depend_on_what_was_measured(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path))
    before = grouping.groups("small", {FAMILY: "wikitext2", "core": ""})
    runs = registry.product("fig1").runs("small", "wikitext2")
    write(planning.speed_file(planning.CORES), {planning.shape(r): timed(r, 9.0) for r in runs})
    assert planning.known().step(runs[0]) == 9.0
    assert grouping.groups("small", {FAMILY: "wikitext2", "core": ""}) == before


def write(path, shapes: dict[str, Timed]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"process": 2.0, "shapes": {k: vars(v) for k, v in shapes.items()}}
    path.write_text(json.dumps(content))


def test_times_are_kept_by_processor_torch_and_processes(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path))
    names = {planning.speed_file(1), planning.speed_file(2)}
    monkeypatch.setattr(planning, "version", lambda package: "3.0")
    names.add(planning.speed_file(1))
    names |= {planning.speed_file(1, 8), planning.speed_file(1, None)}
    assert len(names) == 5


@pytest.mark.slow
def test_real_steps_are_timed_once(tiny, monkeypatch, capsys) -> None:
    monkeypatch.setattr(planning, "SECONDS", 0.5)
    runs = [tiny_run(), tiny_run(width=64)]
    speed = planning.timed(runs, 1)
    assert "timing steps of 2 shapes" in capsys.readouterr().err
    assert 0 < speed.step(runs[0]) < 1
    assert 0 < speed.shapes[planning.shape(runs[0])].start < 5
    assert planning.timed(runs, 1) == planning.known(1) == speed
    assert capsys.readouterr().err == ""


def test_looking_up_times_brings_no_torch() -> None:
    code = "import experiments.runs.planning as p, sys; p.known(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
