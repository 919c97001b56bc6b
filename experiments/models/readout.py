"""Readouts of words, whose weight's gradient is the faster one of two products.

Axes: N rows, D width, V words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.autograd.function import once_differentiable

import mupkit

# Where `benchmarks/products.py` found the second product faster.
ROWS, WIDTH, WORDS = 768, 128, 1000


class _Words(nn.Linear):
    """A linear layer to many words from a narrow model, fast on a CPU; any other as torch's."""

    def forward(self, input: Tensor) -> Tensor:
        words, width = self.weight.shape
        narrow = width < WIDTH and words >= WORDS and input.numel() >= ROWS * width
        if not narrow or self.bias is not None or not plain(input, self.weight):
            return super().forward(input)
        logits_NV: Tensor = _Product.apply(input.flatten(0, -2), self.weight)
        return logits_NV.unflatten(0, input.shape[:-1])


class Readout(mupkit.MuReadout, _Words):
    """`mupkit.MuReadout`, with its numbers."""


class SharedReadout(mupkit.MuSharedReadout, _Words):
    """`mupkit.MuSharedReadout`, with its numbers."""


class _Product(torch.autograd.Function):
    """x W^T. torch's gradient of W is g^T x, which reads g by columns; this one's is (x^T g)^T."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, weight_VD)
        return x_ND @ weight_VD.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NV: Tensor) -> tuple[Tensor, Tensor]:
        x_ND, weight_VD = ctx.saved_tensors
        return grad_NV @ weight_VD, (x_ND.t() @ grad_NV).t().contiguous()


def plain(*tensors: Tensor) -> bool:
    """Whether the product is one of matrices on a CPU in the tensors' own precision."""
    return not torch.is_autocast_enabled("cpu") and not any(
        t.device.type != "cpu" or is_batchedtensor(t) for t in tensors
    )
