"""How a training process sets itself up: threads, memory allocator, matrix products, device.

Choices that change bits are made once per machine and then kept, so that a run's bits do not
depend on how busy the machine was when the run started.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.data.places import cache_dir
from experiments.files import locked, write_atomically

GEMM = (1024, 256, 1024)  # rows, fan-in, fan-out of a typical product
CANDIDATES = ("highest", "medium")
MIN_SPEEDUP = 1.04  # below what was seen where oneDNN wins at all, so that noise does not decide
MAX_ERROR_RATIO = 4.0  # bfloat16 rounding would be a thousand times worse
ROUNDS = 25


@dataclass(frozen=True)
class Machine:
    """Where and how a process trains."""

    device: str
    threads: int
    matmul: str


def set_up() -> Machine:
    """One thread, memory kept between steps, and the fastest float32 product that is exact.

    On a GPU (not tested on one) products stay at full float32 precision.
    """
    torch.set_num_threads(1)
    _keep_freed_memory()
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("highest")
        return Machine("cuda", 1, "highest")
    matmul = _chosen_matmul()
    torch.set_float32_matmul_precision(matmul)
    return Machine("cpu", 1, matmul)


def _keep_freed_memory() -> None:
    """Ask glibc not to return freed memory: page faults took a third of a narrow model's step."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    libc.mallopt(mmap_threshold, 32 * 1024 * 1024)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 * 1024 * 1024)


def _chosen_matmul() -> str:
    """The precision setting for this processor and torch, chosen at the first call.

    "medium" selects oneDNN's kernels, about twice as fast on AVX-512; on a processor with AMX it
    may round to bfloat16, which `choose` rules out by the error.
    """
    path = _machine_file()
    with locked(Path(f"{path}.lock"), ""):
        if not path.exists():
            write_atomically(path, json.dumps(_time_products(), indent=1).encode())
        chosen: str = json.loads(path.read_text())["matmul"]
    return chosen


def _machine_file() -> Path:
    info = Path("/proc/cpuinfo")
    model = "".join(
        line
        for line in (info.read_text() if info.exists() else platform.processor()).splitlines()
        if line.startswith(("model name", "flags"))
    )
    key = hashlib.sha256(f"{model} {torch.__version__}".encode()).hexdigest()[:12]
    cache_dir().mkdir(parents=True, exist_ok=True)
    return cache_dir() / f"machine-{key}.json"


def _time_products() -> dict[str, object]:
    """The chosen setting, with the error and the speed of each candidate."""
    before = torch.get_float32_matmul_precision()
    rows, fan_in, fan_out = GEMM
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, fan_in, generator=generator)
    b = torch.randn(fan_in, fan_out, generator=generator)
    exact = a.double() @ b.double()
    error: dict[str, float] = {}
    seconds = dict.fromkeys(CANDIDATES, math.inf)
    for precision in CANDIDATES:
        torch.set_float32_matmul_precision(precision)
        error[precision] = float((a @ b - exact).norm() / exact.norm())
    for _ in range(ROUNDS):  # in turn, so that a busy machine slows both alike
        for precision in CANDIDATES:
            torch.set_float32_matmul_precision(precision)
            seconds[precision] = min(seconds[precision], _seconds(a, b))
    torch.set_float32_matmul_precision(before)
    return {
        "matmul": choose(error, seconds),
        "relative_error": error,
        "gflops_a_core": {p: 2e-9 * rows * fan_in * fan_out / t for p, t in seconds.items()},
    }


def choose(error: dict[str, float], seconds: dict[str, float]) -> str:
    """`medium` if it is faster beyond noise and no bfloat16 rounding is in it, else `highest`."""
    fast = seconds["highest"] > MIN_SPEEDUP * seconds["medium"]
    exact = error["medium"] < MAX_ERROR_RATIO * error["highest"]
    return "medium" if fast and exact else "highest"


def _seconds(a: torch.Tensor, b: torch.Tensor, repeats: int = 3) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        a @ b
    return (time.perf_counter() - start) / repeats
