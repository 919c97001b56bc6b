"""Who may import whom."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
FLOORS = (
    ("errors", "files", "messages"),
    ("declare",),
    ("data", "models", "analysis"),
    ("train",),
    ("translation",),
    ("families", "runs"),
    ("products",),
    ("cli",),
    ("__main__",),
)
"""The rooms of `experiments` from the ground up. A room may use those on lower floors alone, and
the ground floor's rooms each other."""


def imports(file: Path) -> set[str]:
    """Modules that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def room(module: str) -> str:
    """The room of a module of `experiments`."""
    return module.split(".")[1]


def modules() -> dict[str, Path]:
    """Every module of `experiments` by its dotted name, without `__init__.py`."""
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file
        for file in EXPERIMENTS.glob("**/*.py")
        if file.name != "__init__.py"
    }


def arrows() -> dict[str, set[str]]:
    """Which modules of `experiments` each of them imports."""
    known = modules()
    return {module: {*imports(file)} & known.keys() for module, file in known.items()}


def test_arrows_point_down() -> None:
    floor = {name: i for i, rooms in enumerate(FLOORS) for name in rooms}
    for module, used in arrows().items():
        here = room(module)
        for other in used:
            there = room(other)
            beside = here == there or floor[here] == 0
            assert floor[there] < floor[here] or (beside and floor[there] == floor[here]), (
                f"{module} imports {other}"
            )


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in modules()} == {name for rooms in FLOORS for name in rooms}


def test_no_imports_in_a_circle() -> None:
    TopologicalSorter(arrows()).prepare()  # raises if there is one


def test_families_never_import_each_other() -> None:
    folders = {p.parent.name for p in EXPERIMENTS.glob("families/*/spec.py")}
    assert folders
    for module, used in arrows().items():
        if room(module) == "families":
            own = module.split(".")[2]
            assert not [o for o in used if room(o) == "families" and o.split(".")[2] != own], module


def test_package_files_hold_docstrings_alone() -> None:
    """So that no code hides where `versions.imported` does not look."""
    for file in EXPERIMENTS.glob("**/__init__.py"):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        assert all(isinstance(node, ast.Expr) for node in body), file


def test_the_core_imports_torch_and_the_standard_library_alone() -> None:
    allowed = {*sys.stdlib_module_names, "torch", "mupkit"}
    extras = {"huggingface.py": {"transformers"}, "transfer.py": {"optuna"}}
    for file in (ROOT / "mupkit").glob("**/*.py"):
        # Two exceptions, each with an extra of its own; "import mupkit" below must not bring them.
        own = extras.get(file.name, set())
        assert {name.split(".")[0] for name in imports(file)} <= allowed | own, file


def test_rules_hold_no_science() -> None:
    for file in (ROOT / "Snakefile", *(ROOT / "workflow").glob("**/*.smk")):
        text = file.read_text(encoding="utf-8")
        assert "torch" not in text.replace("no torch", ""), file
        assert "script:" not in text, file


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import experiments.declare.registry as r; r.exhibits(); "
            "from experiments.runs.grouping import groups; "
            "from experiments.declare.data_sources import resolve_all; "
            "groups('paper', resolve_all('wikitext2'))",
            {"torch", "pandas", "matplotlib", "pyarrow", "datasets", "scipy"},
        ),
        (
            "import experiments.declare.registry as r, experiments.products.draw; "
            "from experiments.declare.references import load; "
            "[load(f, p.name) for p in r.products().values() for f in p.functions]",
            {"torch"},
        ),
        ("import experiments.runs.store", {"torch", "pandas"}),
        ("import experiments.cli.main", {"torch", "pandas", "matplotlib", "snakemake"}),
        (
            "import mupkit",
            {"pandas", "matplotlib", "pydantic", "transformers", "optuna", "experiments"},
        ),
    ],
)
def test_what_an_import_must_not_bring(statement, absent) -> None:
    code = f"{statement}\nimport sys\nprint(*({absent!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
