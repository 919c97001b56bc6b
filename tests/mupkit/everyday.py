"""Models as people write them, right in µP, each with `build(width)` and `loss(model)`.

Axes: B batch, L length, D width, H heads, K size of a head, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD = 16  # size of a head, the same at all widths: more width is more heads


def fixed(*shape: int, classes: int = 0) -> Tensor:
    """The same numbers at every call, or labels."""
    draw = torch.Generator().manual_seed(7)
    if classes:
        return torch.randint(classes, shape, generator=draw)
    return torch.randn(shape, generator=draw)


class MLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(20, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.readout = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.layers(x))


class CNN(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.readout = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.layers(x))


class Recurrent(nn.Module):
    def __init__(self, width: int, cell: type[nn.RNNBase]):
        super().__init__()
        self.embedding = nn.Embedding(30, width)
        self.rnn = cell(width, width, batch_first=True)
        self.readout = nn.Linear(width, 30)

    def forward(self, ids: Tensor) -> Tensor:
        return self.readout(self.rnn(self.embedding(ids))[0])


class Encoder(nn.Module):
    """PyTorch's own layers."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Embedding(30, width)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(
            width, width // HEAD, 2 * width, dropout=0.0, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.readout = nn.Linear(width, 30)

    def forward(self, ids: Tensor) -> Tensor:
        return self.readout(self.encoder(self.embedding(ids) + self.position))


class VAE(nn.Module):
    """Between encoder and decoder are eight latent numbers, at all widths."""

    def __init__(self, width: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, width), nn.Tanh(), nn.Linear(width, width))
        self.latent = nn.Linear(width, 16)
        self.decoder = nn.Sequential(
            nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.readout = nn.Linear(width, 20)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.latent(torch.tanh(self.encoder(x))).chunk(2, -1)
        z = mean + fixed(*mean.shape).to(mean) * (0.5 * log_variance).exp()
        return self.readout(self.decoder(z)), mean, log_variance


class Mixer(nn.Module):
    """An MLP over positions, whose number is fixed, and one over channels."""

    def __init__(self, width: int):
        super().__init__()
        self.patches = nn.Linear(12, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.positions = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.readout = nn.Linear(width, 10)

    def forward(self, x_BLC: Tensor) -> Tensor:
        x_BLD = self.patches(x_BLC)
        x_BLD = x_BLD + self.positions(self.norms[0](x_BLD).mT).mT
        x_BLD = x_BLD + self.channels(self.norms[1](x_BLD))
        return self.readout(x_BLD.mean(1))


class UNet(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.input = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.joined = nn.Conv2d(2 * width, width, 3, padding=1)
        self.output = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.silu(self.input(x))
        coarse = F.silu(self.middle(F.silu(self.down(fine))))
        return self.output(F.silu(self.joined(torch.cat([fine, F.silu(self.up(coarse))], 1))))


class Block(nn.Module):
    """Pre-norm, grouped queries, a gated feed-forward layer."""

    def __init__(self, width: int):
        super().__init__()
        self.n_head, self.n_key = width // HEAD, width // HEAD // 2
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * self.n_key * HEAD, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.value = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        B, L, _ = x_BLD.shape
        h_BLD = self.norms[0](x_BLD)
        q_BHLK = self.query(h_BLD).view(B, L, self.n_head, HEAD).transpose(1, 2)
        keys = self.key_value(h_BLD).view(B, L, 2, self.n_key, HEAD).permute(2, 0, 3, 1, 4)
        k_BHLK, v_BHLK = (x.repeat_interleave(2, 1) for x in keys)
        attended = F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=True)
        x_BLD = x_BLD + self.out(attended.transpose(1, 2).reshape(B, L, -1))
        h_BLD = self.norms[1](x_BLD)
        return x_BLD + self.down(F.silu(self.gate(h_BLD)) * self.value(h_BLD))


class Decoder(nn.Module):
    """Grouped queries and SwiGLU."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Embedding(30, width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm = nn.RMSNorm(width)
        self.readout = nn.Linear(width, 30, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.readout(self.norm(self.blocks(self.embedding(ids))))


def mlp(width: int) -> nn.Module:
    return MLP(width)


def cnn(width: int) -> nn.Module:
    return CNN(width)


def gru(width: int) -> nn.Module:
    return Recurrent(width, nn.GRU)


def lstm(width: int) -> nn.Module:
    return Recurrent(width, nn.LSTM)


def encoder(width: int) -> nn.Module:
    return Encoder(width)


def vae(width: int) -> nn.Module:
    return VAE(width)


def mixer(width: int) -> nn.Module:
    return Mixer(width)


def unet(width: int) -> nn.Module:
    return UNet(width)


def decoder(width: int) -> nn.Module:
    return Decoder(width)


def loss(model: Any) -> Tensor:
    """On one fixed batch, by the kind of the model."""
    dtype = next(model.parameters()).dtype
    match model:
        case MLP():
            return F.cross_entropy(model(fixed(32, 20).to(dtype)), fixed(32, classes=10))
        case CNN():
            return F.cross_entropy(model(fixed(16, 3, 8, 8).to(dtype)), fixed(16, classes=10))
        case Mixer():
            return F.cross_entropy(model(fixed(32, 16, 12).to(dtype)), fixed(32, classes=10))
        case UNet():
            x = fixed(4, 3, 8, 8).to(dtype)
            return F.mse_loss(model(x), x.flip(-1))
        case VAE():
            x = fixed(32, 20).to(dtype)
            again, mean, log_variance = model(x)
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
            return F.mse_loss(again, x) + 0.1 * divergence.mean()
    ids = fixed(8, 9, classes=30)
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


KINDS = (mlp, cnn, gru, lstm, encoder, vae, mixer, unet, decoder)
