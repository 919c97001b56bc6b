"""environment.yml, pyproject.toml and requirements.lock say the same."""

import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch-gpu"}
NEEDED_BY_FAIRSEQ = {"bitarray", "hydra-core", "omegaconf"}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def required() -> dict[str, str]:
    """Version specifier by conda name of everything pyproject.toml asks for."""
    lines = list(project()["dependencies"])
    for extra in project()["optional-dependencies"].values():
        lines += extra
    requirements = [Requirement(line) for line in lines]
    return {
        CONDA_NAMES.get(r.name, canonicalize_name(r.name)): str(r.specifier) for r in requirements
    }


def conda() -> dict[str, str]:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))[
        "dependencies"
    ]
    pip = next(d["pip"] for d in dependencies if isinstance(d, dict))
    entries = [*(d for d in dependencies if isinstance(d, str)), *pip]
    found = {}
    for entry in entries:
        name = entry.split("=")[0].split("<")[0].split(">")[0].strip()
        found[name] = entry[len(name) :]
    return found


def test_environment_yml_agrees_with_pyproject() -> None:
    have = conda()
    for name, specifier in required().items():
        assert name in have, f"environment.yml lacks {name}"
        assert set(have[name].split(",")) == set(specifier.split(",")), name


def test_environment_yml_has_nothing_else() -> None:
    assert set(conda()) == {*required(), *NEEDED_BY_FAIRSEQ, "python", "pip"}


def test_python_of_environment_yml_is_allowed() -> None:
    version = conda()["python"].strip("=")
    assert version in Requirement(f"python{project()['requires-python']}").specifier


def test_lock_meets_every_requirement() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {r.name: r for r in map(Requirement, lines[1:])}
    extras = project()["optional-dependencies"]
    wanted = [*project()["dependencies"], *(r for extra in extras.values() for r in extra)]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in locked, f"requirements.lock lacks {name}; run `make lock`"
        (version,) = (pin.version for pin in locked[name].specifier)
        assert version in requirement.specifier, requirement
        assert locked[name].marker == requirement.marker, requirement
    assert not {"torchvision", "torchaudio", "cython", "cffi"} & locked.keys()
    assert locked.keys() >= NEEDED_BY_FAIRSEQ
