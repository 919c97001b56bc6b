"""One model of every way to parametrize: a MuReadout, and plain layers by each set of rules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mupkit
from tests.mupkit.models import PLAIN, Tied, Transformer, batch, by_name

BASE, WIDE = 16, 48


def plain_readout(weight: nn.Parameter) -> nn.Linear:
    """A plain output layer with the weight of an embedding."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta", dtype=weight.dtype)
    layer.weight = weight
    layer.bias = nn.Parameter(torch.full_like(weight[:, 0], 0.1))
    return layer


class Kind(NamedTuple):
    """How a model is built at a width, and how it is parametrized."""

    build: Callable[[int], nn.Module]
    parametrize: Callable[..., nn.Module]


def transformer(lib: object) -> Callable[[int], nn.Module]:
    def build(width: int) -> nn.Module:
        model = Transformer(lib, width, 3 * width)
        model.temperature = nn.Parameter(torch.ones(1))  # fully_shard takes no scalars
        return model

    return build


def shared(width: int) -> nn.Module:
    return Tied(width, mupkit.MuSharedReadout)


def tied(width: int) -> nn.Module:
    return Tied(width, plain_readout)


KINDS = {
    "MuReadout": Kind(transformer(mupkit), mupkit.set_base_shapes),
    "MuSharedReadout": Kind(shared, mupkit.set_base_shapes),
    "table 3": Kind(transformer(PLAIN), mupkit.parametrize),
    "table 8": Kind(transformer(PLAIN), partial(mupkit.parametrize, rules=mupkit.TABLE_8)),
    "table 8 tied": Kind(tied, partial(mupkit.parametrize, rules=mupkit.TABLE_8)),
    "table 9": Kind(transformer(PLAIN), partial(mupkit.parametrize, rules=mupkit.TABLE_9)),
}
TOKENS, LABELS = batch("transformer")


def make(kind: str, seed: int = 0, width: int = WIDE) -> nn.Module:
    """A parametrized model, three times as wide as its base."""
    build, parametrize = KINDS[kind]
    torch.manual_seed(seed)
    return parametrize(build(width), build(BASE))


def rates(model: nn.Module) -> dict[str, float]:
    """Rates by name of an Adam and an SGD that are given the model itself."""
    adam, sgd = mupkit.MuAdam(model, lr=0.1), mupkit.MuSGD(model, lr=0.1)
    return {
        f"{name} {rule}": rate
        for rule, optimizer in (("adam", adam), ("sgd", sgd))
        for name, rate in by_name(model, optimizer, "lr").items()
    }


def loss_of(model: nn.Module, tokens: Tensor = TOKENS, labels: Tensor = LABELS) -> Tensor:
    return F.cross_entropy(model(tokens).flatten(0, 1), labels)


def step(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, steps: int = 1) -> None:
    """Training steps of MuAdam."""
    optimizer = mupkit.MuAdam(model, lr=0.01) if optimizer is None else optimizer
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
