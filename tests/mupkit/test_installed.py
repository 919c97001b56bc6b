"""`pip install .` is the core alone: what wheel and sdist hold, and that torch is enough."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SOURCES = {"mupkit", "experiments", "pyproject.toml", "README.md", "LICENSE"}
MODEL = """
import torch

class Model(torch.nn.Sequential):
    def __init__(self, width):
        super().__init__(torch.nn.Linear(8, width), torch.nn.Linear(width, 2))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and an sdist, built from the files that git knows."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if name.split("/")[0] in (
            "mupkit",
            "experiments",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    for kind in ("sdist", "wheel"):
        code = f"from setuptools import build_meta as b; b.build_{kind}({str(out)!r})"
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    return out


def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("dist-info/METADATA"))
        return archive.read(name).decode()


def test_the_wheel_holds_the_core_alone(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mupkit"}
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "mupkit").rglob("*.py")}
    assert {name for name in names if name.startswith("mupkit/")} == {*modules, "mupkit/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    text = metadata(wheel)
    assert "License-Expression: MIT" in text and re.search(r"^Version: \d+\.\d+", text, re.M)
    required = re.findall(r"^Requires-Dist: (.+)$", text, re.M)
    assert [r for r in required if "extra ==" not in r] == ["torch>=2.5"]


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"mupkit/__init__.py", "mupkit/py.typed", "pyproject.toml", "LICENSE"} <= names
    assert not any(name.startswith("experiments") for name in names)


def torch_alone(folder: Path) -> Path:
    """A folder with torch and what it asks for, and nothing else."""
    todo, seen = ["torch", "numpy"], set()  # torch warns without numpy, which it does not ask for
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # such as parts of CUDA
            continue
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            place = Path(str(found.locate_file(top)))
            if place.exists() and not (folder / top).exists():
                (folder / top).symlink_to(place)
        for line in found.requires or ():
            child = Requirement(line)
            if child.marker is None or child.marker.evaluate({"extra": ""}):
                todo.append(child.name)
    return folder


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory):
    """Runs code where the wheel and torch are all there is."""
    target, libraries = tmp_path_factory.mktemp("target"), tmp_path_factory.mktemp("libraries")
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    paths = [sysconfig.get_path("stdlib"), str(target), str(torch_alone(libraries))]

    def run(code: str) -> subprocess.CompletedProcess[str]:
        start = f"import sys; sys.path += {paths}\n"
        command = [sys.executable, "-I", "-S", "-c", start + code]
        return subprocess.run(command, capture_output=True, text=True, cwd=target)

    return run


def test_torch_is_enough_for_the_lines_of_the_readme(environment):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"```python\n(import mupkit.*?)```", text, re.S)
    assert lines is not None
    done = environment(MODEL + lines[1] + "\nprint(mupkit.__file__, type(optimizer).__name__)")
    assert done.returncode == 0, done.stderr
    assert "target" in done.stdout and done.stdout.split()[-1] == "AdamW"
    examples = "import doctest, mupkit; print(doctest.testmod(mupkit))"
    assert "failed=0" in environment(examples).stdout


def test_nothing_but_torch_is_there(environment):
    for absent in ("experiments", "pandas", "transformers", "mup"):
        assert "ModuleNotFoundError" in environment(f"import {absent}").stderr


def test_the_command_line_works(environment):
    done = environment("import runpy; sys.argv = ['mupkit', '--help']; runpy.run_module('mupkit')")
    assert done.returncode == 0, done.stderr


def test_a_torch_without_muon_is_enough(environment):
    """As before 2.9."""
    done = environment(
        "import torch; del torch.optim.Muon\n"
        "import mupkit\n"
        "try:\n    mupkit.MuMuon([], lr=1.0)\n"
        "except ValueError as error:\n    print(error)"
    )
    assert "has no Muon: give an impl, or update torch" in done.stdout, done.stderr
