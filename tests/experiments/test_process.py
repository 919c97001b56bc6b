"""The choice of the matrix product: fast and exact, made once a machine."""

import json

import pytest
import torch

from experiments import process


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path))
    yield tmp_path
    torch.set_float32_matmul_precision("highest")


def test_choice_is_measured_once_and_kept(cache, monkeypatch) -> None:
    first = process.set_up()
    (file,) = cache.glob("machine-*.json")
    record = json.loads(file.read_text())
    assert first.matmul == record["matmul"] in process.CANDIDATES
    assert record["relative_error"][first.matmul] < 1e-6
    monkeypatch.setattr(process, "_measure", lambda: 1 / 0)
    assert process.set_up() == first
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("gflops", "error", "chosen"),
    [
        ((100, 200), (2e-7, 3e-7), "medium"),
        ((100, 200), (2e-7, 3e-3), "highest"),
        ((100, 105), (2e-7, 2e-7), "highest"),
        ((100, 60), (2e-7, 2e-7), "highest"),
    ],
)
def test_fast_and_inexact_is_refused(gflops, error, chosen) -> None:
    by_precision = [
        dict(zip(process.CANDIDATES, values, strict=True)) for values in (error, gflops)
    ]
    assert process.choose(*by_precision) == chosen


def test_rounding_to_bfloat16_is_measured_as_inexact(cache, monkeypatch) -> None:
    # As on a processor whose fast product rounds its inputs.
    product = torch.Tensor.__matmul__

    def rounding(a, b):
        if torch.get_float32_matmul_precision() == "medium" and a.dtype == torch.float32:
            a, b = a.bfloat16().float(), b.bfloat16().float()
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    measured = process._measure()
    assert measured["relative_error"]["medium"] > 1e-3
    assert measured["matmul"] == "highest"
