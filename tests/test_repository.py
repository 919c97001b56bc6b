"""What is committed: no data, no caches, no results of somebody's runs."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_BYTES = 1_000_000
# The built-in text, which would otherwise need two packages of 60 MB: 0.7 MB of articles under a
# free licence (wikipedia_sample.md), made by tools/wikipedia_sample.py.
SHIPPED = {"experiments/data/wikipedia_sample.json.bz2"}

LARGER = {"report/reference.html": 9_000_000}  # with plotly inside, so that it needs no network


def tracked(*options: str) -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_nothing_is_tracked_that_should_be_ignored() -> None:
    assert tracked("--cached", "--ignored", "--exclude-standard") == []


def test_no_tracked_file_is_large_or_raw_data() -> None:
    for name in tracked():
        path = ROOT / name
        if path.exists():
            assert path.stat().st_size < LARGER.get(name, MAX_BYTES), name
            raw = path.suffix in {".npy", ".npz", ".bz2", ".pt", ".pkl"}
            assert raw == (name in SHIPPED), name
