"""Style, types and the workflow's own lint: `make check`, beside all other tests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(600)  # types without a cache take half a minute of one core
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_check_finds_nothing() -> None:
    # What runs the tests is set up.
    command = ["make", "--old-file=setup", "check", f"VENV={sys.prefix}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
