"""Groups of runs, resuming, damaged files, two processes on one store."""

import dataclasses
import multiprocessing
from pathlib import Path

import pytest

from experiments import registry, sweep
from experiments.core.spec import EXPERIMENT as CORE
from experiments.errors import UserError
from experiments.spec import SCALES
from experiments.store import Store
from tests.tiny_runs import tiny_run

RUNS = [tiny_run(seed=s, width=w) for s in range(2) for w in (16, 32)]


@pytest.mark.parametrize("scale", SCALES)
def test_groups_hold_each_run_once_and_cover_every_product(scale) -> None:
    data = sweep.resolve_data("wikipedia_sample")
    groups, needed = sweep.groups(scale, data)
    in_groups = [run.id for group in groups.values() for run in group.runs]
    assert len(set(in_groups)) == len(in_groups)
    for name, ids in needed.items():
        runs = registry.product(name).runs(scale, data[registry.owner(name).name])
        assert sorted(r.id for i in ids for r in groups[i].runs) == sorted(r.id for r in runs)


def test_groups_are_of_like_cost_and_of_useful_length() -> None:
    groups, _ = sweep.groups("small", sweep.resolve_data("wikipedia_sample"))
    costs = [sum(map(sweep.cost, g.runs)) for g in groups.values()]
    assert max(costs) < 1.5 * min(costs)
    assert 30 < min(costs) < max(costs) < 300


def test_packing_is_deterministic_and_order_does_not_matter() -> None:
    assert [g.id for g in sweep.pack(RUNS)] == [g.id for g in sweep.pack(RUNS[::-1])]


def test_a_request_for_data_is_for_the_experiments_that_know_it(monkeypatch) -> None:
    text = registry.experiment("transformer_wikitext2")
    asked = []
    images = dataclasses.replace(
        text, name="images", sources=("digits",), source=lambda r: (asked.append(r), "digits")[1]
    )
    both = {text.name: text, images.name: images}
    monkeypatch.setattr(registry, "experiments", lambda: both)
    assert sweep.resolve_data("wikipedia_sample") == {
        text.name: "wikipedia_sample",
        "images": "digits",
    }
    assert asked == [None]
    with pytest.raises(UserError, match=r"unknown data 'books'.*digits, wikipedia_sample"):
        sweep.resolve_data("books")


def test_data_that_cannot_be_had_stop_only_who_needs_them(monkeypatch, tmp_path) -> None:
    def lacking(requested):
        raise UserError("no images here")

    text = registry.experiment("transformer_wikitext2")
    images = dataclasses.replace(text, name="images", source=lacking, figures=())
    monkeypatch.setattr(
        registry, "experiments", lambda: {text.name: text, "images": images, "core": CORE}
    )
    data = sweep.resolve_data("wikipedia_sample")
    assert data == {text.name: "wikipedia_sample", "core": ""}
    with pytest.raises(UserError, match="no images here"):
        data["images"]
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no images here"):
        sweep.resolve_data("wikipedia_sample")


def test_products_whose_data_cannot_be_had_have_no_groups() -> None:
    groups, needed = sweep.groups("smoke", {"core": ""})
    assert groups == {}
    assert set(map(tuple, needed.values())) == {()}
    assert needed.keys() == registry.products().keys()


def test_a_wider_grid_trains_only_what_is_new(tiny, tmp_path, monkeypatch) -> None:
    trained = []
    train = sweep._train
    monkeypatch.setattr(
        sweep, "_train", lambda run, on: (trained.append(run.id), train(run, on))[1]
    )
    store = Store(tmp_path)
    sweep.train_runs(RUNS[:2], store)
    records = sweep.train_runs(RUNS, store)
    assert trained == [r.id for r in RUNS]
    assert [r.id for r in records] == [r.id for r in RUNS]
    assert sweep.missing(RUNS, store) == []


def test_every_run_is_stored_before_the_next_begins(tiny, tmp_path, monkeypatch) -> None:
    store = Store(tmp_path)
    train = sweep._train

    def fail_at_third(run, on_step):
        if len(list((tmp_path / "runs").glob("*"))) == 2:
            raise KeyboardInterrupt
        return train(run, on_step)

    monkeypatch.setattr(sweep, "_train", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        sweep.train_runs(RUNS, store)
    assert [r.id for r in sweep.missing(RUNS, store)] == [r.id for r in RUNS[2:]]


def test_damaged_run_is_named_and_trained_again(tiny, tmp_path, capsys) -> None:
    store = Store(tmp_path)
    (before,) = sweep.train_runs(RUNS[:1], store)
    path = store.path(before.id)
    path.write_bytes(path.read_bytes()[:-20])
    (after,) = sweep.train_runs(RUNS[:1], store)
    assert after.losses == before.losses
    assert path.name in capsys.readouterr().err


def test_order_and_company_do_not_change_a_run(tiny, tmp_path) -> None:
    forth = {r.id: r.losses for r in sweep.train_runs(RUNS, Store(tmp_path / "a"))}
    back = {r.id: r.losses for r in sweep.train_runs(RUNS[::-1], Store(tmp_path / "b"))}
    assert forth == back


def test_runs_of_other_code_are_told_apart(tiny, tmp_path, monkeypatch) -> None:
    records = sweep.train_runs(RUNS[:2], Store(tmp_path))
    assert sweep.parted(records) == []
    monkeypatch.setattr(sweep, "code_version", lambda family: "other")
    assert sweep.parted(records) == [r.id for r in RUNS[:2]]


def _train_and_count(folder: Path, queue) -> None:
    trained = []
    train = sweep._train
    sweep._train = lambda run, on: (trained.append(run.id), train(run, on))[1]
    sweep.train_runs(RUNS, Store(folder))
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
    assert sweep.missing(RUNS, Store(tmp_path)) == []
