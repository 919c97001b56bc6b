"""No pickle is ever loaded: not from disk, not by a library that is asked to."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mupkit", "experiments", "benchmarks", "tools", "docs")
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
METHODS = {"read_pickle", "to_pickle"}
SAFE = {"torch": ("weights_only", True), "np": ("allow_pickle", False)}
SAFE["numpy"] = SAFE["np"]


def pickles(text: str) -> list[int]:
    """Lines of Python that import a pickling module or may load a pickle."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            wrong = bool(names & MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            package = (node.module or "").split(".")[0]
            wrong = package in MODULES or bool(names & METHODS)
            wrong = wrong or (package in SAFE and "load" in names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            wrong = node.func.attr in METHODS or _unsafe(node, node.func)
        else:
            continue
        if wrong:
            found.append(node.lineno)
    return found


def _unsafe(call: ast.Call, function: ast.Attribute) -> bool:
    options = {
        word.arg: word.value.value if isinstance(word.value, ast.Constant) else None
        for word in call.keywords
    }
    if any(key in options and options[key] is not value for key, value in SAFE.values()):
        return True
    of = function.value.id if isinstance(function.value, ast.Name) else ""
    if function.attr != "load" or of not in SAFE:
        return False
    key, value = SAFE[of]
    return options.get(key) is not value


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib",
        "torch.load(path)",
        "torch.load(\n    path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "frame.to_pickle(path)",
        "pd.read_pickle(path)",
    ],
)
def test_what_counts_as_a_pickle(line) -> None:
    assert pickles(line) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, mmap_mode='r', allow_pickle=False)",
        "json.load(file)",
    ],
)
def test_what_does_not(line) -> None:
    assert pickles(line) == []


def test_no_pickle_is_ever_loaded() -> None:
    files = [file for folder in FOLDERS for file in (ROOT / folder).glob("**/*.py")]
    assert len(files) > 50
    found = {str(f): pickles(f.read_text(encoding="utf-8")) for f in files}
    assert {f: lines for f, lines in found.items() if lines} == {}
    for file in (ROOT / "Snakefile", *(ROOT / "workflow").glob("**/*.smk")):
        assert "pickle" not in file.read_text(encoding="utf-8"), file
