"""Shared fixtures: data for tests is a small random text, unless a test says otherwise."""

import os
import sys
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# Whatever the library `datasets` keeps on this machine, tests find nothing there.
os.environ["HF_DATASETS_CACHE"] = os.path.join(tempfile.gettempdir(), "mupkit-tests", "datasets")

import numpy as np
import pytest

from tests.data_series import write_split


def pytest_collection_modifyitems(items):
    """Long tests begin first, so that no process ends alone with one; real data may be missing."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if not os.environ.get("MUPKIT_DATA"):
        for item in items:
            if item.get_closest_marker("data"):
                item.add_marker(pytest.mark.skip(reason="MUPKIT_DATA is not set"))


@pytest.fixture(autouse=True)
def no_data_folder(request, monkeypatch):
    """All other tests pass without a data folder, so none is there even if the machine has one."""
    if not request.node.get_closest_marker("data"):
        monkeypatch.delenv("MUPKIT_DATA", raising=False)


@pytest.fixture(autouse=True)
def no_modules_of_other_tests(tmp_path_factory):
    """Modules from a temporary folder go with their test: the next may have one of that name."""
    before = set(sys.modules)
    yield
    temporary = f"{tmp_path_factory.getbasetemp()}{os.sep}"
    for name in sys.modules.keys() - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(temporary):
            del sys.modules[name]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A folder laid out like WikiText-2 with 400 words in a skewed random order."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "wikitext" / "wikitext-2-v1"
    rng = np.random.default_rng(0)
    for split, lines in (("train", 400), ("validation", 40), ("test", 40)):
        text = [
            " ".join(f"w{i}" for i in (rng.zipf(1.3, size=25) % 400).tolist()) + " <unk>"
            for _ in range(lines)
        ]
        write_split(folder, split, {"text": text})
    return root


@pytest.fixture
def tiny(tiny_data, tmp_path, monkeypatch):
    """`tiny_data` as MUPKIT_DATA, with a cache of its own."""
    monkeypatch.setenv("MUPKIT_DATA", str(tiny_data))
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "cache"))
    return tiny_data
