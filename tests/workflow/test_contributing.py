"""The family that CONTRIBUTING.md writes down is found, trained, drawn and checked as it stands."""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"<!-- file: (\S+) -->\n```python\n(.*?)```", re.DOTALL)


def files() -> dict[str, str]:
    return dict(FILE.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))


@pytest.mark.slow
def test_the_example_of_a_family_works_as_it_stands(project) -> None:
    written = files()
    assert len(written) == 2
    for name, text in written.items():
        (project.root / name).parent.mkdir(exist_ok=True)
        (project.root / name).write_text(text, encoding="utf-8")
    done = project.snakemake("toy_lr", "--config", "scale=smoke")
    assert done.returncode == 0, done.stderr
    runs = pd.read_parquet(project.root / "results/smoke/toy_lr/runs.parquet")
    assert len(runs) == 24 and not runs["diverged"].any()
    svg = (project.root / "figures/smoke/toy_lr.svg").read_text(encoding="utf-8")
    assert "random numbers" in svg and "2 seeds" in svg
    assert "toy" in project.experiments("show", "toy").stdout

    # What every family promises, tested in the copy.
    shutil.copytree(ROOT / "tests", project.root / "tests")
    shutil.copy(ROOT / "pyproject.toml", project.root)
    promised = [f"tests/experiments/families/test_{name}.py" for name in ("contract", "idle_keys")]
    command = [sys.executable, "-m", "pytest", "-q", "-k", "toy", *promised]
    checked = project.run(command)
    assert checked.returncode == 0, checked.stdout
    assert "failed" not in checked.stdout
    assert int(re.search(r"(\d+) passed", checked.stdout).group(1)) >= 5
