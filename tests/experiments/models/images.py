"""Random images, their training, and a coordinate check on them, for the tests of image models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import mupkit
from mupkit.coord_check import Report, coord_check

CLASSES = 5


def batch(size: int, images: int = 16) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) of noise and their labels, the same at every call."""
    generator = torch.Generator().manual_seed(7)
    images_BCHW = torch.randn(images, 3, size, size, generator=generator)
    return images_BCHW.to(torch.get_default_dtype()), torch.arange(images) % CLASSES


def sgd(lr: float) -> Callable[[nn.Module], Optimizer]:
    """Makes a model's SGD with momentum, by the model's own table."""
    return lambda model: mupkit.MuSGD(model, lr=lr, momentum=0.9)


def train(
    model: nn.Module,
    size: int,
    steps: int = 4,
    lr: float = 0.05,
    make_optimizer: Callable[[nn.Module], Optimizer] | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> list[float]:
    """The losses on the batch while `model` is trained."""
    images_BCHW, labels_B = batch(size)
    images_BCHW = images_BCHW.to(memory_format=memory_format)
    optimizer = (make_optimizer or sgd(lr))(model)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(images_BCHW), labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def check(
    build: Callable[[int], nn.Module],
    widths: Sequence[int],
    size: int,
    make_optimizer: Callable[[nn.Module], Optimizer],
    seeds: Iterable[int],
    dtype: torch.dtype | None = torch.float64,
    images: int = 16,
) -> Report:
    """The coordinate check on the batch."""
    images_BCHW, labels_B = batch(size, images)
    return coord_check(
        build,
        widths,
        make_optimizer=make_optimizer,
        loss=lambda model: F.cross_entropy(model(images_BCHW), labels_B),
        seeds=seeds,
        dtype=dtype,
    )


def failures(report: Report) -> dict[tuple[str, str], float]:
    """Kind and tensor of what contradicts theory, with its exponent."""
    return {(v.fit.kind, v.fit.tensor): v.fit.exponent for v in report.failures}


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` gives from one seed."""
    torch.manual_seed(0)
    return build()


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same bits, buffers included."""
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][k], states[1][k]) for k in states[0] | states[1])
