"""Which files' changes count as other code, and which redraw a product."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.declare import registry
from experiments.declare.family import Family
from experiments.declare.product import Computation
from experiments.declare.references import name_of
from experiments.runs import versions
from experiments.runs.places import ROOT

TASK = "experiments.families.family.task"
FILES = {
    "mupkit/rules.py": "",
    "mupkit/coord_check/record.py": "",
    "experiments/errors.py": "",
    "experiments/declare/config.py": "from experiments import errors",
    "experiments/models/mlp.py": "from experiments.models import layers",
    "experiments/models/layers.py": "from experiments.errors import UserError",
    "experiments/models/transformer.py": "",
    "experiments/data/images.py": "",
    "experiments/train/engine.py": "",
    "experiments/train/new_optimizer.py": "",
    "experiments/families/family/task.py": (
        "from experiments.families.family.spec import A\nfrom experiments.models.mlp import MLP\n"
        "import plugins.augmentation\ndef f():\n    import experiments.data.images"
    ),
    "plugins/augmentation.py": "from plugins import noise",
    "plugins/noise.py": "",
    "experiments/families/family/compute.py": f"from {TASK} import build",
    "experiments/families/family/spec.py": (
        "from experiments.models import transformer\nfrom experiments.declare import config"
    ),
    "experiments/families/family/figures.py": "",
}
NOWHERE = {"mupkit/coord_check/record.py", "experiments/families/family/figures.py"}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def names(files, root: Path = ROOT) -> set[str]:
    return {str(file.relative_to(root)) for file in files}


def test_a_training_counts_what_its_task_imports_wherever_it_is(project) -> None:
    declared = {
        "experiments/declare/config.py",
        "experiments/errors.py",
        "experiments/families/family/spec.py",
        "experiments/models/transformer.py",  # of the declaration alone
    }
    unseen = declared | NOWHERE | {"experiments/families/family/compute.py"}
    assert names(versions.training_code(f"{TASK}:Task"), project) == FILES.keys() - unseen


def test_a_computation_counts_what_it_imports_and_what_it_reads(project) -> None:
    plain = Computation(function="experiments.families.family.compute:sizes")
    training = {"experiments/train/engine.py", "experiments/train/new_optimizer.py"}
    figures = {"experiments/families/family/figures.py"}
    assert names(versions.computing_code(plain), project) == FILES.keys() - training - figures
    reading = Computation(function=plain.function, reads=("experiments/families/*/fig*.py",))
    assert names(versions.computing_code(reading), project) == FILES.keys() - training


def test_a_version_follows_the_content_of_its_files(project) -> None:
    plain = Computation(function="experiments.families.family.compute:sizes")
    before = versions.computing_version(plain)
    assert versions.computing_version(plain) == before
    (project / "experiments/families/family/figures.py").write_text("# changed")
    assert versions.computing_version(plain) == before
    (project / "plugins/noise.py").write_text("# changed")
    assert versions.computing_version(plain) != before


def test_each_file_is_parsed_once_for_all_products(monkeypatch) -> None:
    versions._imports.cache_clear()
    parsed, parse = [], versions.ast.parse
    monkeypatch.setattr(versions.ast, "parse", lambda code: parsed.append(code) or parse(code))
    for product in registry.products().values():
        versions.drawing_code(product)
    assert len(parsed) == len(set(parsed)) > 50


# What Python itself loads, against what is found by reading the code.


def modules_of(*references: str) -> frozenset[str]:
    return frozenset(reference.partition(":")[0] for reference in references)


TASKS = {
    f.name: modules_of(f.config.task) for f in registry.exhibits().values() if isinstance(f, Family)
}
DRAWN = {
    product.name: modules_of("experiments.products.draw", *product.functions)
    for product in registry.products().values()
}
COMPUTED = {p.name: p.computation for p in registry.products().values() if p.computation}
COMPUTING = {name: modules_of(name_of(found.function)) for name, found in COMPUTED.items()}


@pytest.fixture(scope="module")
def loaded() -> dict[frozenset[str], set[str]]:
    """Files of the project that importing some modules loads, in a process of its own."""
    groups = sorted(map(sorted, {*TASKS.values(), *DRAWN.values(), *COMPUTING.values()}))
    code = f"""
import importlib, json, os, sys
import matplotlib.pyplot, pandas, scipy.stats, torch, pydantic  # once, not in every child
for modules in json.loads(sys.argv[1]):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        for module in modules:
            importlib.import_module(module)
        files = [getattr(m, "__file__", None) or "" for m in [*sys.modules.values()]]
        print(json.dumps([modules, [f for f in files if f.startswith({str(ROOT)!r} + "/")]]))
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{{modules}} cannot be imported")
"""
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(groups)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [modules for modules, _ in found] == groups
    return {
        frozenset(modules): {str(Path(f).relative_to(ROOT)) for f in files if ".venv" not in f}
        for modules, files in found
    }


def code(files: set[str]) -> set[str]:
    """Without `__init__.py` of experiments, which hold docstrings alone (tests/test_layers.py)."""
    return {f for f in files if not (f.startswith("exp") and f.endswith("__init__.py"))}


def test_every_file_that_a_task_loads_counts_unless_it_declares(loaded) -> None:
    ground = {"experiments/errors.py", "experiments/files.py", "experiments/messages.py"}
    for family, modules in TASKS.items():
        files = loaded[modules]
        counted = names(versions.training_code(registry.family(family).config.task))
        declarations = {
            f for f in files if "/declare/" in f or Path(f).name.startswith(("spec", "config"))
        }
        assert len(code(files)) > 10
        assert code(files) - ground - declarations <= counted, family


def test_every_file_that_a_product_loads_redraws_it(loaded) -> None:
    for name, modules in DRAWN.items():
        files = loaded[modules]
        product = registry.product(name)
        counted = names(versions.drawing_code(product))
        assert len(code(files)) > 5
        assert code(files) <= counted, name
        assert f"experiments/families/{product.exhibit}/spec.py" in counted


def test_every_file_that_a_computation_loads_makes_it_again(loaded) -> None:
    for name, modules in COMPUTING.items():
        counted = names(versions.computing_code(COMPUTED[name]))
        assert code(loaded[modules]) <= counted, name
