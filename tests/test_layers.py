"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAMILIES = sorted(p.parent.name for p in (ROOT / "experiments" / "families").glob("*/spec.py"))


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


def test_the_core_imports_torch_and_the_standard_library_alone() -> None:
    allowed = {*sys.stdlib_module_names, "torch", "mupkit"}
    for file in (ROOT / "mupkit").glob("**/*.py"):
        # The one exception; "import mupkit" below must not bring it.
        extra = {"transformers"} if file == ROOT / "mupkit" / "huggingface.py" else set()
        assert {name.split(".")[0] for name in imports(file)} <= allowed | extra, file


def test_families_never_import_each_other() -> None:
    assert FAMILIES
    for family in FAMILIES:
        others = {f"experiments.families.{f}" for f in FAMILIES if f != family}
        for file in (ROOT / "experiments" / "families" / family).glob("**/*.py"):
            assert not any(n.startswith(o) for n in imports(file) for o in others), file


def test_shared_code_never_imports_a_family() -> None:
    for file in (ROOT / "experiments").glob("**/*.py"):
        if file.parent.name in FAMILIES:
            continue
        for family in FAMILIES:
            assert not any(n.startswith(f"experiments.families.{family}") for n in imports(file)), (
                file
            )


def test_rules_hold_no_science() -> None:
    for file in (ROOT / "Snakefile", *(ROOT / "workflow").glob("**/*.smk")):
        text = file.read_text(encoding="utf-8")
        assert "torch" not in text.replace("no torch", ""), file
        assert "script:" not in text, file


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import experiments.declare.registry as r; r.experiments(); "
            "import experiments.runs.sweep as s; "
            "s.groups('paper', s.resolve_data('wikitext2'))",
            {"torch", "pandas", "matplotlib", "pyarrow", "datasets", "scipy"},
        ),
        (
            "import experiments.declare.registry as r, experiments.declare.spec as s, "
            "experiments.products; "
            "[s.load(f) for p in r.products().values() for f in p.functions]",
            {"torch"},
        ),
        ("import experiments.runs.store", {"torch", "pandas"}),
        ("import experiments.cli", {"torch", "pandas", "matplotlib", "snakemake"}),
        ("import mupkit", {"pandas", "matplotlib", "pydantic", "transformers", "experiments"}),
    ],
)
def test_what_an_import_must_not_bring(statement, absent) -> None:
    code = f"{statement}\nimport sys\nprint(*({absent!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
