"""A results folder in which nothing is wrong."""

import pytest


@pytest.fixture
def healthy_store(tmp_path, monkeypatch):
    """The `Store` of smoke with two runs that fig1 needs and their tables; nothing is stale."""
    from experiments.products.doctor.runs import DataNow
    from experiments.runs import places
    from tests.experiments.stored_files import healthy

    monkeypatch.setattr(places, "ROOT", tmp_path)
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("experiments.runs.store.code_version", lambda family: "c")
    monkeypatch.setattr(DataNow, "__call__", lambda self, record: "d")
    return healthy(tmp_path / "results" / "smoke")
