"""Which files' changes count as other code."""

import pytest

from experiments.declare.product import Computation
from experiments.runs import versions

FILES = {
    "mupkit/rules.py": "",
    "mupkit/coord_check/record.py": "",
    "experiments/models/mlp.py": "from experiments.models import layers",
    "experiments/models/layers.py": "",
    "experiments/models/transformer.py": "",
    "experiments/data/images.py": "",
    "experiments/families/family/task.py": (
        "from experiments.families.family.spec import A\nfrom experiments.models.mlp import MLP\n"
        "def f():\n    import experiments.data.images"
    ),
    "experiments/families/family/measure.py": "from experiments.families.family.task import build",
    "experiments/families/family/spec.py": "from experiments.models import transformer",
    "experiments/families/family/figures.py": "",
    **{f"experiments/{name}": "" for name in versions.ENGINE},
}
ELSEWHERE = {
    "experiments/models/transformer.py",
    "experiments/families/family/spec.py",
    "experiments/families/family/figures.py",
}


@pytest.fixture
def changes(tmp_path, monkeypatch):
    """Which files' changes change what a function gives."""
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def found(version) -> set[str]:
        changed = set()
        for name in FILES:
            versions.code_version.cache_clear()
            before = version()
            with (tmp_path / name).open("a") as file:
                file.write("\n# changed")
            versions.code_version.cache_clear()
            if version() != before:
                changed.add(name)
        return changed

    yield found
    versions.code_version.cache_clear()


def test_code_version_follows_what_the_task_imports(changes) -> None:
    unseen = {*ELSEWHERE, "mupkit/coord_check/record.py", "experiments/families/family/measure.py"}
    assert changes(lambda: versions.code_version("family")) == FILES.keys() - unseen


def test_measuring_version_follows_the_measuring_module_and_what_it_reads(changes) -> None:
    plain = Computation(function="experiments.families.family.measure:sizes")
    assert changes(lambda: versions.computing_version(plain)) == FILES.keys() - ELSEWHERE
    reading = Computation(function=plain.function, reads=("experiments/families/*/spec.py",))
    seen = FILES.keys() - ELSEWHERE | {"experiments/families/family/spec.py"}
    assert changes(lambda: versions.computing_version(reading)) == seen


def test_the_real_families_see_their_own_models() -> None:
    task = versions.ROOT / "experiments" / "families" / "transformer_wikitext2" / "task.py"
    names = {file.name for file in versions._imported(task)}
    assert {"transformer.py", "text.py", "task.py"} <= names
    assert not names & {"spec.py", "figures.py", "mlp.py"}
