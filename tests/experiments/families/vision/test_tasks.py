"""The image families: configurations, models at every scale, batches, FLOPs, a few steps."""

import itertools
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.data import image_source
from experiments.data.augment import apply
from experiments.declare import registry
from experiments.declare.references import load
from experiments.errors import UserError
from experiments.families.mlp_cifar10 import task as mlp_task
from experiments.families.mlp_cifar10.spec import MlpConfig
from experiments.families.resnet_cifar10 import task as resnet_task
from experiments.families.resnet_cifar10.spec import ResNetConfig
from experiments.families.wide_resnet_imagenet import task as wide_task
from experiments.families.wide_resnet_imagenet.spec import SPACE, WideResNetConfig
from experiments.train import engine
from experiments.train.process import Machine

MACHINE = Machine("cpu", 1, "highest")
SHARED = {"data": "digits", "log2lr": -4.0, "steps": 3, "batch_size": 16, "optimizer": "sgd"}
MLP = MlpConfig.make(**SHARED, width=16, base_width=8)
RESNET = ResNetConfig.make(**SHARED, width=4, base_width=2, cutout=2, momentum=0.9)
FAMILIES = {"mlp_cifar10": MLP, "resnet_cifar10": RESNET}


@pytest.mark.parametrize(("cutout", "side", "hole"), [(8, 32, 8), (8, 8, 2), (2, 8, 1), (0, 8, 0)])
def test_the_hole_is_in_proportion_to_the_image(cutout, side, hole) -> None:
    assert RESNET.replace(cutout=cutout).hole(side) == hole


def test_no_image_is_blank_with_the_default_hole() -> None:
    run = RESNET.replace(cutout=ResNetConfig.model_fields["cutout"].default)
    task = load(run.task, run.family)(run)
    index_B, changes = next(task.batches("cpu"))
    x_BCHW = apply(task.images.batch(index_B), changes, task.images.mean, task.images.std)
    assert (x_BCHW != 0).flatten(1).any(1).all()


@pytest.mark.parametrize("run", FAMILIES.values(), ids=FAMILIES)
def test_a_few_steps_on_digits(run) -> None:
    task = load(run.task, run.family)(run)
    result = engine.train(run, task, MACHINE)
    assert result.losses[0] == pytest.approx(math.log(10), rel=1e-5)  # the readout is zero
    assert result.losses[-1] != result.losses[0]
    if run is MLP:  # judged by its training loss alone
        assert result.metrics == {}
    else:
        assert 0 < result.metrics["valid_accuracy"] < 1
        assert math.isfinite(result.metrics["valid_loss"])


def test_epochs_see_every_image_once_in_a_new_order() -> None:
    batches = mlp_task.ImageRegression(MLP.replace(images=64)).batches("cpu")
    first, second = (torch.cat(list(itertools.islice(batches, 4))) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(64))
    assert first.tolist() != second.tolist()


def test_squared_error_is_against_centred_targets() -> None:
    run = MLP.replace(loss="mse", activation="tanh")
    losses = engine.train(run, mlp_task.ImageRegression(run), MACHINE).losses
    assert losses[0] == pytest.approx(0.1 * 0.9)  # of outputs that are zero


@pytest.mark.parametrize(("key", "value"), [("images", 10**6), ("batch_size", 10**5)])
def test_more_than_there_is_is_refused(key, value) -> None:
    task = mlp_task.ImageRegression
    with pytest.raises(UserError, match=key):
        next(task(MLP.replace(**{key: value})).batches("cpu"))


def test_t_of_zero_is_sp() -> None:
    sp = MLP.replace(parametrization="sp")
    assert MLP.replace(t=0.0).id == sp.id == sp.replace(t=0.5, base_width=4).id
    assert len({MLP.replace(t=t).id for t in (0.0, 0.5, 1.0, 1.5)}) == 4
    assert MLP.replace(t=1.0).id == MLP.id


def counted(model, x) -> int:
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("source", ["cifar10", "digits"])
def test_flops_are_those_that_torch_counts(source) -> None:
    d_in, classes = image_source.SHAPES[source]
    run = MLP.replace(data=source, width=32, steps=1)
    model = mlp_task.build(run, d_in, classes)
    ours = run.flops()
    assert counted(model, torch.randn(16, d_in)) == ours
    channels = 3 if source == "cifar10" else 1
    side = round((d_in / channels) ** 0.5)
    run = RESNET.replace(data=source, width=8, steps=1)
    model = resnet_task.build(run, channels, classes)
    ours = run.flops()
    # The first layer passes nothing back.
    assert counted(model, torch.randn(16, channels, side, side)) == pytest.approx(ours, rel=0.05)


def test_flops_of_a_wide_resnet() -> None:
    run = WideResNetConfig.make(
        **{**SHARED, "data": "tiny_imagenet", "steps": 1}, width=8, base_width=8
    )
    ours = run.flops()
    found = counted(wide_task.build(run, 100), torch.randn(16, 3, 64, 64))
    assert found == pytest.approx(ours, rel=0.05)


@pytest.mark.parametrize("scale", ["small", "smoke"])  # paper: products/test_paper_scale.py
@pytest.mark.parametrize("name", ["mlp_cifar10", "resnet_cifar10", "wide_resnet_imagenet"])
def test_every_model_of_every_scale_can_be_built(name, scale) -> None:
    experiment = registry.family(name)
    source = next(iter(experiment.data_sources))
    d_in, classes = image_source.SHAPES[source]
    arguments = {"mlp_cifar10": (d_in, classes), "resnet_cifar10": (3, classes)}.get(name, (1000,))
    build = {
        "mlp_cifar10": mlp_task.build,
        "resnet_cifar10": resnet_task.build,
        "wide_resnet_imagenet": wide_task.build,
    }[name]
    runs = [r for p in experiment.products for r in p.runs(scale, source)]
    shapes = {(r.width, r.parametrization): r for r in runs}
    for run in shapes.values():
        with torch.device("meta"):
            model = build(run, *arguments)
        assert sum(p.numel() for p in model.parameters()) > 0


def test_paper_sizes_and_grids() -> None:
    with torch.device("meta"):
        resnet = resnet_task.build(RESNET.replace(width=64, base_width=64), 3, 10)
        wide = wide_task.build(
            WideResNetConfig.make(**{**SHARED, "data": "imagenet"}, width=64, base_width=8), 1000
        )
    assert sum(p.numel() for p in resnet.parameters()) == 6_573_120
    assert sum(p.numel() for p in wide.parameters()) == 68_883_240
    assert [round(2**rate, 3) for rate in SPACE["log2lr"]][0::9] == [0.064, 32.768]
    assert (SPACE["output_mult"][0], SPACE["output_mult"][-1]) == (0.3125, 160)
    assert SPACE["weight_decay"][2] == pytest.approx(0.000015, rel=0.02)  # the paper's best
    assert 0.4375 in SPACE["momentum"] and max(SPACE["momentum"]) == 0.875
    assert len(registry.product("table13").runs("paper", "imagenet")) == 64
    assert len({r.width for r in registry.product("fig3").runs("paper", "cifar10")}) == 6
    assert len({r.log2lr for r in registry.product("fig3").runs("paper", "cifar10")}) == 20
    assert {r.seed for r in registry.product("fig16").runs("paper", "cifar10")} == set(range(15))
