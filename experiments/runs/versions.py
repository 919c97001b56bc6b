"""The code that made a number: a hash of the files that can change it, and the commit.

The files follow from the imports, so a new module counts without being listed anywhere.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path

from experiments.declare import registry
from experiments.declare.product import Computation, Product
from experiments.declare.references import name_of
from experiments.runs.places import ROOT

DECLARATIONS = ("spec", "config")  # names of modules that only declare begin so


@cache
def code_version(family: str) -> str:
    """12 digits that change when code changes that can change this family's numbers.

    Raises:
        UserError: if there is no such family.
    """
    return _digest(training_code(registry.family(family).config.task))


def training_code(task: str) -> set[Path]:
    """Files that can change the numbers of a training.

    These are the core, the training loop, and everything that the task imports. Declarations are
    left out, since their values are in the run's id. So are errors, files and messages, which
    compute nothing.

    Args:
        task: reference of the family's task.
    """

    def declares(file: Path) -> bool:
        return file.parent in (
            ROOT / "experiments",
            ROOT / "experiments" / "declare",
        ) or file.name.startswith(DECLARATIONS)

    core = (ROOT / "mupkit").glob("*.py"), (ROOT / "experiments" / "train").glob("*.py")
    return {*chain(*core), *imported([module_file(task)], skip=declares)}


def computing_code(computation: Computation) -> list[Path]:
    """Files that can change a computation's table, in a fixed order.

    These are the whole core, and all that the function imports or reads.
    """
    files = {*(ROOT / "mupkit").glob("**/*.py")}
    files |= imported([module_file(name_of(computation.function))])
    for pattern in computation.reads:
        files.update(ROOT.glob(pattern))
    return sorted(files)


def computing_version(computation: Computation) -> str:
    """12 digits that change when code changes that can change a computation's table."""
    return _digest(computing_code(computation))


def drawing_code(product: Product) -> list[Path]:
    """Files whose change redraws a product and judges it again, in a fixed order.

    These are all of `analysis`, its exhibit's declarations, and all that its functions and
    `products.draw` import.
    """
    experiments = ROOT / "experiments"
    starts = [module_file(function) for function in product.functions]
    starts += [experiments / "products" / "draw.py", *(experiments / "analysis").glob("*.py")]
    starts += (experiments / "families" / product.exhibit).glob("spec*.py")
    return sorted(imported(starts))


def module_file(reference: str) -> Path:
    """The file of the module that "module:function" names."""
    return _file(reference.partition(":")[0], ROOT)


def imported(
    starts: Iterable[Path], skip: Callable[[Path], bool] = lambda file: False
) -> set[Path]:
    """Files of the project that some of its files import, directly or not, and these themselves.

    Imports inside functions count. `__init__.py` files do not: they hold docstrings alone.

    Args:
        starts: files; those outside the project are left out.
        skip: which files are left out, with what they alone import.
    """
    found: set[Path] = set()
    todo = {file for file in starts if file.is_relative_to(ROOT) and file.exists()}
    while todo:
        file = todo.pop()
        found.add(file)
        todo |= {f for f in _imports(file.read_bytes(), ROOT) - found if not skip(f)}
    return found


def _file(module: str, root: Path) -> Path:
    return root / f"{module.replace('.', '/')}.py"


@cache  # the workflow asks for the imports of every product, and most of them are the same files
def _imports(code: bytes, root: Path) -> frozenset[Path]:
    """Files below root that code imports anywhere; a name of a module is taken for one, too."""
    modules: set[str] = set()
    for node in _statements([ast.parse(code)]):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(file for name in modules if (file := _file(name, root)).exists())


def _statements(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Nodes and the statements inside them; expressions, which are most of a tree, are left out."""
    for node in nodes:
        yield node
        for part in ("body", "orelse", "handlers", "finalbody", "cases"):
            yield from _statements(getattr(node, part, ()))


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
