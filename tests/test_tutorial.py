"""The tutorial's code runs, in its order; its shell commands too."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXPECTED_STATUS = {"explain": 0, "check": 0}


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace: dict[str, object] = {}
    blocks = BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} == {"python", "sh"}
    for language, code in blocks:
        if language == "sh":
            run(code.split())
        elif code.startswith("# my_model.py"):
            Path("my_model.py").write_text(code, encoding="utf-8")
        else:
            exec(compile(code, "docs/tutorial.md", "exec"), namespace)
    assert Path("check.png").stat().st_size > 1000


def run(words: list[str]) -> None:
    path = os.pathsep.join([str(ROOT), str(Path.cwd())])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words[1:]], env=environment, capture_output=True, text=True
    )
    assert words[0] == "python"
    assert done.returncode == EXPECTED_STATUS[words[3]], done.stdout + done.stderr
