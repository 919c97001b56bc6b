"""Which files' changes count as other code."""

import pytest

from experiments.declare import registry
from experiments.declare.product import Computation
from experiments.declare.references import load
from experiments.runs import versions

FAMILY = "experiments/families/family"
TASK = "experiments.families.family.task:build"
FILES = {
    "mupkit/rules.py": "",
    "mupkit/coord_check/record.py": "",
    "experiments/errors.py": "",
    "experiments/declare/product.py": "",
    "experiments/train/engine.py": "",
    "experiments/models/mlp.py": "from experiments.models import layers",
    "experiments/models/layers.py": "",
    "experiments/models/transformer.py": "",
    "experiments/data/images.py": "from experiments.errors import UserError",
    f"{FAMILY}/task.py": (
        "from experiments.families.family.config import A\nfrom experiments.models.mlp import MLP\n"
        "def f():\n    import experiments.data.images"
    ),
    f"{FAMILY}/config.py": "import experiments.declare.product",
    f"{FAMILY}/compute.py": "from experiments.families.family.task import build",
    f"{FAMILY}/spec.py": "from experiments.models import transformer",
    f"{FAMILY}/figures.py": "",
}
DECLARING = {"experiments/errors.py", "experiments/declare/product.py", f"{FAMILY}/config.py"}
ELSEWHERE = {"experiments/models/transformer.py", f"{FAMILY}/spec.py", f"{FAMILY}/figures.py"}


@pytest.fixture
def changes(tmp_path, monkeypatch):
    """Which files' changes change a version."""
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def found(version) -> set[str]:
        changed = set()
        for name in FILES:
            before = version()
            with (tmp_path / name).open("a") as file:
                file.write("\n# changed")
            if version() != before:
                changed.add(name)
        return changed

    return found


def test_code_version_follows_what_the_task_imports(changes) -> None:
    unseen = {*ELSEWHERE, *DECLARING, "mupkit/coord_check/record.py", f"{FAMILY}/compute.py"}
    found = changes(lambda: versions._digest(versions.training_code(TASK)))
    assert found == FILES.keys() - unseen


def test_computing_version_follows_the_computing_module_and_what_it_reads(changes) -> None:
    plain = Computation(function="experiments.families.family.compute:sizes")
    assert changes(lambda: versions.computing_version(plain)) == FILES.keys() - ELSEWHERE
    reading = Computation(function=plain.function, reads=("experiments/families/*/spec.py",))
    seen = FILES.keys() - ELSEWHERE | {f"{FAMILY}/spec.py"}
    assert changes(lambda: versions.computing_version(reading)) == seen


def test_the_real_families_see_their_own_models() -> None:
    family = registry.family("transformer_wikitext2")
    names = {file.name for file in versions.training_code(family.config.task)}
    assert {"transformer.py", "building.py", "text.py", "task.py", "engine.py", "rules.py"} <= names
    assert not names & {"spec.py", "config.py", "figures.py", "mlp.py", "errors.py"}


def test_every_product_is_redrawn_when_the_code_that_draws_it_changes() -> None:
    for product in registry.products().values():
        files = set(versions.drawing_code(product))
        for function in product.functions:
            assert versions.module_file(function) in files, product.name
            assert callable(load(function))
        assert {"draw.py", "spec.py", "verdicts.py"} <= {file.name for file in files}
