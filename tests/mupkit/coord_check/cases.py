"""Correct models and planted mistakes, for a coordinate check.

Axes: B batch, L length, D d_model, H heads, K d_head.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import mupkit
from tests.mupkit.models import MLP, batch

BASE = 32
WIDTHS = [64, 128, 256, 512]


class Attention(nn.Module):
    """Causal self-attention of two heads, spelled out or fused.

    `power` is that of d_head by which logits are divided: 1 in µP, 0.5 in SP. `zero` initializes
    queries and output projection to zero.
    """

    def __init__(self, d_model: int, fused: bool = False, power: float = 1.0, zero: bool = False):
        super().__init__()
        self.fused = fused
        d_head = d_model // 2
        self.scale = 8 * (BASE / 2) ** (power - 1) / d_head**power
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)
        if zero:
            nn.init.zeros_(self.query.weight)
            nn.init.zeros_(self.out.weight)

    def forward(self, x_BLD: Tensor) -> Tensor:
        B, L, D = x_BLD.shape
        q_BHLK, k_BHLK, v_BHLK = (
            project(x_BLD).view(B, L, 2, D // 2).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        if self.fused:
            mixed_BHLK = F.scaled_dot_product_attention(
                q_BHLK, k_BHLK, v_BHLK, is_causal=True, scale=self.scale
            )
        else:
            logits_BHLL = self.scale * q_BHLK @ k_BHLK.mT
            future_LL = torch.ones(L, L, dtype=torch.bool).triu(1)
            weights_BHLL = F.softmax(logits_BHLL.masked_fill(future_LL, -math.inf), dim=-1)
            mixed_BHLK = weights_BHLL @ v_BHLK
        return self.out(mixed_BHLK.transpose(1, 2).reshape(B, L, D))


class Transformer(nn.Module):
    """One pre-norm layer."""

    def __init__(self, lib: Any, d_model: int, position_std: float = 1.0, **attention: Any):
        super().__init__()
        self.word = nn.Embedding(11, d_model)
        self.position = nn.Parameter(position_std * torch.randn(7, d_model))
        self.norm = nn.LayerNorm(d_model)
        self.attention = Attention(d_model, **attention)
        self.ffn_norm = nn.LayerNorm(d_model)
        self.ffn_in = nn.Linear(d_model, 2 * d_model)
        self.ffn_out = nn.Linear(2 * d_model, d_model)
        self.last_norm = nn.LayerNorm(d_model)
        self.readout = lib.MuReadout(d_model, 11)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        x_BLD = self.word(tokens_BL) + self.position
        x_BLD = x_BLD + self.attention(self.norm(x_BLD))
        x_BLD = x_BLD + self.ffn_out(torch.relu(self.ffn_in(self.ffn_norm(x_BLD))))
        return self.readout(self.last_norm(x_BLD))


def mlp(width: int, lib: Any = mupkit) -> nn.Module:
    """An MLP in µP, or in SP by plain PyTorch in the library's place."""
    return lib.set_base_shapes(MLP(lib, width, width), MLP(lib, BASE, BASE))


def transformer(width: int, lib: Any = mupkit, **options: Any) -> nn.Module:
    """A Transformer in µP, or in SP."""
    base = Transformer(lib, BASE, **options)
    return lib.set_base_shapes(Transformer(lib, width, **options), base)


def bottleneck(width: int, rules: mupkit.Rules = mupkit.TABLE_3) -> nn.Module:
    """An MLP with a layer of 8 in its middle, without biases: what follows starts small."""

    def plain(width: int) -> nn.Module:
        sizes = (8, width, 8, width, width, 5)
        layers = [nn.Linear(*pair, bias=False) for pair in pairwise(sizes)]
        relu = nn.ReLU()
        return nn.Sequential(
            layers[0], relu, layers[1], layers[2], relu, layers[3], relu, layers[4]
        )

    return mupkit.parametrize(plain(width), plain(BASE), rules=rules)


class Routed(nn.Module):
    """A mixture of experts: each input goes to one, and few inputs leave some of them out."""

    def __init__(self, width: int, experts: int = 4):
        super().__init__()
        self.input, self.gate = nn.Linear(8, width), nn.Linear(width, experts)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))
        self.readout = nn.Linear(width, 5)

    def forward(self, x_BI: Tensor) -> Tensor:
        x_BD = torch.relu(self.input(x_BI))
        weight_B, chosen_B = self.gate(x_BD).softmax(-1).max(-1)
        y_BD = torch.zeros_like(x_BD)
        for i, expert in enumerate(self.experts):
            rows = (chosen_B == i).nonzero().squeeze(1)
            if len(rows):
                y_BD = y_BD.index_add(0, rows, expert(x_BD[rows]) * weight_B[rows, None])
        return self.readout(x_BD + y_BD)


def routed(width: int) -> nn.Module:
    """A mixture of experts in µP."""
    return mupkit.parametrize(Routed(width), Routed(BASE))


def many_inputs_loss(model: nn.Module) -> Tensor:
    """On one batch of 64 inputs."""
    generator = torch.Generator().manual_seed(7)
    return F.cross_entropy(model(torch.randn(64, 8, generator=generator)), torch.arange(64) % 5)


def mlp_loss(model: nn.Module) -> Tensor:
    """On one batch of 16."""
    x, labels = batch("mlp")
    return F.cross_entropy(model(x), labels)


def transformer_loss(model: nn.Module) -> Tensor:
    """On one batch of 4 texts of 7 tokens."""
    tokens, labels = batch("transformer")
    return F.cross_entropy(model(tokens).reshape(len(labels), -1), labels)


# What queries and keys learn by SGD is, in these few steps and at these widths, hidden by chance:
# at initialization their gradients are sums of random terms, of 1/sqrt(width). Zero initial queries
# and projections, and few different inputs, so that much is equal in the sum, take that part away.
QUIET = {"zero": True, "position_std": 0.3}


def quiet_loss(model: nn.Module) -> Tensor:
    """On one batch of 4 texts of 7 tokens, of which there are only three."""
    tokens, labels = batch("transformer")
    return F.cross_entropy(model(tokens % 3).reshape(len(labels), -1), labels)


def mu_adam(model: nn.Module) -> Optimizer:
    """Right."""
    return mupkit.MuAdam(model, lr=0.02)


def mu_sgd(model: nn.Module) -> Optimizer:
    """Right."""
    return mupkit.MuSGD(model, lr=0.5)


def quiet_sgd(model: nn.Module) -> Optimizer:
    """Right, at a rate that Transformers bear."""
    return mupkit.MuSGD(model, lr=0.2)


def plain_adam(model: nn.Module) -> Optimizer:
    """One rate for all."""
    return torch.optim.Adam(model.parameters(), lr=0.02)


def plain_sgd(model: nn.Module) -> Optimizer:
    """One rate for all."""
    return torch.optim.SGD(model.parameters(), lr=0.5)


def unscaled(make: Callable[[nn.Module], Optimizer], lr: float, *names: str) -> Any:
    """`make`, but with the base rate for the parameters of these names, unknown to mupkit."""

    def make_optimizer(model: nn.Module) -> Optimizer:
        optimizer = make(model)
        chosen = {id(p) for name, p in model.named_parameters() if name in names}
        for group in list(optimizer.param_groups):
            moved = [p for p in group["params"] if id(p) in chosen]
            group["params"] = [p for p in group["params"] if id(p) not in chosen]
            options = {k: v for k, v in group.items() if k not in ("lr_mult", "mup_group")}
            if moved:
                optimizer.add_param_group({**options, "params": moved, "lr": lr})
        return optimizer

    return make_optimizer


def without_multiplier(width: int) -> nn.Module:
    """The readout forgets its 1/width."""
    model = mlp(width)
    model.readout.set_width_mult(1.0)
    return model


def unscaled_std(width: int) -> nn.Module:
    """The hidden weight's std is that of the base width."""
    model = mlp(width)
    nn.init.normal_(model.hidden.weight, std=BASE**-0.5)
    return model


def forgotten_delta(width: int) -> nn.Module:
    """The delta model differs in one of two widths, so that mupkit takes the other for finite."""
    model, base = MLP(mupkit, width, width), MLP(mupkit, BASE, BASE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mupkit.set_base_shapes(model, base, delta=MLP(mupkit, BASE, BASE + 1))
