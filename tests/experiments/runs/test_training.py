"""Groups of runs, resuming, damaged files, two processes on one store."""

import contextlib
import dataclasses
import math
import multiprocessing
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch

from experiments.declare import data_sources, registry
from experiments.declare.config import RunConfig
from experiments.declare.scales import SCALES
from experiments.declare.schedules import OPEN_ENDED, SCHEDULES
from experiments.errors import Interrupted, UserError
from experiments.runs import grouping, stopping, training
from experiments.runs.store import Store
from experiments.train import checkpoint, engine, stacked
from tests.tiny_runs import tiny_run

RUNS = [tiny_run(seed=s, width=w) for s in range(2) for w in (16, 32)]


@pytest.mark.parametrize("scale", SCALES)
def test_groups_hold_each_run_once_and_cover_every_product(scale) -> None:
    data = {e.name: next(iter(e.data_sources), "") for e in registry.exhibits().values()}
    groups, needed = grouping.groups(scale, data)
    in_groups = [run.id for group in groups.values() for run in group.runs]
    assert len(set(in_groups)) == len(in_groups)
    for name, ids in needed.items():
        runs = registry.product(name).runs(scale, data[registry.product(name).exhibit])
        assert sorted(r.id for i in ids for r in groups[i].runs) == sorted(r.id for r in runs)
    # At `paper` nearly every run takes longer than a group should.
    needing = {i: [n for n, ids in needed.items() if i in ids] for i in groups}
    alike = Counter(map(tuple, needing.values()))
    most = {"gpu": grouping.MOST_ON_A_CARD}.get(scale, grouping.MOST_GROUPS)
    assert max(alike.values()) <= most
    assert scale in ("smoke", "small") or max(alike.values()) == most


def trained(runs) -> list[RunConfig]:
    """The runs that are no beginning of a longer one."""
    longest: dict[str, RunConfig] = {}
    for run in sorted(runs, key=lambda run: run.steps):
        longest[grouping.beginning_of(run) or run.id] = run
    return [*longest.values()]


def test_groups_are_of_like_cost_and_of_useful_length() -> None:
    groups, needed = grouping.groups("small", data_sources.resolve_all("wikipedia_sample"))
    alike: dict[tuple[str, ...], list[str]] = {}  # groups that the same products need
    for group_id in groups:
        names = tuple(name for name, ids in needed.items() if group_id in ids)
        alike.setdefault(names, []).append(group_id)
    for ids in alike.values():
        costs = [sum(map(grouping.cost, trained(groups[i].runs))) for i in ids]
        longest = max(grouping.cost(run) for i in ids for run in groups[i].runs)
        assert max(costs) < max(1.5 * min(costs), min(costs) + 1.01 * longest)
        assert max(costs) < 400
        # Runs that few products share may be too few for several groups, or for long ones.
        assert len(ids) == 1 or sum(costs) >= grouping.SHORTEST * len(ids)
        assert len(ids) >= grouping.SPLIT or sum(costs) < grouping.SHORTEST * (len(ids) + 1)
    total = sum(grouping.cost(run) for group in groups.values() for run in group.runs)
    assert total > 100 * len(groups)


def test_many_long_runs_make_as_many_groups_as_there_may_be(monkeypatch) -> None:
    runs = [tiny_run(seed=seed, steps=5 + seed % 3) for seed in range(40)]
    monkeypatch.setattr(grouping, "cost", lambda run: 1e6 * run.steps)
    packed = grouping.pack(runs, most=7)
    costs = [sum(map(grouping.cost, group.runs)) for group in packed]
    assert len(packed) == 7 and max(costs) - min(costs) <= 7e6
    assert {run.id for group in packed for run in group.runs} == {run.id for run in runs}


def test_a_job_works_for_what_was_asked_for_alone() -> None:
    needed = {"a": ["1", "3"], "b": ["2", "3", "4"], "c": ["3", "4"]}
    assert grouping.needed_with("1", needed) == (["a"], ["1", "3"])
    assert grouping.needed_with("3", needed) == (["a", "b", "c"], ["3"])
    assert grouping.needed_with("4", needed) == (["b", "c"], ["3", "4"])
    assert grouping.needed_with("3", needed, ["c", "b"]) == (["b"], ["2", "3", "4"])
    assert grouping.needed_with("4", needed, ["a"]) == (["b", "c"], ["3", "4"])


@pytest.mark.parametrize("helping", [True, False])
def test_a_job_of_a_cluster_trains_its_group_alone(helping, tmp_path, monkeypatch) -> None:
    from experiments.cli import train

    trained, helped = [], []
    monkeypatch.setattr(train, "results_dir", lambda scale: tmp_path)
    monkeypatch.setattr(train, "train_runs", lambda runs, *args, **kwargs: trained.extend(runs))
    monkeypatch.setattr(train, "help_with", lambda runs, *args, **kwargs: helped.extend(runs))
    by_id, needed = grouping.groups("smoke", data_sources.resolve_all())
    group = needed["fig1"][0]
    train.train(group, ["fig1"], "smoke", helping=helping)
    assert tuple(trained) == by_id[group].runs
    assert len(helped) == (24 if helping else 0)


@pytest.mark.parametrize("took", [0, 100])
def test_a_short_job_goes_on_with_its_family_in_what_was_asked(took, tmp_path, monkeypatch) -> None:
    from experiments.cli import train

    now, helped = [0.0], []

    def trained(*args, **kwargs) -> None:
        now[0] += took

    def help_with(runs, *args, seconds=math.inf, **kwargs) -> None:
        helped.append((seconds, [run.id for run in runs]))

    monkeypatch.setattr(train, "results_dir", lambda scale: tmp_path)
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(train, "train_runs", trained)
    monkeypatch.setattr(train, "help_with", help_with)
    by_id, needed = grouping.groups("smoke", data_sources.resolve_all())
    group = needed["fig16_wide"][0]
    train.train(group, ["figures"], "smoke")
    assert len(helped) == (2 if took < train.BRIEF else 1)
    of_family = {
        run.id
        for name in registry.asked(["figures"])
        for i in needed[name]
        for run in by_id[i].runs
        if run.family == "resnet_cifar10"
    }
    assert {run_id for _, ids in helped for run_id in ids} <= of_family
    if took < train.BRIEF:
        (_, first), (seconds, others) = helped
        assert seconds == train.BRIEF
        assert others
        assert not {*first} & {*others}
        assert {*first, *others} == of_family
    helped.clear()
    train.train(group, ["fig16"], "smoke")
    assert len(helped) == 1


def test_packing_is_deterministic_and_order_does_not_matter() -> None:
    assert [g.id for g in grouping.pack(RUNS)] == [g.id for g in grouping.pack(RUNS[::-1])]


def test_a_run_goes_with_the_run_it_is_the_beginning_of(monkeypatch) -> None:
    long = [tiny_run(steps=30, seed=seed) for seed in range(4)]
    short = [run.replace(steps=steps) for run in long for steps in (5, 20)]
    linear = [run.replace(schedule="linear") for run in (*long, *short)]
    monkeypatch.setattr(grouping, "GROUP_SECONDS", 2 * grouping.cost(long[0]))
    groups = grouping.pack([*short, *long])
    assert [[r.steps for r in group.runs] for group in groups] == [[30, 20, 5, 30, 20, 5]] * 2
    for group in groups:
        assert len({r.seed for r in group.runs}) == 2
    assert len(grouping.pack(linear)) > len(groups)  # each of these is trained


def test_a_request_for_data_is_for_the_experiments_that_know_it(monkeypatch) -> None:
    text = registry.exhibit("transformer_wikitext2")
    asked = []
    images = dataclasses.replace(
        text,
        name="images",
        data_sources={"digits": "digits"},
        choose_data=lambda r: (asked.append(r), "digits")[1],
    )
    both = {text.name: text, images.name: images}
    monkeypatch.setattr(registry, "exhibits", lambda: both)
    assert data_sources.resolve_all("wikipedia_sample") == {
        text.name: "wikipedia_sample",
        "images": "digits",
    }
    assert asked == [None]
    with pytest.raises(UserError, match=r"unknown data 'books'.*digits, wikipedia_sample"):
        data_sources.resolve_all("books")


def test_data_that_cannot_be_had_stop_only_who_needs_them(monkeypatch, tmp_path) -> None:
    def lacking(requested):
        raise UserError("no images here")

    text = registry.exhibit("transformer_wikitext2")
    images = dataclasses.replace(text, name="images", choose_data=lacking, figures=())
    exhibits = {text.name: text, "images": images, "theory": registry.exhibit("theory")}
    monkeypatch.setattr(registry, "exhibits", lambda: exhibits)
    data = data_sources.resolve_all("wikipedia_sample")
    assert data == {text.name: "wikipedia_sample", "theory": ""}
    with pytest.raises(UserError, match="no images here"):
        data["images"]
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no images here"):
        data_sources.resolve_all("wikipedia_sample")


def test_products_whose_data_cannot_be_had_have_no_groups() -> None:
    groups, needed = grouping.groups("smoke", {"theory": ""})
    assert groups == {}
    assert set(map(tuple, needed.values())) == {()}
    assert needed.keys() == registry.products().keys()


def test_runs_of_one_shape_are_trained_together(tiny, tmp_path) -> None:
    """Those that are missing, with others of their shape; the rest as without a stack."""
    alone, store = Store(tmp_path / "alone"), Store(tmp_path / "together")
    runs = [tiny_run(seed=s, width=w, steps=n) for s in range(3) for w in (16, 32) for n in (3, 5)]
    longest = [run for run in runs if run.steps == 5]
    other = tiny_run(width=16, log2lr=-3.0)
    training.train_runs([longest[1]], store)  # of width 32
    reported: list[str] = []
    found = training.train_runs(
        runs, store, lambda record: reported.append(record.id), stack=2, fill=[other]
    )
    plain = training.train_runs(runs, alone)
    assert [record.id for record in found] == [run.id for run in runs]
    assert {*reported} == {run.id for run in (*runs, other)}
    for record, by_itself in zip(found, plain, strict=True):
        assert record.losses == pytest.approx(by_itself.losses, rel=1e-5)
    stacked = {r.id: r.provenance.stacked for r in found}
    assert [stacked[run.id] for run in longest] == [2, 0, 2, 2, 2, 2]
    assert store.read(other.id).provenance.stacked == 2
    short = [record for record in found if record.config["steps"] == 3]
    assert all(r.provenance.derived_from for r in short)
    assert [r.provenance.stacked for r in short] == [stacked[run.id] for run in longest]


def test_runs_that_follow_are_trained_together_too(tiny, tmp_path) -> None:
    runs = [tiny_run(seed=seed) for seed in range(3)]
    records = training.train_together(runs, Store(tmp_path), jobs=1, stack=3)
    assert [record.id for record in records] == [run.id for run in runs]
    assert [record.provenance.stacked for record in records] == [3] * 3


def test_a_stack_leaves_out_what_another_process_trains(tiny, tmp_path) -> None:
    store = Store(tmp_path)
    runs = [tiny_run(seed=seed) for seed in range(3)]
    with store.claim(runs[1].id):
        training._train_stack(runs, store, None, 3)
    assert [store.looks_finished(run.id) for run in runs] == [True, False, True]


@pytest.mark.parametrize("recording", [False, True])
def test_a_stack_that_does_not_fit_is_halved(tiny, tmp_path, monkeypatch, capsys, recording):
    """Also where memory ends after some steps, or makes a recording fail."""
    monkeypatch.setattr(stacked, "FETCHED", 2)
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    runs = [tiny_run(seed=seed, steps=6) for seed in range(5)]
    alone = training.train_runs(runs, Store(tmp_path / "alone"))
    step, done = stacked.Stack.step, []

    def full(stack, inputs, factor):
        members, steps = len(stack.members), len(stack.members[0].losses)
        done.append((members, steps))
        if members > 3 or (members == 3 and steps == 4):
            try:
                raise torch.OutOfMemoryError("planted")
            finally:
                if recording:
                    raise RuntimeError("the recording is lost")
        return step(stack, inputs, factor)

    monkeypatch.setattr(stacked.Stack, "step", full)
    found = training.train_runs(runs, Store(tmp_path / "halved"), stack=8)
    assert [r.provenance.stacked for r in found] == [2, 2, 0, 2, 2]
    assert all(steps > 0 for members, steps in done[done.index((3, 4)) :][:2])
    for record, by_itself in zip(found, alone, strict=True):
        assert record.losses == pytest.approx(by_itself.losses, rel=1e-5)
    told = [line for line in capsys.readouterr().err.splitlines() if "too many" in line]
    assert len(told) == 2 and "5 runs of width 32" in told[0] and "3 runs" in told[1]


def test_what_did_not_fit_is_not_tried_again(tiny, tmp_path, monkeypatch) -> None:
    step, sizes = stacked.Stack.step, []

    def full(stack, inputs, factor):
        sizes.append(len(stack.members))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("planted")
        return step(stack, inputs, factor)

    monkeypatch.setattr(stacked.Stack, "step", full)
    training.train_runs([tiny_run(seed=seed) for seed in range(8)], Store(tmp_path), stack=4)
    assert sizes.count(4) == 1


def test_another_error_of_a_stack_is_no_lack_of_memory(tiny, tmp_path, monkeypatch) -> None:
    def broken(stack, inputs, factor):
        raise RuntimeError("planted")

    monkeypatch.setattr(stacked.Stack, "step", broken)
    with pytest.raises(RuntimeError, match="planted"):
        training.train_runs([tiny_run(seed=seed) for seed in range(2)], Store(tmp_path), stack=2)


def test_only_files_of_stacked_runs_need_a_newer_checkout(tiny, tmp_path, monkeypatch) -> None:
    store = Store(tmp_path)
    alone, *runs = [tiny_run(seed=seed) for seed in range(3)]
    training.train_runs([alone], store)
    training.train_runs(runs, store, stack=2)
    monkeypatch.setattr("experiments.runs.store.SCHEMAS", (1,))
    assert [store.look(run.id).state for run in (alone, *runs)] == ["done", *["newer schema"] * 2]


def test_a_wider_grid_trains_only_what_is_new(tiny, tmp_path, monkeypatch) -> None:
    trained = []
    train = training._train
    monkeypatch.setattr(
        training, "_train", lambda run, *rest: (trained.append(run.id), train(run, *rest))[1]
    )
    store = Store(tmp_path)
    training.train_runs(RUNS[:2], store)
    records = training.train_runs(RUNS, store)
    assert trained == [r.id for r in RUNS]
    assert [r.id for r in records] == [r.id for r in RUNS]
    assert training.missing(RUNS, store) == []


def test_every_run_is_stored_before_the_next_begins(tiny, tmp_path, monkeypatch) -> None:
    store = Store(tmp_path)
    train = training._train

    def fail_at_third(run, *rest):
        if len(list((tmp_path / "runs").glob("*"))) == 2:
            raise KeyboardInterrupt
        return train(run, *rest)

    monkeypatch.setattr(training, "_train", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        training.train_runs(RUNS, store)
    assert [r.id for r in training.missing(RUNS, store)] == [r.id for r in RUNS[2:]]


def test_damaged_run_is_named_and_trained_again(tiny, tmp_path, capsys) -> None:
    store = Store(tmp_path)
    (before,) = training.train_runs(RUNS[:1], store)
    path = store.path(before.id)
    path.write_bytes(path.read_bytes()[:-20])
    (after,) = training.train_runs(RUNS[:1], store)
    assert after.losses == before.losses
    assert path.name in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "damaged").iterdir()] == [f"{before.id}-1.parquet"]


def _die(run) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_line() -> None:
    with (
        pytest.raises(UserError, match=r"was killed.*fewer --jobs than 1"),
        training.processes(1) as p,
    ):
        list(p.map(_die, RUNS[:1]))


def losses_of(runs, folder) -> dict:
    return {r.id: r.losses for r in training.train_runs(runs, Store(folder))}


def _losses_of(runs, folder, queue) -> None:
    queue.put(losses_of(runs, folder))


def in_processes(parts, folder) -> dict:
    """The losses of runs that are trained in as many processes at once as there are parts."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_losses_of, args=(part, folder, queue)) for part in parts]
    for worker in workers:
        worker.start()
    found = {run_id: losses for _ in workers for run_id, losses in queue.get(timeout=120).items()}
    for worker in workers:
        worker.join()
    return found


def test_order_company_and_processes_do_not_change_a_run(tiny, tmp_path) -> None:
    runs = [*RUNS, tiny_run(optimizer="sgd", momentum=0.9, log2lr=-4), tiny_run(width=64)]
    forth = losses_of(runs, tmp_path / "forth")
    assert losses_of(runs[::-1], tmp_path / "back") == forth
    for i, run in enumerate(runs):  # each by itself, after others in this process
        torch.rand(i + 1)
        assert losses_of([run], tmp_path / f"{i}") == {run.id: forth[run.id]}
    assert in_processes([runs[::-1]], tmp_path / "one") == forth
    assert in_processes([runs[::2], runs[1::2]], tmp_path / "two") == forth
    assert in_processes([[runs[-1]]], tmp_path / "alone") == {runs[-1].id: forth[runs[-1].id]}


@pytest.mark.parametrize("changes", [{}, {"schedule": "inv_sqrt", "warmup": 2}])
def test_a_shorter_run_is_read_from_a_longer_one(tiny, tmp_path, monkeypatch, changes) -> None:
    short, middle, long = (tiny_run(steps=steps, **changes) for steps in (4, 11, 30))
    direct = [training.train_runs([r], Store(tmp_path / r.id))[0] for r in (short, middle, long)]
    trained = spy(monkeypatch)
    reported = []
    found = training.train_runs([short, long, middle], Store(tmp_path), reported.append)
    assert trained == [long.id]
    assert [r.id for r in found] == [short.id, long.id, middle.id]
    assert [r.id for r in reported] == [long.id, middle.id, short.id]
    for one, expected in zip((found[0], found[2], found[1]), direct, strict=True):
        assert one == dataclasses.replace(expected, provenance=one.provenance)
        assert Store(tmp_path).read(one.id) == one
    assert found[1].provenance.derived_from == ""
    for one in (found[0], found[2]):
        assert one.provenance.derived_from in {long.id, middle.id}
        assert one.provenance.seconds == one.provenance.flops == 0
        assert one.provenance.code_version == found[1].provenance.code_version


def spy(monkeypatch) -> list[str]:
    """Ids of runs that the engine trains from now on."""
    trained = []
    train = engine.train
    monkeypatch.setattr(
        engine, "train", lambda run, *rest: (trained.append(run.id), train(run, *rest))[1]
    )
    return trained


def test_a_longer_run_of_another_group_serves_if_it_is_known(tiny, tmp_path, monkeypatch) -> None:
    short, long = tiny_run(steps=3), tiny_run(steps=6)
    training.train_runs([long], Store(tmp_path))
    trained = spy(monkeypatch)
    training.train_runs([short], Store(tmp_path), known=[long])
    assert trained == []
    training.train_runs([short], Store(tmp_path / "elsewhere"), known=[long])
    assert trained == [short.id]


@pytest.mark.parametrize(
    "changes",
    [{"schedule": s} for s in SCHEDULES if s not in OPEN_ENDED]
    + [{"schedule": "inv_sqrt", "warmup": 2}, {"warmup": 2}, {"seed": 1}, {"log2lr": -6}],
)
def test_what_is_no_beginning_is_trained(tiny, tmp_path, monkeypatch, changes) -> None:
    same = {"schedule": changes["schedule"]} if "schedule" in changes else {}
    short, long = tiny_run(steps=3, **same), tiny_run(steps=6, **changes)
    trained = spy(monkeypatch)
    training.train_runs([short, long], Store(tmp_path))
    assert trained == [long.id, short.id]


@pytest.mark.parametrize(
    "key", ["code_version", "torch_version", "matmul", "data_fingerprint", "computed"]
)
def test_a_longer_run_of_other_origin_is_no_source(tiny, tmp_path, monkeypatch, key) -> None:
    short, long = tiny_run(steps=3), tiny_run(steps=6)
    store = Store(tmp_path)
    (record,) = training.train_runs([long], store)
    other = dataclasses.replace(record.provenance, **{key: "other"})
    store.write(dataclasses.replace(record, provenance=other))
    trained = spy(monkeypatch)
    training.train_runs([short], store, known=[long])
    assert trained == [short.id]


def test_a_longer_run_measured_at_its_end_is_no_source(tiny, tmp_path, monkeypatch) -> None:
    short, long = tiny_run(steps=3), tiny_run(steps=6)
    store = Store(tmp_path)
    (record,) = training.train_runs([long], store)
    store.write(dataclasses.replace(record, metrics={"accuracy": 0.5}))
    trained = spy(monkeypatch)
    training.train_runs([short], store, known=[long])
    assert trained == [short.id]


def test_a_damaged_longer_run_is_no_source(tiny, tmp_path, monkeypatch) -> None:
    short, long = tiny_run(steps=3), tiny_run(steps=6)
    store = Store(tmp_path)
    training.train_runs([long], store)
    store.path(long.id).write_bytes(store.path(long.id).read_bytes()[:-20])
    trained = spy(monkeypatch)
    training.train_runs([short], store, known=[long])
    assert trained == [short.id]


def test_the_beginning_of_a_run_that_diverged(tiny, tmp_path, monkeypatch) -> None:
    wild = {"log2lr": 2.0, "zero_readout": False, "output_mult": 8.0}
    (long,) = training.train_runs([tiny_run(steps=20, **wild)], Store(tmp_path))
    step = long.diverged_step
    assert step is not None and 0 < step < 19
    same, later, before = (tiny_run(steps=s, **wild) for s in (step + 1, step + 5, step))
    direct = [
        training.train_runs([r], Store(tmp_path / "direct" / r.id))[0]
        for r in (same, later, before)
    ]
    trained = spy(monkeypatch)
    found = training.train_runs(
        [same, later, before], Store(tmp_path), known=[tiny_run(steps=20, **wild)]
    )
    assert trained == [before.id]  # whether its last update was finite the longer run cannot say
    for one, expected in zip(found, direct, strict=True):
        assert one.losses == expected.losses or math.isnan(one.losses[-1])
        assert one.losses[:-1] == expected.losses[:-1]
        assert (one.diverged, one.diverged_step) == (expected.diverged, expected.diverged_step)


def test_runs_of_other_code_are_told_apart(tiny, tmp_path, monkeypatch) -> None:
    records = training.train_runs(RUNS[:2], Store(tmp_path))
    assert training.parted(records) == []
    monkeypatch.setattr(training, "code_version", lambda family: "other")
    assert training.parted(records) == [r.id for r in RUNS[:2]]


def test_a_run_that_another_process_trains_is_put_off(tiny, tmp_path, monkeypatch) -> None:
    store, other = Store(tmp_path), contextlib.ExitStack()
    other.enter_context(Store(tmp_path).claim(RUNS[0].id))
    trained = []
    train = training._train

    def spied(run, *rest):
        trained.append(run.id)
        if len(trained) == 3:
            other.close()
        return train(run, *rest)

    monkeypatch.setattr(training, "_train", spied)
    records = training.train_runs(RUNS, store)
    assert trained == [r.id for r in (*RUNS[1:], RUNS[0])]
    assert [r.id for r in records] == [r.id for r in RUNS]


def test_help_leaves_alone_what_others_train_and_what_waits_for_it(
    tiny, tmp_path, monkeypatch
) -> None:
    store, reported = Store(tmp_path), []
    short, long, done = tiny_run(steps=3, seed=9), tiny_run(steps=6, seed=9), RUNS[1]
    runs = [short, long, *RUNS]
    training.train_runs([done], store)
    trained = spy(monkeypatch)
    with Store(tmp_path).claim(long.id), Store(tmp_path).claim(RUNS[0].id):
        training.help_with(runs, store, reported.append, known=runs)
    assert trained == [r.id for r in reported] == [RUNS[3].id, RUNS[2].id]  # the wider one first
    assert {r.id for r in training.missing(runs, store)} == {short.id, long.id, RUNS[0].id}
    training.help_with(runs, store, reported.append, known=runs)
    assert trained[2:] == [long.id, RUNS[0].id]
    assert training.missing(runs, store) == []


def test_help_for_a_time_begins_nothing_that_would_take_longer(tiny, tmp_path, monkeypatch) -> None:
    store = Store(tmp_path)
    wide, narrow = RUNS[3], RUNS[0]
    costs = {run.id: 1.0 for run in RUNS} | {wide.id: 10.0}
    monkeypatch.setattr(training, "cost", lambda run: costs[run.id])
    trained = spy(monkeypatch)
    training.help_with([wide, narrow], store, [].append, known=(), seconds=5.0)
    assert trained == [narrow.id]
    training.help_with([wide], store, [].append, known=(), seconds=0.0)
    assert trained == [narrow.id]
    training.help_with([wide], store, [].append, known=(), seconds=20.0)
    assert trained == [narrow.id, wide.id]


def test_help_for_a_time_begins_no_stack_after_it(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training, "cost", lambda run: -1.0)  # what is alone is still begun
    for seconds, members in ((0.0, 0), (60.0, 2)):
        store, reported = Store(tmp_path / f"{seconds:g}"), []
        training.help_with(RUNS, store, reported.append, known=(), stack=2, seconds=seconds)
        assert [record.provenance.stacked for record in reported] == [members] * len(RUNS)


def test_help_does_not_wait_for_longer_runs_of_other_products(tiny, tmp_path, monkeypatch) -> None:
    store, reported = Store(tmp_path), []
    short, others = tiny_run(steps=3, seed=9), tiny_run(steps=6, seed=9)
    trained = spy(monkeypatch)
    training.help_with([short], store, reported.append, known=[short, others])
    assert trained == [r.id for r in reported] == [short.id]
    store.remove(short.id)
    training.train_runs([others], store)
    training.help_with([short], store, reported.append, known=[short, others])
    assert trained == [short.id, others.id]  # read from the longer one
    assert reported[1].provenance.derived_from == others.id


def _train_and_count(folder: Path, queue) -> None:
    trained = []
    train = training._train
    training._train = lambda run, *rest: (trained.append(run.id), train(run, *rest))[1]
    training.train_runs(RUNS, Store(folder))
    queue.put(trained)


def test_two_processes_never_train_the_same_run(tiny, tmp_path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_train_and_count, args=(tmp_path, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    trained = [run for _ in workers for run in queue.get(timeout=120)]
    for worker in workers:
        worker.join()
    assert sorted(trained) == sorted(r.id for r in RUNS)
    assert training.missing(RUNS, Store(tmp_path)) == []


def test_a_stopped_workflow_trains_nothing_more(tiny, tmp_path, monkeypatch) -> None:
    goes_on = tmp_path / "goes_on"
    goes_on.touch()
    monkeypatch.setenv(stopping.VARIABLE, str(goes_on))
    store = Store(tmp_path / "store")

    def stop(record) -> None:
        goes_on.unlink()

    with pytest.raises(Interrupted):
        training.train_runs(RUNS, store, stop)
    assert sum(store.looks_finished(run.id) for run in RUNS) == 1
    training.help_with(RUNS, store, stop, RUNS)
    assert sum(store.looks_finished(run.id) for run in RUNS) == 1
    goes_on.touch()
    training.help_with(RUNS, store, stop, RUNS)
    assert sum(store.looks_finished(run.id) for run in RUNS) == 2
