"""A copy of the project in a folder of its own, to run the workflow in."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

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


def copied(folder: Path, data: Path) -> Project:
    """The checkout's code in a folder, with a cache of its own beside it."""
    root = folder / "project"
    root.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, root / part, ignore=ignore)
        else:
            shutil.copy2(source, root / part)
    # Its many processes compile it once.
    left_out = ("MUPKIT", "PYTHONDONTWRITEBYTECODE")
    env = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    return Project(root, env | {"MUPKIT_DATA": str(data), "MUPKIT_CACHE": str(folder / "cache")})


@pytest.fixture
def project(tmp_path, tiny_data) -> Project:
    return copied(tmp_path, tiny_data)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_data) -> Path:
    """A project with fig1 trained and drawn at the scale smoke; all processes of tests share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            project = copied(tmp_path_factory.mktemp("finishing"), tiny_data)
            done = project.snakemake("fig1", "--config", "scale=smoke")
            assert done.returncode == 0, done.stderr
            project.root.rename(folder)
    return folder


@pytest.fixture
def finish(project, finished) -> Callable[[], None]:
    """A function that puts what a workflow made of fig1 into the project, which has nothing yet."""

    def copy() -> None:
        for made in ("results", "figures", "logs", ".snakemake"):
            shutil.copytree(finished / made, project.root / made, dirs_exist_ok=True)

    return copy
