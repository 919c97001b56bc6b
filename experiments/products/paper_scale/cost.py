"""What the trainings of the scale `paper` cost on a GPU, from the FLOPs that runs know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from experiments.declare.config import RunConfig

SHARE = 0.4
"""Assumed share of the peak. An assumption, no measurement: large Transformers reach 0.44 to 0.52
on A100 (arXiv:2104.04473, Table 1), and small models, whose kernels wait, far less."""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        name: of the product.
        float32: peak FLOPs a second of products in float32 without rounding, as runs train.
        bfloat16: the same of dense products in bfloat16; that of float32 where it has none.
        source: of these.
    """

    name: str
    float32: float
    bfloat16: float
    source: str

    def hours(self, runs: Iterable[RunConfig]) -> float:
        """Hours of one GPU for all steps of some runs."""
        peaks = {"float32": self.float32, "bfloat16": self.bfloat16}
        return sum(run.flops() / peaks[run.precision] for run in runs) / SHARE / 3600


GPUS = (
    Gpu("V100", 15.7e12, 15.7e12, "NVIDIA's data sheet of Tesla V100 SXM2"),
    Gpu("H100", 67e12, 989.5e12, "NVIDIA's data sheet of H100 SXM; without sparsity"),
)
