"""Whether this machine can hold a run's model at all, said before data are read."""

from __future__ import annotations

import os

from experiments.declare.config import RunConfig
from experiments.declare.dimensions import DIMS
from experiments.errors import UserError

BYTES = 8  # of a weight and its gradient, in float32
GB = 1e9
PROCESS = 4e9  # bytes of a process that trains a small model; 3.1e9 were measured, most for data
STATE = 32  # bytes of a weight: itself, gradient, Adam's moments, a checkpoint's copies of these


def refuse_too_large(run: RunConfig) -> None:
    """Refuse a run whose weights and gradients alone are larger than this machine's memory.

    Raises:
        UserError: naming the dimensions and both sizes.
    """
    wanted, there = BYTES * run.weights(), memory()
    if wanted <= there:
        return
    dims = {key: getattr(run, key, None) for key in ("width", *DIMS)}
    given = ", ".join(f"{key}={value}" for key, value in dims.items() if value is not None)
    raise UserError(
        f"{run.family}: {given}: weights and gradients take at least {wanted / GB:,.0f} GB, and "
        f"this machine has {there / GB:,.0f} GB; give smaller ones"
    )


def weight_bytes(run: RunConfig) -> float:
    """Memory that a run's weights take while it is trained, roughly, beside its process.

    Activations are not counted, nor are embeddings: a batch may be anything.
    """
    return float(STATE * run.weights() * getattr(run, "n_layer", 1))


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
