"""The commands as people run them: right models pass with the defaults, planted bugs do not."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import mupkit
from mupkit.__main__ import main
from tests.mupkit import everyday
from tests.mupkit.everyday import HEAD, KINDS, Block, Decoder, Encoder, loss

PASSED, WRONG, UNDECIDED = 0, 1, 3


def check(build, *options, widths="64,128,256", monkeypatch):
    monkeypatch.setitem(sys.modules, "own", SimpleNamespace(build=build, loss=loss))
    base = widths.split(",")[0]
    given = ["--base", f"width={base}", "--widths", f"width={widths}", *options]
    return main(["check", "own:build", "--loss", "own:loss", *given])


def explain(build, *options, monkeypatch):
    monkeypatch.setitem(sys.modules, "own", SimpleNamespace(build=build, decayed=decayed))
    given = ["--base", "width=64", "--target", "width=1024", *options]
    return main(["explain", "own:build", *given])


def of_convolutions(build):
    return "16,32,64" if build in (everyday.cnn, everyday.unet) else "64,128,256"


@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_a_right_model_passes(build, monkeypatch):
    assert check(build, widths=of_convolutions(build), monkeypatch=monkeypatch) == PASSED
    assert explain(build, monkeypatch=monkeypatch) == PASSED


@pytest.mark.parametrize("build", [everyday.mlp, everyday.encoder, everyday.decoder])
def test_it_fails_in_sp(build, monkeypatch):
    assert check(build, "--rules", "sp", monkeypatch=monkeypatch) == WRONG


def position(width):
    """The positions start smaller, the wider the model is."""
    model = Encoder(width)
    model.position.data.copy_(torch.randn(8, width) / width**0.5)
    return model


def own_matrix(width):
    """A raw matrix whose use its module does not tell, with a finite second dimension."""
    model = everyday.mlp(width)
    model.readout = Raw(width)
    return model


class Raw(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 10) / width**0.5)

    def forward(self, x):
        return x @ self.weight


class Residual(Block):
    """Its branches shrink with width."""

    def forward(self, x):
        return x + (super().forward(x) - x) / x.shape[-1] ** 0.5


class GrowingHeads(Encoder):
    """More width is larger heads, with 1/sqrt(d) attention."""

    def __init__(self, width):
        super().__init__(width)
        for layer in self.encoder.layers:
            layer.self_attn = nn.MultiheadAttention(width, 64 // HEAD, batch_first=True)


def residual(width):
    model = Decoder(width)
    model.blocks = nn.Sequential(Residual(width), Residual(width))
    return model


def initialized_afterwards(width):
    """It parametrizes itself, and draws its weights again."""
    with torch.device("meta"):
        base = everyday.mlp(64)
    model = mupkit.parametrize(everyday.mlp(width), base)
    nn.init.kaiming_normal_(model.readout.weight)
    return model


def parametrized(width):
    with torch.device("meta"):
        base = everyday.mlp(64)
    return mupkit.parametrize(everyday.mlp(width), base)


@pytest.mark.parametrize("build", [own_matrix, residual], ids=lambda build: build.__name__)
def test_check_does_not_pass_a_planted_bug(build, monkeypatch):
    assert check(build, monkeypatch=monkeypatch) in (WRONG, UNDECIDED)


EXPLAINED = {
    position: "position: its initial size is 0.2",
    own_matrix: "readout.weight: its initial size is 0.",
    GrowingHeads: "d_head is 256 here and 16 in the base model",
    initialized_afterwards: "readout.weight: its initial size is ",
}


@pytest.mark.parametrize("build", EXPLAINED, ids=lambda build: build.__name__)
def test_explain_names_a_planted_bug(build, monkeypatch, capsys):
    assert explain(build, monkeypatch=monkeypatch) == WRONG
    assert EXPLAINED[build] in capsys.readouterr().out


def test_explain_looks_at_heads_without_data_too(monkeypatch, capsys):
    assert explain(GrowingHeads, "--meta", monkeypatch=monkeypatch) == WRONG
    assert "d_head is 256 here and 16" in capsys.readouterr().out
    assert explain(everyday.encoder, "--meta", monkeypatch=monkeypatch) == PASSED


def test_explain_takes_a_build_that_parametrizes_itself(monkeypatch):
    assert explain(parametrized, monkeypatch=monkeypatch) == PASSED


def decayed(model):
    """The same decay in all groups: the mistake of setting it after the optimizer is made."""
    optimizer = mupkit.MuAdamW(model, lr=0.01, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.1
    return optimizer


def test_explain_sees_flat_weight_decay(monkeypatch, capsys):
    assert explain(everyday.mlp, "--optimizer", "own:decayed", monkeypatch=monkeypatch) == WRONG
    assert "16 times as much as" in capsys.readouterr().out
    right = ["--optimizer", "adamw", "--weight-decay", "0.1"]
    assert explain(everyday.mlp, *right, monkeypatch=monkeypatch) == PASSED


def test_decay_that_is_meant_to_follow_the_rate_is_no_finding():
    from mupkit.explain import findings

    model = parametrized(256)
    options = {"lr": 0.01, "weight_decay": 0.1, "weight_decay_mode": "coupled"}
    assert not findings(model, optimizer=mupkit.MuAdamW(model, **options))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    assert not findings(model, optimizer=mupkit.MuAdamW(groups, lr=0.01, weight_decay=0.1))
