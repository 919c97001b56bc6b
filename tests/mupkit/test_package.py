"""What the package exports, and the examples in its documentation."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import mupkit

ELSEWHERE = {"mupkit.coord_check", "mupkit.huggingface"}  # their own tests run their examples
MODULES = {name for _, name, _ in pkgutil.walk_packages(mupkit.__path__, "mupkit.")} - ELSEWHERE
WITH_EXAMPLES = {"mupkit", "mupkit.attention", "mupkit.optim", "mupkit.parametrization"}


def test_star_import_brings_the_exports_and_nothing_else():
    names: dict[str, object] = {}
    exec("from mupkit import *", names)
    assert names.keys() - {"__builtins__"} == set(mupkit.__all__)


@pytest.mark.parametrize("name", sorted({"mupkit", *MODULES}))
def test_the_examples_run(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0
    assert (results.attempted > 0) == (name in WITH_EXAMPLES)


def test_only_torch_and_the_standard_library_are_imported():
    """Nothing that torch does not import itself."""
    code = """
import sys, torch
known = set(sys.modules)
import mupkit
roots = {name.partition(".")[0] for name in set(sys.modules) - known}
print(*sorted(roots - sys.stdlib_module_names - {"torch"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mupkit"]
