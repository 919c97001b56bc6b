"""A copy of the project in a folder of its own, to run the workflow in."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.kills import PARTS, ROOT


@dataclass
class Project:
    root: Path
    env: dict[str, str]

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", *args, "--cores", "2"]

    def snakemake(self, *args: str) -> subprocess.CompletedProcess:
        return self.run(self.command(*args))

    def experiments(self, *args: str) -> subprocess.CompletedProcess:
        return self.run([sys.executable, "-m", "experiments", *args])

    def run(self, command: list[str]) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True)


@pytest.fixture
def project(tmp_path, tiny_data) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, root / part, ignore=ignore)
        else:
            shutil.copy(source, root / part)
    env = {k: v for k, v in os.environ.items() if not k.startswith("MUPKIT")}
    env |= {"MUPKIT_DATA": str(tiny_data), "MUPKIT_CACHE": str(tmp_path / "cache")}
    return Project(root, env)
