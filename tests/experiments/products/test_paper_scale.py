"""The scale `paper`: its page, its grids against the paper, its jobs, and what is noticed."""

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.declare import registry
from experiments.declare.family import Family
from experiments.declare.product import Product
from experiments.products.paper_scale import declared, grids, page, steps
from experiments.products.paper_scale.cost import GPUS, SHARE
from experiments.products.paper_scale.stated import Stated
from experiments.runs import grouping, planning

ROOT = Path(__file__).parents[3]


def test_the_page_is_up_to_date() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), f"`{page.COMMAND}` writes it anew"


def test_no_difference_from_the_paper_lacks_its_reason() -> None:
    compared = grids.compare()
    assert [one for one in compared if one.undeclared] == []
    unpinned = {one.stated.key for one in compared if one.stated.why and not one.stated.here}
    assert unpinned == {"rate"}  # of Fig. 15, which follows from its search
    assert grids.uncovered() == []
    assert [one for one in page.sizes() if one.undeclared] == []


@pytest.mark.parametrize(
    ("stated", "undeclared"),
    [
        (Stated(("fig8",), "n_layer", (4,), ""), False),
        (Stated(("fig8",), "n_layer", (5,), ""), True),
        (Stated(("fig8",), "n_layer", (5,), "", why="a reason"), False),
        (Stated(("fig8",), "n_layer", (4,), "", why="a reason that is stale"), True),
        (Stated(("fig8",), "width", (256, 32768), "", "ends"), False),
        (Stated(("fig8",), "width", (256, 8192), "", "ends"), True),
        (Stated(("fig8",), "width", (256, 8192), "", "has"), False),
        (Stated(("fig8",), "width", (256, 8191), "", "has"), True),
        (Stated(("fig8",), "width", (256, 8192), ""), True),
        (Stated(("fig8",), "n_layer", (), "", "one"), False),
        (Stated(("fig8",), "width", (), "", "one"), True),
        (Stated(("fig8",), "width", (256,), "", where={"parametrization": "sp"}), True),
        (Stated(("fig8",), "billion tokens", (1.4,), "", within=0.01), False),
        (Stated(("fig8",), "billion tokens", (1.5,), "", within=0.01), True),
        (Stated(("table13",), "samples", (64,), "", space=True), False),
        (Stated(("table13",), "samples", (63,), "", space=True), True),
        (Stated(("fig8",), "n_layer", (5,), "", why="a reason", here=(4,)), False),
        (Stated(("fig8",), "n_layer", (5,), "", why="a reason", here=(3,)), True),
        (Stated(("fig8",), "swept", ("n_head", "width"), ""), False),
        (Stated(("fig8",), "swept", ("width",), ""), True),
    ],
)
def test_a_difference_is_noticed(monkeypatch, stated, undeclared) -> None:
    monkeypatch.setattr(grids, "STATED", (stated,))
    (one,) = grids.compare()
    assert one.undeclared is undeclared, one.ours


def test_a_changed_sweep_is_noticed(monkeypatch) -> None:
    runs, more = declared.runs_of("fig8")
    wide = tuple(run for run in runs if run.width < 32768)
    monkeypatch.setattr(declared, "runs_of", lambda name: (wide, more))
    about = tuple(one for one in grids.STATED if one.products == ("fig8",))
    monkeypatch.setattr(grids, "STATED", about)
    assert [one.stated.key for one in grids.compare() if one.undeclared] == ["width"]


def test_a_key_that_nobody_speaks_of_is_noticed(monkeypatch) -> None:
    without = {k: v for k, v in grids.OPEN["gpt_proxy"].items() if "grad_clip" not in k}
    monkeypatch.setitem(grids.OPEN, "gpt_proxy", without)
    assert "fig8: grad_clip" in grids.uncovered()
    without = tuple(one for one in grids.STATED if "fig8" not in one.products)
    monkeypatch.setattr(grids, "STATED", without)
    assert "fig8: n_layer" in grids.uncovered()


def test_a_wrong_size_of_a_model_is_noticed() -> None:
    one = page.sizes()[-1]
    assert one.difference > 0.07 and one.size.why and not one.undeclared
    assert replace(one, size=replace(one.size, why="")).undeclared


def test_every_model_is_as_large_as_its_configuration_says() -> None:
    for one in declared.configurations():
        assert page.counted()[one.key] > one.run.weights() > 0


def test_hours_follow_from_the_flops() -> None:
    (run,) = [run for run in declared.runs_of("fig8")[0] if run.width == 256]
    v100, h100 = GPUS
    hours = run.flops() / (15.7e12 * SHARE) / 3600
    assert v100.hours([run, run]) == pytest.approx(2 * hours)
    low = run.replace(precision="bfloat16")
    assert h100.hours([low]) < h100.hours([run]) < v100.hours([low]) == v100.hours([run])


def test_every_family_says_where_its_base_hyperparameters_come_from() -> None:
    for family in registry.exhibits().values():
        assert not isinstance(family, Family) or family.base_from.get("paper"), family.name


def test_every_run_of_every_product_has_its_job(monkeypatch) -> None:
    """What a dry run asks of the registry: real ones of some products are tests/workflow's."""
    runs = {name: declared.runs_of(name)[0] for name in registry.products()}
    monkeypatch.setattr(Product, "runs", lambda product, scale, data: runs[product.name])
    groups, needed = grouping.groups("paper", dict.fromkeys(registry.exhibits(), ""))
    assert needed.keys() == runs.keys()
    for name, ids in needed.items():
        own = [run.id for group in ids for run in groups[group].runs]
        assert sorted(own) == sorted(run.id for run in runs[name])


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("paper_step", ROOT / "benchmarks/paper_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_of(name: str) -> declared.Configuration:
    return next(one for one in declared.configurations() if name in one.products)


def test_a_batch_that_does_not_fit_is_quartered(monkeypatch, benchmark) -> None:
    monkeypatch.setattr(Family, "resolve_data", lambda family: "digits")
    tried = []

    def run(command, **options):
        batch = json.loads(command[4])["batch_size"]
        tried.append(batch)
        step = json.dumps(
            {**vars(steps.Step("done", "digits", 1, batch, batch, (2.0, 1.0), 1.0, 1.0, ""))}
        )
        return subprocess.CompletedProcess(command, int(batch > 4), step, "no memory\nat all")

    monkeypatch.setattr(benchmark.subprocess, "run", run)
    one = one_of("fig3")
    step = benchmark.tried(one, 4.0, math.inf, 60.0)
    assert tried == [64, 16, 4]
    assert (step.outcome, step.batch, step.declared_batch) == ("done", 4, 64)
    assert step.note == "larger batches: at all"
    widest = declared.configurations()[-1]
    held = benchmark.tried(widest, 4.0, math.inf, 60.0)
    assert held.outcome == "too large" and held.note.endswith(" GB")
    assert tried == [64, 16, 4]  # it is not tried at all
    tried.clear()
    step = benchmark.tried(one, 4.0, planning.step_flops(one.run) / 16, 60.0)
    assert tried == [4]
    assert (step.batch, step.declared_batch) == (4, 64)
    assert step.note.startswith("larger batches: more than ") and step.note.endswith(" FLOPs")


def test_a_real_step_of_the_smallest(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MUPKIT_DATA", raising=False)
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path))
    run = one_of("fig3").run.replace(data="digits")
    command = [sys.executable, str(ROOT / "benchmarks/paper_step.py"), "--worker", run.family]
    command += [json.dumps(run.model_dump()), "8"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    step = steps.Step(**json.loads(done.stdout.splitlines()[-1]))
    first, second = step.losses
    assert step.outcome == "done" and step.batch == 64
    assert first == pytest.approx(2.302585) and second != first  # the readout is zero
    assert step.peak_gb > 0.1 and step.seconds > 0
    none = subprocess.run([*command[:-1], "0.2"], capture_output=True, text=True)
    assert none.returncode != 0
