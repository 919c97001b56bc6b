"""How a training process sets itself up: threads, memory allocator, matrix products, device.

Choices that change bits are made once per machine and then kept, so that a run's bits do not
depend on how busy the machine was when the run started.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from experiments.data.places import cache_dir
from experiments.errors import UserError
from experiments.files import (
    DamagedFileError,
    cannot_write,
    locked,
    read_json,
    write_atomically,
)
from experiments.messages import note

GEMM = (1024, 256, 1024)  # rows, fan-in, fan-out of a typical product
CANDIDATES = ("highest", "medium")
MIN_SPEEDUP = 1.04  # below what was seen where oneDNN wins at all, so that noise does not decide
MAX_ERROR_RATIO = 4.0  # bfloat16 rounding would be a thousand times worse
ROUNDS = 25
HEAP = 256 * 2**20
# Variables by which libraries choose instructions or precision behind torch's own settings.
ROUNDING = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)


@dataclass(frozen=True)
class Machine:
    """Where and how a process trains."""

    device: str
    threads: int
    matmul: str


@dataclass(frozen=True)
class Products:
    """Which float32 product this processor uses, with error and speed of each candidate."""

    matmul: Literal["highest", "medium"]
    relative_error: dict[str, float]
    gflops_a_core: dict[str, float]


def set_up() -> Machine:
    """One thread, memory kept between steps, and the fastest float32 product that is exact.

    On a GPU (not tested on one) products stay at full float32 precision.

    Raises:
        UserError: an environment variable makes libraries round otherwise.
    """
    _refuse_other_rounding()
    torch.set_num_threads(1)
    _keep_freed_memory()
    _leave_out_the_compiler()
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("highest")
        return Machine("cuda", 1, "highest")
    matmul = _chosen_matmul()
    torch.set_float32_matmul_precision(matmul)
    return Machine("cpu", 1, matmul)


def _refuse_other_rounding() -> None:
    for name in ROUNDING:
        if os.environ.get(name):
            raise UserError(
                f"{name}: {os.environ[name]!r} changes how products are rounded, which no run "
                "records; unset it"
            )


def _leave_out_the_compiler() -> None:
    """Nothing is compiled here, so torch's compiler need not be loaded: a third of a start.

    Torch's optimizers load it at their first call, only to tell it that it must let them be. Where
    they are built otherwise than these lines expect, they still do.
    """
    for method in vars(torch.optim.Optimizer).values():
        plain = getattr(method, "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)  # where `torch._disable_dynamo` looks
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        plain = getattr(kind.step, "__wrapped__", None)
        if plain is not None and not hasattr(kind.step, "hooked"):
            kind.step = torch.no_grad()(plain)  # type: ignore[method-assign]


def _keep_freed_memory() -> None:
    """Ask glibc not to return freed memory: page faults took a third of a narrow model's step."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    libc.mallopt(mmap_threshold, 32 * 1024 * 1024)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 * 1024 * 1024)
    _use_large_pages(libc)


def _use_large_pages(libc: ctypes.CDLL) -> None:
    """Ask Linux for pages of 2 MB in the memory to come: addresses are looked up less often.

    The heap grows by `HEAP` bytes, which stay free, and takes memory only where it is used.
    """
    mmap_max, hugepage = -4, 14
    libc.malloc.argtypes, libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    libc.mallopt(mmap_max, 0)  # else so large a piece would lie outside the heap
    start = libc.malloc(HEAP)
    libc.mallopt(mmap_max, 65536)  # the default
    if start:
        page = os.sysconf("SC_PAGE_SIZE")
        libc.madvise(-(-start // page) * page, HEAP - page, hugepage)
        libc.free(start)


def _chosen_matmul() -> str:
    """The precision setting for this processor and torch, chosen at the first call.

    "medium" selects oneDNN's kernels, about twice as fast on AVX-512; on a processor with AMX it
    may round to bfloat16, which `choose` rules out by the error.
    """
    path = _machine_file()
    with suppress(FileNotFoundError, DamagedFileError):
        return read_json(path, Products).matmul
    with locked(Path(f"{path}.lock"), ""):
        try:
            return read_json(path, Products).matmul
        except FileNotFoundError:
            return _choose_matmul(path)
        except DamagedFileError as error:
            note(f"{error}; the products of this machine are timed again")
            return _choose_matmul(path)


def _choose_matmul(path: Path) -> str:
    found = _time_products()
    write_atomically(path, json.dumps(asdict(found), indent=1).encode())
    return found.matmul


def _machine_file() -> Path:
    info = Path("/proc/cpuinfo")
    model = "".join(
        line
        for line in (info.read_text() if info.exists() else platform.processor()).splitlines()
        if line.startswith(("model name", "flags"))
    )
    key = hashlib.sha256(f"{model} {torch.__version__}".encode()).hexdigest()[:12]
    path = cache_dir() / f"machine-{key}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def _time_products() -> Products:
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
    speeds = {p: 2e-9 * rows * fan_in * fan_out / t for p, t in seconds.items()}
    return Products(choose(error, seconds), error, speeds)


def choose(error: dict[str, float], seconds: dict[str, float]) -> Literal["highest", "medium"]:
    """`medium` if it is faster beyond noise and no bfloat16 rounding is in it, else `highest`."""
    fast = seconds["highest"] > MIN_SPEEDUP * seconds["medium"]
    exact = error["medium"] < MAX_ERROR_RATIO * error["highest"]
    return "medium" if fast and exact else "highest"


def _seconds(a: torch.Tensor, b: torch.Tensor, repeats: int = 3) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        a @ b
    return (time.perf_counter() - start) / repeats
