"""Print requirements.lock: what is installed here of everything that pyproject.toml reaches.

The lock is installed with --no-deps. What has a package for some machines alone keeps the marker
that pyproject.toml gives it. Run this in an environment in which the tests pass:
`python tools/lock.py > requirements.lock`.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("experiments", "families", "huggingface", "test", "transfer")
# Asked for by mup and ve-fairseq, and never imported: two built for another torch, two for builds.
# Asked for by lm-eval, with twenty more behind them, for metrics, caches and models unused here.
LEFT_OUT = {
    *("torchvision", "torchaudio", "cython", "cffi"),
    *("evaluate", "more-itertools", "pytablewriter", "rouge-score", "sqlitedict", "word2number"),
}


def closure(requirements: list[str]) -> dict[str, str]:
    """Installed version by name of all that the requirements reach."""
    found: dict[str, str] = {}
    todo = [Requirement(r) for r in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if name in LEFT_OUT or key in seen:
            continue
        seen.add(key)
        try:
            dist = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed; install it, run the tests, then lock again")
        found[name] = dist.version.split("+")[0]
        for line in dist.requires or ():
            child = Requirement(line)
            extras = ["", *requirement.extras]
            if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in extras):
                todo.append(child)
    return found


def main() -> None:
    """Print the lock."""
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())[
        "project"
    ]
    wanted = list(project["dependencies"])
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    print("# Made by `make lock`; installed with --no-deps.")
    markers = {canonicalize_name(r.name): r.marker for r in map(Requirement, wanted) if r.marker}
    for name, version in sorted(closure(wanted).items()):
        print(f"{name}=={version}", *([f"; {markers[name]}"] if name in markers else []))


if __name__ == "__main__":
    main()
