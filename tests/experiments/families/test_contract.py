"""What every model family promises. A new family is tested here without a line of its own."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.data import places
from experiments.declare import registry
from experiments.declare.config import RunConfig
from experiments.declare.family import Family
from experiments.declare.product import Product
from experiments.declare.references import load, name_of
from experiments.declare.scales import SCALES
from experiments.errors import UserError
from experiments.products.following import expected
from experiments.runs.grouping import cost
from experiments.runs.places import ROOT
from experiments.runs.store import Store
from experiments.train import engine
from experiments.train.parts import Divisible, Part
from experiments.train.process import Machine
from mupkit.coord_check import Report, coord_check

MACHINE = Machine("cpu", 1, "highest")
WIDENINGS = (2, 4, 8, 16)  # of the base width
GPU_FLOPS = 0.5 * 67e12  # a second: half of what an H100 can in float32, assumed and not measured
GPU_SECONDS = 600
FASTER = 2  # octaves above the example's rate: at a small one a mistake moves too little to show


def families() -> Iterator[pytest.param]:
    """Every family; one whose data come from a folder alone is a test of real data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MUPKIT_DATA", raising=False)
        patch.setenv("HF_HUB_OFFLINE", "1")
        for name, exhibit in registry.exhibits().items():
            if isinstance(exhibit, Family):
                try:
                    exhibit.resolve_data()
                except UserError:
                    yield pytest.param(name, marks=pytest.mark.data)
                else:
                    yield pytest.param(name)


FAMILIES = [*families()]
EXHIBITS = [*registry.exhibits()]


@pytest.fixture(autouse=True)
def _no_hub():
    places.hub_reachable.cache_clear()


def trained(family: Family) -> list[Product]:
    return [product for product in family.products if product.sweeps]


def smoke(name: str) -> RunConfig:
    """A run of the scale smoke, at the rate of the family's example and its base width."""
    family = registry.family(name)
    run = trained(family)[0].runs("smoke", family.resolve_data())[0]
    return run.replace(
        parametrization="mup", width=run.base_width, log2lr=family.example["log2lr"], seed=0
    )


def losses(run: RunConfig) -> tuple[float, ...]:
    return engine.train(run.replace(steps=3), load(run.task, run.family)(run), MACHINE).losses


def batches(run: RunConfig) -> list[torch.Tensor]:
    """The tensors of the first two batches."""
    return [*_tensors([*itertools.islice(load(run.task, run.family)(run).batches("cpu"), 2)])]


def _tensors(part: object) -> Iterator[torch.Tensor]:
    """All tensors in nested sequences, mappings and dataclasses."""
    if isinstance(part, torch.Tensor):
        yield part
    elif isinstance(part, dict | list | tuple):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _tensors(inner)
    elif dataclasses.is_dataclass(part):
        yield from _tensors([*vars(part).values()])


def equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


@pytest.mark.parametrize("name", FAMILIES)
def test_sp_equals_mup_at_base_width_and_not_elsewhere(name) -> None:
    run = smoke(name)
    assert losses(run) == losses(run.replace(parametrization="sp"))
    wide = run.replace(width=2 * run.base_width)
    assert losses(wide) != losses(wide.replace(parametrization="sp"))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_seed_alone_decides_the_batches(name) -> None:
    run = smoke(name)
    first = batches(run)
    assert first
    assert equal(first, batches(run.replace(width=2 * run.width, log2lr=run.log2lr - 1)))
    assert not equal(first, batches(run.replace(seed=1)))


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_a_batch_sum_up_to_its_loss(name) -> None:
    run = smoke(name)
    task = load(run.task, run.family)(run)
    if not isinstance(task, Divisible):
        return  # a shared run of it is refused
    model, batch = task.build().eval(), next(task.batches("cpu"))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))  # so that rows have unequal losses
        parts = [task.part(model, batch, Part(i, 3)) for i in range(3)]
        assert sum(parts).item() == pytest.approx(task.loss(model, batch).item(), rel=1e-5)
    assert len({round(part.item(), 4) for part in parts}) == 3


def checked(run: RunConfig) -> Report:
    """Coordinate check of a family's models on one batch."""
    run = run.replace(log2lr=run.log2lr + FASTER)
    if "zero_readout" in type(run).model_fields:
        run = run.replace(zero_readout=False)  # so that the first step moves everything
    task = load(run.task, run.family)(run)
    batch = next(task.batches("cpu"))

    def build(width: int) -> torch.nn.Module:
        wide = run.replace(width=width)
        return load(wide.task, wide.family)(wide).build()

    return coord_check(
        build,
        [run.base_width * widening for widening in WIDENINGS],
        make_optimizer=lambda model: engine.make_optimizer(model, run),
        loss=lambda model: task.loss(model, batch),
        steps=2,
        seeds=range(3),
        dtype=None,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_coordinates_are_flat_in_mup_and_not_in_sp(name) -> None:
    run = smoke(name)
    wide = run.replace(width=2 * run.base_width)
    model = load(run.task, run.family)(wide).build()
    # Where the query has the multiplier of attention it goes as 1/sqrt(d_head).
    queries = {n for n, module in model.named_modules() if hasattr(module, "_mup_query_mult")}
    mup = checked(run)
    assert mup.verdicts and not [v for v in mup.failures if v.fit.tensor not in queries], mup
    assert checked(run.replace(parametrization="sp")).failures


@pytest.mark.parametrize("name", FAMILIES)
def test_flops_are_about_those_that_torch_counts(name) -> None:
    run = smoke(name)
    if type(run).flops is RunConfig.flops:
        pytest.skip("it counts none of its own")
    run = run.replace(width=8 * run.base_width)
    task = load(run.task, run.family)(run)
    model, batch = task.build(), next(task.batches("cpu"))
    with FlopCounterMode(display=False) as counter:
        task.loss(model, batch).backward()
    assert run.flops() / run.steps == pytest.approx(counter.get_total_flops(), rel=0.25)


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_function_that_is_named_is_there(name) -> None:
    exhibit = registry.exhibit(name)
    named = [function for product in exhibit.products for function in product.functions]
    named += [name_of(p.computation.function) for p in exhibit.products if p.computation]
    if isinstance(exhibit, Family):
        named.append(exhibit.config.task)
    assert named and all(callable(load(function, name)) for function in named)


@pytest.mark.parametrize("name", [n for n in EXHIBITS if registry.exhibit(n).choose_data])
def test_a_missing_data_folder_is_answered_with_sources_that_it_has(name, monkeypatch) -> None:
    monkeypatch.setenv("MUPKIT_DATA", "/nowhere/at/all")
    exhibit = registry.exhibit(name)
    with pytest.raises(UserError, match="MUPKIT_DATA: /nowhere/at/all does not exist; set ") as e:
        exhibit.resolve_data()
    advised = re.findall(r"data=(\w+)", str(e.value))
    assert {*advised} <= {*exhibit.data_sources}
    for data_source in advised:
        assert exhibit.resolve_data(data_source) == data_source


@pytest.mark.parametrize("name", FAMILIES)
def test_every_sweep_has_its_own_values_at_every_scale(name) -> None:
    for product in trained(registry.family(name)):
        for sweep in product.sweeps:
            lacking = {*SCALES} - {"paper"} - sweep.scales.keys()
            assert not lacking, f"{sweep.name}: at {lacking} it would train the scale paper"


@pytest.mark.parametrize("name", [n for n in EXHIBITS if isinstance(registry.exhibit(n), Family)])
def test_every_figure_takes_a_gpu_ten_minutes_at_most(name, tmp_path) -> None:
    family = registry.family(name)
    data = next(iter(family.data_sources))
    for product in trained(family):
        runs = product.runs("gpu", data)
        more = expected(product, "gpu", data, Store(tmp_path))
        assert sum(run.flops() for run in (*runs, *more)) < GPU_FLOPS * GPU_SECONDS, product.name
        seeds = len({run.seed for run in (*runs, *more)})
        assert seeds == 5 or (seeds == 1 and not more), product.name  # a search has one
        assert max(run.width for run in (*runs, *more)) <= 2048, product.name
    assert "gpu" in family.base_from


@pytest.mark.parametrize("name", FAMILIES)
def test_every_product_takes_seconds_at_smoke_and_its_example_is_a_run(name) -> None:
    family = registry.family(name)
    data = family.resolve_data()
    for product in trained(family):
        assert sum(map(cost, product.runs("smoke", data))) < 30, product.name
    assert family.config.make(**{**family.example, "data": data}).id


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", [n for n in EXHIBITS if isinstance(registry.exhibit(n), Family)])
def test_what_follows_from_sweeps_is_counted_before_it_is_known(name, scale, tmp_path) -> None:
    family = registry.family(name)
    for product in trained(family):
        data = next(iter(family.data_sources))
        more = expected(product, scale, data, Store(tmp_path))
        assert bool(more) == bool(product.follow_up)
        assert not {run.id for run in more} & {run.id for run in product.runs(scale, data)}


def test_every_folder_with_a_task_is_tested() -> None:
    folders = {p.parent.name for p in (ROOT / "experiments" / "families").glob("*/task.py")}
    assert folders and {param.values[0] for param in FAMILIES} >= folders
