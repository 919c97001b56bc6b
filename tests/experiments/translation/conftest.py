"""Tiny pairs as the data of the translation families."""

import pytest

from tests.experiments.translation import tiny_pairs


@pytest.fixture(scope="session")
def tiny_pairs_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    for folder in ("multi30k", "tatoeba_de_en"):
        tiny_pairs.write(root, folder)
    return root


@pytest.fixture
def pairs(tiny_pairs_root, tmp_path, monkeypatch):
    """MUPKIT_DATA with tiny pairs, and a cache of its own."""
    monkeypatch.setenv("MUPKIT_DATA", str(tiny_pairs_root))
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "cache"))
    return tiny_pairs_root
