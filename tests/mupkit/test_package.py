"""What the package exports, and the example in its documentation."""

from __future__ import annotations

import doctest
import subprocess
import sys

import mupkit


def test_star_import_brings_the_exports_and_nothing_else():
    names: dict[str, object] = {}
    exec("from mupkit import *", names)
    assert names.keys() - {"__builtins__"} == set(mupkit.__all__)


def test_the_example_runs():
    results = doctest.testmod(mupkit)
    assert results.attempted > 0
    assert results.failed == 0


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
