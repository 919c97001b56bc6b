"""Tiny models that take their µP layers from a library given as an argument, and their training.

Axes: B batch, L length, D d_model, H heads, K d_head, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PLAIN = SimpleNamespace(
    MuReadout=nn.Linear,
    MuSGD=torch.optim.SGD,
    MuAdam=torch.optim.Adam,
    MuAdamW=torch.optim.AdamW,
    set_base_shapes=lambda model, *_, **__: model,
)
"""Plain PyTorch in the place of a µP library: the standard parametrization."""


class MLP(nn.Module):
    """Three layers; the two hidden widths scale on their own."""

    def __init__(self, lib: Any, width: int, width_2: int, bias: bool = True, **readout: Any):
        super().__init__()
        self.input = nn.Linear(8, width, bias=bias)
        self.hidden = nn.Linear(width, width_2, bias=bias)
        self.readout = lib.MuReadout(width_2, 5, bias=bias, **readout)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(torch.relu(self.hidden(torch.relu(self.input(x)))))


class Attention(nn.Module):
    """Causal self-attention with 1/d logits; d_head scales, the number of heads does not."""

    def __init__(self, d_model: int, n_head: int = 2):
        super().__init__()
        self.n_head = n_head
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x_BLD: Tensor) -> Tensor:
        B, L, D = x_BLD.shape
        heads = self.qkv(x_BLD).view(B, L, 3, self.n_head, D // self.n_head)
        q_BHLK, k_BHLK, v_BHLK = heads.permute(2, 0, 3, 1, 4)
        scores_BHLL = 4 / q_BHLK.shape[-1] * q_BHLK @ k_BHLK.mT
        future_LL = torch.ones(L, L, dtype=torch.bool).triu(1)
        weights_BHLL = scores_BHLL.masked_fill(future_LL, float("-inf")).softmax(-1)
        return self.out((weights_BHLL @ v_BHLK).transpose(1, 2).reshape(B, L, D))


class Transformer(nn.Module):
    """One post-norm layer; d_model and the width of its MLP scale on their own."""

    def __init__(self, lib: Any, d_model: int, d_ffn: int, vocab: int = 11, **readout: Any):
        super().__init__()
        self.word = nn.Embedding(vocab, d_model)
        self.position = nn.Parameter(torch.randn(7, d_model))
        self.attention = Attention(d_model)
        self.norm = nn.LayerNorm(d_model)
        self.ffn_in = nn.Linear(d_model, d_ffn)
        self.ffn_out = nn.Linear(d_ffn, d_model)
        self.ffn_norm = nn.LayerNorm(d_model)
        self.temperature = nn.Parameter(torch.ones(()))
        self.readout = lib.MuReadout(d_model, vocab, **readout)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        x_BLD = self.word(tokens_BL) + self.position
        x_BLD = self.norm(x_BLD + self.attention(x_BLD))
        x_BLD = self.ffn_norm(x_BLD + self.ffn_out(torch.relu(self.ffn_in(x_BLD))))
        return self.temperature * self.readout(x_BLD)


class CNN(nn.Module):
    """Two convolutions with batch normalization, pooling, readout."""

    def __init__(self, lib: Any, channels: int, channels_2: int, **readout: Any):
        super().__init__()
        self.conv = nn.Conv2d(2, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.conv_2 = nn.Conv2d(channels, channels_2, 3)
        self.readout = lib.MuReadout(channels_2, 5, **readout)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = F.max_pool2d(torch.relu(self.norm(self.conv(x_BCHW))), 2)
        return self.readout(torch.relu(self.conv_2(x_BCHW)).mean((2, 3)))


class Tied(nn.Module):
    """An embedding and a readout that share one weight."""

    def __init__(self, width: int, make_readout: Callable[[nn.Parameter], nn.Module]):
        super().__init__()
        self.word = nn.Embedding(11, width)
        self.hidden = nn.Linear(width, width)
        self.readout = make_readout(self.word.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(torch.relu(self.hidden(self.word(tokens))))


class Family(NamedTuple):
    """A model with its base widths, its delta widths, and the widths at which it is tested."""

    build: Callable[..., nn.Module]
    base: Sequence[int]
    delta: Sequence[int]
    targets: Sequence[Sequence[int]]


FAMILIES = {
    "mlp": Family(MLP, (16, 24), (17, 25), [(16, 24), (32, 48), (64, 96), (24, 120), (80, 24)]),
    "transformer": Family(
        Transformer, (16, 32), (18, 34), [(16, 32), (32, 64), (64, 128), (48, 32), (16, 160)]
    ),
    "cnn": Family(CNN, (8, 16), (9, 17), [(8, 16), (16, 32), (32, 64), (24, 16), (12, 80)]),
}
CASES = [(name, tuple(target)) for name, family in FAMILIES.items() for target in family.targets]


def parametrized(
    lib: Any, name: str, target: Sequence[int], seed: int = 0, **readout: Any
) -> nn.Module:
    """The model of a family at widths `target`, drawn with `seed`, with its base shapes set."""
    build, base, delta, _ = FAMILIES[name]
    base_model, delta_model = build(lib, *base, **readout), build(lib, *delta, **readout)
    torch.manual_seed(seed)
    return lib.set_base_shapes(build(lib, *target, **readout), base_model, delta=delta_model)


def batch(name: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels for a family."""
    generator = torch.Generator().manual_seed(7)
    if name == "transformer":
        tokens = torch.randint(11, (4, 8), generator=generator)
        return tokens[:, :-1], tokens[:, 1:].reshape(-1)
    shape = (16, 2, 8, 8) if name == "cnn" else (16, 8)
    return torch.randn(shape, generator=generator), torch.randint(5, (16,), generator=generator)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, name: str, steps: int = 20
) -> list[float]:
    """The losses of `steps` steps on one batch, in the precision of the model."""
    x, labels = batch(name)
    if x.is_floating_point():
        x = x.to(next(model.parameters()).dtype)
    losses = []
    for _ in range(steps):
        logits = model(x)
        loss = F.cross_entropy(logits.reshape(len(labels), -1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def by_name(model: nn.Module, optimizer: torch.optim.Optimizer, option: str) -> dict[str, float]:
    """An option of the optimizer's groups for every parameter of `model` by name."""
    options = {id(p): g[option] for g in optimizer.param_groups for p in g["params"]}
    return {name: float(options[id(p)]) for name, p in model.named_parameters()}


class Lion(torch.optim.Optimizer):
    """Sign updates with decoupled weight decay (Chen et al. 2023, Algorithm 2)."""

    def __init__(self, params: Any, lr: float, betas: Any = (0.9, 0.99), weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * (beta1 * m + (1 - beta1) * p.grad).sign())
                m.lerp_(p.grad, 1 - beta2)
