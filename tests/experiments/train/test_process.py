"""The choice of the matrix product: fast and exact, made once a machine."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.errors import UserError
from experiments.train import process

ROOT = Path(__file__).parents[3]


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
    monkeypatch.setattr(process, "_time_products", lambda: 1 / 0)
    assert process.set_up() == first
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("seconds", "error", "chosen"),
    [
        ((2.0, 1.0), (2e-7, 3e-7), "medium"),
        ((1.08, 1.0), (2e-7, 3e-7), "medium"),
        ((2.0, 1.0), (2e-7, 3e-3), "highest"),
        ((1.02, 1.0), (2e-7, 2e-7), "highest"),
        ((0.6, 1.0), (2e-7, 2e-7), "highest"),
    ],
)
def test_fast_and_inexact_is_refused(seconds, error, chosen) -> None:
    by_precision = [
        dict(zip(process.CANDIDATES, values, strict=True)) for values in (error, seconds)
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
    found = process._time_products()
    assert found.relative_error["medium"] > 1e-3
    assert found.matmul == "highest"


@pytest.mark.parametrize("busy", [range(12), range(12, 99)])
def test_choice_does_not_depend_on_how_busy_the_machine_is(busy, cache, monkeypatch) -> None:
    # Equally fast products, while another program takes half of the processor for a while.
    calls = iter(range(99))
    monkeypatch.setattr(process, "_seconds", lambda a, b: 2.0 if next(calls) in busy else 1.0)
    assert process._time_products().matmul == "highest"


@pytest.mark.parametrize("name", process.ROUNDING)
def test_what_changes_rounding_unrecorded_is_refused(cache, monkeypatch, name) -> None:
    monkeypatch.setenv(name, "BF16")
    with pytest.raises(UserError, match=f"^{name}: 'BF16' changes how .*; unset it$"):
        process.set_up()
    assert not [*cache.iterdir()]


@pytest.mark.parametrize("inside", ["file", "file/cache", "x" * 300])
def test_a_cache_that_cannot_be_a_folder_is_named(tmp_path, monkeypatch, inside) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / inside))
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/{inside[:4]}"):
        process.set_up()


LARGE_PAGES = """
import sys
from experiments.train import process
process._keep_freed_memory()
process._keep_freed_memory()
heap, flags, sizes = False, [], []
for line in open("/proc/self/smaps"):
    first = line.split()[0]
    if not first.endswith(":"):
        heap = "[heap]" in line
    elif heap and first == "VmFlags:":
        flags.append(line.split())
    elif heap and first == "Size:":
        sizes.append(int(line.split()[1]) * 1024)
advised = sum(size for size, found in zip(sizes, flags) if "hg" in found)
assert process.HEAP - 2**16 < advised < 2 * process.HEAP, (advised, sizes, flags)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="glibc, and a Linux with large pages",
)
def test_the_heap_is_in_large_pages_and_a_second_set_up_adds_none() -> None:
    subprocess.run([sys.executable, "-c", LARGE_PAGES], check=True, cwd=ROOT)
