"""Which code made a number: a hash of the files that can change it, and the commit.

Figures, claims and the command line cannot change a number, nor can a model of another family, nor
can the core's subpackages change a training: they look at models.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from experiments.declare.spec import Measurement

ROOT = Path(__file__).parents[2]
ENGINE = ("train/checkpoint.py", "train/engine.py", "train/process.py", "declare/schedules.py")
DECLARATIONS = ("spec", "config")  # beginnings of the names of such modules
SHARED = ("models", "data")  # folders whose modules count where they are imported


@cache
def code_version(family: str) -> str:
    """12 digits that change when code changes that can change this family's numbers."""
    task = ROOT / "experiments" / "families" / family / "task.py"
    return _digest([*_core("mupkit/*.py"), *_imported(task)])


def measuring_code(measurement: Measurement) -> list[Path]:
    """Files whose change can change a measurement's table, in a fixed order."""
    files = {*_core("mupkit/**/*.py"), *_imported(module_file(measurement.function))}
    for pattern in measurement.reads:
        files.update(ROOT.glob(pattern))
    return sorted(files)


def measuring_version(measurement: Measurement) -> str:
    """12 digits that change when code changes that can change a measurement's table."""
    return _digest(measuring_code(measurement))


def module_file(reference: str) -> Path:
    """The file of the module that "module:function" names."""
    return _file(reference.partition(":")[0])


def _file(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def _core(pattern: str) -> list[Path]:
    return [*ROOT.glob(pattern), *(ROOT / "experiments" / name for name in ENGINE)]


def _imported(start: Path) -> set[Path]:
    """A family's file and what it imports of the family, the shared models and the data.

    Without declarations: a configuration's values are in its run's id.
    """
    folders = {start.parent, *(ROOT / "experiments" / name for name in SHARED)}
    found: set[Path] = set()
    todo = {start}
    while todo:
        file = todo.pop()
        found.add(file)
        named = {_file(module) for module in _modules(file)}
        todo |= {f for f in named - found if f.parent in folders and f.exists()}
        todo = {f for f in todo if not f.name.startswith(DECLARATIONS)}
    return found


def _modules(file: Path) -> Iterable[str]:
    """Modules that a file imports anywhere; a name of a module is taken for one, too."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


@cache
def git_state() -> tuple[str, bool]:
    """The commit of the checkout and whether tracked files differ from it; ("", False) outside."""

    def git(*args: str) -> str:
        done = subprocess.run(("git", "-C", str(ROOT), *args), capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno"))
    except FileNotFoundError:
        return "", False
