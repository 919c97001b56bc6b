"""The code of these pages runs, in its order; their shell commands too."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|sh|toml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = {"tutorial": "check.png", "transfer": "search.db", "recipes": "width64.bsh"}
"""A file that each leaves behind."""


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set")  # Trainer's default, on a CPU
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # by peft
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace: dict[str, object] = {}
    blocks = BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    assert {"python", "sh"} <= {language for language, _ in blocks}
    for language, code in blocks:
        if language == "sh":
            run(code.replace("\\\n", " ").split())
        elif written := re.match(r"# (\w+\.(py|toml))\n", code):
            Path(written[1]).write_text(code, encoding="utf-8")
        else:
            exec(compile(code, f"docs/{page}.md", "exec"), namespace)
    assert Path(PAGES[page]).stat().st_size > 100


def run(words: list[str]) -> None:
    path = os.pathsep.join([str(ROOT), str(Path.cwd())])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words[1:]], env=environment, capture_output=True, text=True
    )
    assert words[0] == "python"
    assert done.returncode == 0, done.stdout + done.stderr
