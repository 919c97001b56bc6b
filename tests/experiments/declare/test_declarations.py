"""Run configurations, sweeps and ids."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from experiments.declare import registry
from experiments.declare.config import RunConfig
from experiments.declare.family import Family
from experiments.declare.product import Computation, Figure
from experiments.declare.references import load
from experiments.declare.scales import SCALES
from experiments.declare.sweep import Override, Sweep
from experiments.errors import UserError
from experiments.families.transformer_wikitext2.config import TransformerConfig
from experiments.runs.places import ROOT
from tests.tiny_runs import TINY, tiny_run

SIZE = {"width": 64, "base_width": 32, "steps": 10, "seq_len": 16, "vocab_size": 200}
BASE = {**TINY, **SIZE}


def make(**changes) -> TransformerConfig:
    return tiny_run(**{**SIZE, **changes})


def test_id_is_what_it_was_when_results_were_first_stored() -> None:
    # A changed id would orphan every stored run: defaults and canonical forms are frozen.
    assert make().id == "dfcb822be8e37a0f"
    assert make(parametrization="sp", tied=True, beta2=0.95).id == "14ca9a83b718a3f0"


@pytest.mark.parametrize(
    "changes",
    [
        {"log2lr": -7.0},
        {"d_head": 16},
        {"d_k": 16, "d_ffn": 256},
        {"base_d_head": 8, "base_n_head": 4, "base_d_ffn": 128},
        {"beta2": 0.999, "optimizer": "adam"},
        {"optimizer": "adamw"},
    ],
)
def test_same_numbers_same_id(changes) -> None:
    assert make(**changes).id == make().id


@pytest.mark.parametrize(
    "changes",
    [
        {"log2lr": -7.5},
        {"seed": 1},
        {"parametrization": "sp"},
        {"d_k": 8},
        {"base_width": 64},
        {"base_d_k": 4},
        {"data": "wikipedia_sample"},
        {"optimizer": "adamw", "weight_decay": 0.1},
    ],
)
def test_other_numbers_other_id(changes) -> None:
    assert make(**changes).id != make().id


def test_base_does_not_matter_in_sp() -> None:
    sp = make(parametrization="sp")
    assert sp.replace(base_width=16).id == sp.id
    assert sp.replace(base_d_k=2).id == sp.id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widht": 3}, ["widht", "did you mean 'width'"]),
        ({"parametrization": "mu"}, ["parametrization", "'sp' or 'mup'"]),
        ({"width": 0}, ["width", "greater than 0", "got 0"]),
        ({"steps": "many"}, ["steps", "integer"]),
        ({"norm": "mid"}, ["norm", "'pre' or 'post'"]),
        ({"log2lr": 2000}, ["log2lr: ", "less than or equal to 100", "got 2000"]),
        ({"log2lr": -1e308}, ["log2lr: ", "greater than or equal to -100"]),
        ({"log2lr": "nan"}, ["log2lr: ", "finite number (got 'nan')"]),
        ({"output_mult": "1e400"}, ["output_mult: ", "finite number"]),
        ({"init_std": 1e308}, ["init_std: ", "1e+30 or less", "got 1e+308"]),
        ({"seed": 2**64}, ["seed: ", "2147483647 or less", f"got {2**64}"]),
        ({"seed": 2**32}, ["seed: ", "2147483647 or less"]),
        ({"steps": str(10**400)}, ["steps: ", "2147483647 or less", "(got '1000", "0...)"]),
        ({"width": 2**21}, ["width: ", "less than or equal to 1048576"]),
        ({"d_head": 10**9}, ["d_head: ", "less than or equal to 1048576"]),
        ({"momentum": 0.9}, ["momentum: changes nothing with optimizer=adam; leave it out"]),
        ({"optimizer": "sgd", "beta1": 0.8}, ["beta1: changes nothing with optimizer=sgd"]),
        ({"optimizer": "sgd", "eps": 1e-6}, ["eps: changes nothing with optimizer=sgd"]),
        ({"warmup": 1}, ["warmup: changes nothing with one step, which has the whole rate anyway"]),
        ({"steps": 1, "schedule": "cosine"}, ["schedule: changes nothing with no step after"]),
        ({"steps": 4, "warmup": 4, "schedule": "linear"}, ["schedule: changes nothing with no st"]),
        ({"tied": True, "zero_readout": False}, ["zero_readout: changes nothing with tied=True"]),
        ({"base_n_layer": 2, "norm": "post"}, ["wikitext2: base_n_layer: depth-µP needs norm=pre"]),
    ],
)
def test_bad_value_names_the_key(changes, words) -> None:
    with pytest.raises(UserError) as error:
        make(**changes)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "changes", "error"),
    [
        ("resnet_cifar10", {"cutout": 32}, r"cutout: .* less than 32 \(got 32\)$"),
        ("bert", {"finetune_epochs": 3}, "finetune_epochs: changes nothing with finetune_examples"),
        ("bert", {"embed_log2lr": 1e9}, "embed_log2lr: .* less than or equal to 100"),
        ("bert", {"d_head": 8}, r"d_head and d_k: .* not 8 and 8 with width 64 and n_head 4$"),
        ("bert", {"width": 65}, "d_head and d_k: .* not 16 and 16 with width 65 and n_head 4$"),
        ("bert", {"base_d_k": 8}, "base_d_head and base_d_k: .* base_width 32 and base_n_head 2$"),
        ("bert", {"optimizer": "sgd", "gain_mult": 2}, "gain_mult: changes nothing with opt"),
        ("bert", {"optimizer": "sgd", "bias_mult": 2}, "bias_mult: changes nothing with opt"),
        ("gpt_proxy", {"documents": 3}, "documents: changes nothing with no evaluations"),
        ("gpt_proxy", {"relative_mult": 2, "attention": "absolute"}, "relative_mult: changes noth"),
        ("transformer_wmt14", {"width": 3}, "width: .* greater than or equal to 4"),
        ("transformer_wmt14", {"beam": 10**6}, "beam: .* less than or equal to 100"),
    ],
)
def test_bad_value_of_a_family_names_the_key(family, changes, error) -> None:
    chosen = registry.family(family)
    data = next(iter(chosen.data_sources))
    with pytest.raises(UserError, match=f"^{family}: {error}"):
        chosen.config.make(**{**chosen.example, "data": data, **changes})


@pytest.mark.parametrize(
    ("family", "changes", "key"),
    [
        ("transformer_wikitext2", {"parametrization": "sp", "base_width": 16}, "base_width"),
        ("transformer_wikitext2", {"parametrization": "sp", "base_d_ffn": 16}, "base_d_ffn"),
        ("mlp_cifar10", {"parametrization": "sp", "t": 0.5}, "t"),
        ("mlp_cifar10", {"t": 0.0, "base_width": 16}, "base_width"),
        ("mlp_cifar10", {"t": 0.5, "width": 64, "base_width": 64}, "t"),
        ("transformer_iwslt14", {"length_penalty": 2.0, "beam": 0}, "length_penalty"),
        ("transformer_wikitext2", {"norm": "pre", "n_layer": 3, "base_n_layer": 3}, "base_n_layer"),
        ("bert", {"log2lr": -9.0, "embed_log2lr": -9.0}, "embed_log2lr"),
        ("bert", {"optimizer": "sgd", "embed_log2lr": -9.0}, "embed_log2lr"),
    ],
)
def test_what_a_sweep_may_have_idle_is_refused_of_a_user(family, changes, key) -> None:
    chosen = registry.family(family)
    values = {**chosen.example, "data": next(iter(chosen.data_sources))}
    run = chosen.config.make(**{**values, **changes})
    run.refuse_idle({*changes} - {key})
    with pytest.raises(UserError, match=f"^{family}: {key}: changes nothing with .*; leave it out"):
        run.refuse_idle(changes)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mlp_cifar10", {"t": 0.5, "width": 64, "base_width": 32}),
        ("mlp_cifar10", {"t": 1.0, "width": 64, "base_width": 64}),
        ("transformer_wikitext2", {"norm": "pre", "n_layer": 4, "base_n_layer": 2}),
        ("transformer_wikitext2", {"width": 64, "base_width": 64, "base_d_ffn": 256}),
        ("bert", {"log2lr": -9.0, "embed_log2lr": -8.0}),
    ],
)
def test_what_changes_something_or_is_the_usual_value_is_not_refused(family, changes) -> None:
    chosen = registry.family(family)
    example = {**chosen.example, "data": next(iter(chosen.data_sources))}
    chosen.config.of_example(example, changes)


def test_a_users_value_drops_what_it_makes_idle_in_the_example() -> None:
    chosen = registry.family("resnet_cifar10")
    example = {**chosen.example, "data": "cifar10"}
    assert chosen.config.of_example(example, {}).momentum == 0.9
    run = chosen.config.of_example(example, {"optimizer": "adam"})
    assert (run.momentum, run.optimizer) == (0.0, "adam")
    with pytest.raises(UserError, match="momentum: changes nothing with optimizer=adam"):
        chosen.config.of_example(example, {"optimizer": "adam", "momentum": "0.9"})


def test_missing_value_names_the_key() -> None:
    with pytest.raises(UserError, match=r"transformer_wikitext2: seq_len: Field required"):
        TransformerConfig.make(**{k: v for k, v in BASE.items() if k != "seq_len"})


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make().width = 3


def test_sweep_is_the_product_of_grid_and_seeds() -> None:
    sweep = Sweep(
        name="s",
        config=TransformerConfig,
        base={k: v for k, v in BASE.items() if k != "data"},
        grid={"width": (32, 64), "log2lr": (-8, -7, -6)},
        seeds=2,
        scales={"smoke": Override(base={"steps": 3}, grid={"log2lr": (-8,)}, seeds=1)},
    )
    runs = sweep.runs("small", "wikitext2")
    assert len(runs) == 2 * 3 * 2
    assert {(r.width, r.log2lr, r.seed) for r in runs} >= {(32, -8.0, 0), (64, -6.0, 1)}
    smoke = sweep.runs("smoke", "wikitext2")
    assert [(r.width, r.log2lr, r.seed, r.steps) for r in smoke] == [
        (32, -8.0, 0, 3),
        (64, -8.0, 0, 3),
    ]


@pytest.mark.parametrize("scale", SCALES)
def test_every_product_expands_to_unique_runs(scale) -> None:
    for product in registry.products().values():
        runs = product.runs(scale, "wikitext2")
        assert len({r.id for r in runs}) == len(runs)
        assert bool(runs) == bool(product.sweeps)
        assert len({str(sorted(r.model_dump().items(), key=str)) for r in runs}) == len(runs)


def test_runs_of_a_sweep_share_what_is_not_swept() -> None:
    for product in registry.products().values():
        for sweep in product.sweeps:
            points = sweep.scales["small"].points or sweep.points
            swept = {*sweep.axes("small"), *(key for point in points for key in point)}
            first, *others = (r.model_dump() for r in sweep.runs("small", "wikitext2"))
            for other in others:
                assert {k for k in first if first[k] != other[k]} <= swept


def test_a_name_is_of_one_sweep_in_a_family() -> None:
    for exhibit in registry.exhibits().values():
        named: dict[str, Sweep] = {}
        for sweep in (sweep for product in exhibit.products for sweep in product.sweeps):
            assert named.setdefault(sweep.name, sweep) == sweep, f"{exhibit.name}: {sweep.name}"


def test_claims_have_unique_ids_and_existing_functions() -> None:
    from experiments.declare.references import load

    for product in registry.products().values():
        ids = [claim.id for claim in product.claims]
        assert len(set(ids)) == len(ids)
        for claim in product.claims:
            assert callable(load(claim.measure, "a test"))


def test_every_product_is_drawn_by_a_function_that_exists() -> None:
    from experiments.declare.references import load

    for product in registry.products().values():
        references = [*product.functions]
        if product.computation:
            references.append(product.computation.function)
        assert references
        for reference in references:
            assert callable(load(reference, "a test"))


def test_a_product_has_one_origin_of_its_numbers() -> None:
    values = {"name": "x", "title": "", "caption": "", "source": "", "draw": "m:f"}
    sweep = registry.product("fig1").sweeps
    measured = Computation(function="m:f", settings={"a": 1, "b": 2}, scales={"smoke": {"b": 3}})
    schematic = Figure(**values)
    assert (schematic.schematic, schematic.scaled) == (True, False)
    assert schematic.suffixes == ("svg", "png")
    assert Figure(**values, sweeps=sweep).tidy_tables == ("runs", "curves", "provenance")
    of_measurement = Figure(**values, computation=measured)
    assert of_measurement.tidy_tables == ("runs", "provenance")
    assert of_measurement.suffixes == ("svg", "png", "csv")
    assert of_measurement.scaled
    assert not Figure(**values, computation=Computation(function="m:f")).scaled
    assert measured.at("small") == {"a": 1, "b": 2}
    assert measured.at("smoke") == {"a": 1, "b": 3}
    with pytest.raises(ValueError, match="not both"):
        Figure(**values, sweeps=sweep, computation=measured)
    with pytest.raises(ValueError, match="no numbers"):
        Figure(**values, claims=registry.product("fig1").claims)


def test_what_trains_nothing_is_told_apart() -> None:
    assert registry.family("transformer_wikitext2").config
    with pytest.raises(UserError, match="theory trains nothing"):
        registry.family("theory")


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(UserError, match=r"unknown figure or table 'fig99'.*fig1"):
        registry.product("fig99")
    with pytest.raises(UserError, match=r"unknown family 'transformer'.*transformer_wikitext2"):
        registry.exhibit("transformer")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "", "Fig 1", "runs", "checkpoints", "reverse"]
)
def test_a_products_name_is_a_plain_name_and_no_folder_of_the_store(name) -> None:
    with pytest.raises(ValueError, match="a name is letters"):
        Figure(name=name, title="", caption="", source="", draw="a:b")


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        (
            "experiments.analysis.landscapes:mup_regrt",
            r"unknown function of experiments\.analysis\.landscapes, named by the claim x: "
            r"'mup_regrt'; did you mean 'mup_regret'",
        ),
        (
            "experiments.analysis.landscape:mup_regret",
            r"the claim x names experiments\.analysis\.landscape:mup_regret; no module "
            r"experiments\.analysis\.landscape$",
        ),
        ("nowhere.at_all:f", "no module nowhere$"),
    ],
)
def test_a_function_that_is_not_there_is_named_with_who_names_it(reference, error) -> None:
    with pytest.raises(UserError, match=error):
        load(reference, "the claim x")


def test_a_module_whose_own_import_fails_is_not_hidden(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken_family.py").write_text("import not_installed_at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_installed_at_all"):
        load("broken_family:f", "the claim x")


def test_a_family_without_a_task_is_named(tmp_path, monkeypatch) -> None:
    class Lacking(RunConfig):
        family = "lacking"

    folder = tmp_path / "lacking"
    folder.mkdir()
    (folder / "spec.py").write_text("")
    module = SimpleNamespace(FAMILY=Family(title="", config=Lacking, example={}))
    monkeypatch.setitem(sys.modules, "experiments.families.lacking.spec", module)
    monkeypatch.setitem(sys.modules, "experiments.families.lacking", SimpleNamespace(spec=module))
    with pytest.raises(UserError, match=r"lacking/spec\.py: Lacking\.task is missing"):
        registry._named(folder / "spec.py")


def test_a_seed_is_one_that_torch_tells_from_others() -> None:
    """Its generator on a CPU takes 32 bits of a seed, so that 2**32 would be 0 again."""
    assert tiny_run(seed=2**31 - 1).seed == 2**31 - 1
    with pytest.raises(UserError, match=r"seed: .* \(got 2147483648\)"):
        tiny_run(seed=2**31)


def test_a_family_with_a_damaged_record_is_left_out_and_the_others_go_on(tmp_path) -> None:
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    shutil.copy(ROOT / "Snakefile", tmp_path)
    damaged = tmp_path / "experiments/families/transformer_wikitext2/tuned.json"
    damaged.write_text("null")
    env = {**os.environ, "MUPKIT_CACHE": str(tmp_path / "cache")}
    for args, status in (("list", 0), ("show fig20", 0), ("show fig1", 2), ("doctor", 1)):
        command = [sys.executable, "-m", "experiments", *args.split()]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert f"left out: {damaged}: " in done.stderr
    assert "transformer_wikitext2 is left out" in done.stdout
