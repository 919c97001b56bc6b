"""Cross-entropy in chunks that stay in the processor's cache, with the bits of torch's.

Axes: N rows, R rows of a chunk, V classes or words.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.autograd.function import once_differentiable

NUMBERS = 2**16  # logits of a chunk
IGNORED = -100  # the target of a row that does not count, torch's own


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, count: Tensor | None = None) -> Tensor:
    """The mean cross-entropy of the rows whose target is not `IGNORED`, in nats; 0 if none is.

    With a `count`, the sum over these rows is divided by that instead, such as the rows of a whole
    batch of which these are a part.

    On a CPU the gradient of the logits is made together with the loss, some rows at a time, so that
    log-probabilities and their gradients never go through memory. Every row takes the operators
    that `F.cross_entropy` takes, and the losses are added in its order, so that value and gradient
    have its bits. Elsewhere, without gradients and under `torch.func.vmap`, it is
    `F.cross_entropy`.
    """
    count = ((targets_N != IGNORED).sum() if count is None else count).clamp(min=1)
    wanted = torch.is_grad_enabled() and logits_NV.requires_grad
    if logits_NV.device.type != "cpu" or not wanted or is_batchedtensor(logits_NV):
        return F.cross_entropy(logits_NV, targets_N, reduction="sum") / count
    if torch.is_autocast_enabled("cpu"):
        logits_NV = logits_NV.float()  # as autocast does for torch's
    loss: Tensor = _InChunks.apply(logits_NV, targets_N, count)  # type: ignore[no-untyped-call]
    return loss


class _InChunks(torch.autograd.Function):
    """The loss of `cross_entropy`, and the gradient of the logits for a gradient of 1."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, count: Tensor) -> Tensor:
        words, dtype = logits_NV.shape[1], logits_NV.dtype
        real_N1 = (targets_N != IGNORED)[:, None]
        index_N1 = targets_N[:, None].where(real_N1, 0)
        share_N1 = -real_N1.to(dtype) / count
        picked_N1 = torch.empty_like(share_N1)
        grad_NV = torch.empty_like(logits_NV, memory_format=torch.contiguous_format)
        rows = max(1, NUMBERS // words)
        upstream_RV = logits_NV.new_zeros(min(rows, len(logits_NV)), words)
        for first in range(0, len(logits_NV), rows):
            part = slice(first, first + rows)
            index_R1 = index_N1[part]
            logp_RV = torch.log_softmax(logits_NV[part], -1)
            torch.gather(logp_RV, 1, index_R1, out=picked_N1[part])
            upstream = upstream_RV[: len(index_R1)].scatter_(1, index_R1, share_N1[part])
            torch.ops.aten._log_softmax_backward_data.out(
                upstream, logp_RV, -1, dtype, out=grad_NV[part]
            )
            upstream.scatter_(1, index_R1, 0.0)
        ctx.save_for_backward(grad_NV)
        targets_N = torch.where(real_N1[:, 0], 0, IGNORED)
        return F.nll_loss(picked_N1, targets_N, reduction="sum") / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (grad_NV,) = ctx.saved_tensors
        return (grad_NV if grad == 1 else grad * grad_NV), None, None
