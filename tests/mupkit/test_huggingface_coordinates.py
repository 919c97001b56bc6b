"""The coordinate check of models of transformers, and that it sees what can go wrong with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from mupkit import MuAdam, huggingface, storage
from mupkit.coord_check import coord_check
from mupkit.huggingface import ATTENTION_MULT, QUERY_MULT
from tests.mupkit.hf_models import (
    BASE,
    BY_HOOK,
    DELTA,
    FAMILIES,
    gpt2,
    loss,
    mup,
    without_layouts,
)

CHECK = {"loss": lambda model: loss(model, 2, 4), "seeds": range(8), "steps": 6}
WIDTHS = [32, 96, 256]


def attentions(model: Any) -> dict[str, Any]:
    """The modules with a query projection, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if any(isinstance(getattr(module, q, None), torch.nn.Module) for q in huggingface.QUERIES)
    }


def plain(name: str, width: int) -> Any:
    family = FAMILIES[name]
    return family.model(family.config(width)).eval()


def without_queries(model: Any) -> Any:
    """Queries start at zero (paper, Appendix D.2), so that logits move by learning, not chance."""
    for path, attention in attentions(model).items():
        projection, size = huggingface._query(path, attention)
        weight = projection.weight.data
        (weight[:, :size] if storage.is_conv1d(projection) else weight[:size]).zero_()
    return model


def mu_adam(model: Any) -> torch.optim.Optimizer:
    return MuAdam(model, lr=0.01)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_coordinate_check_passes(name):
    report = coord_check(
        lambda width: without_queries(mup(plain(name, width))),
        WIDTHS,
        make_optimizer=mu_adam,
        **CHECK,
    )
    if name not in BY_HOOK:
        assert report.passed, report
        return
    # Here the query contains the multiplier of attention, so it goes as 1/sqrt(d_head). Logits,
    # and the attention weights that the module returns, take more seeds than this to decide.
    of_attention = ("self.query", "self.softmax", "self.dropout", "[1]")
    trouble = [v.fit.tensor for v in (*report.failures, *report.undecided)]
    assert all(tensor.endswith(of_attention) for tensor in trouble), report
    assert all(v.fit.tensor.endswith("self.query") for v in report.failures), report
    queries = [f.exponent for f in report.fits if f.tensor.endswith("self.query") and f.exponent]
    assert queries == pytest.approx([-0.5] * len(queries), abs=0.25)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_coordinate_check_fails_in_sp(name):
    def plain_adam(model):
        return torch.optim.Adam(model.parameters(), lr=0.01)

    report = coord_check(
        lambda width: without_queries(plain(name, width)),
        WIDTHS,
        make_optimizer=plain_adam,
        **CHECK,
    )
    growing = {v.fit.tensor for v in report.failures if v.fit.exponent > 0.5}
    assert "(output)[logits]" in growing, report
    assert len(growing) > 30, report


@pytest.mark.parametrize("name", ["bert", "megatron"])
def test_the_coordinate_check_sees_1_over_sqrt_d_attention(name):
    """GPT-2 and Llama, which attend to few tokens here, come out undecided, and not passed."""

    def build(width):
        model = without_queries(mup(plain(name, width)))
        for module in model.modules():
            if hasattr(module, ATTENTION_MULT):
                setattr(module, ATTENTION_MULT, 1.0)
            if hasattr(module, QUERY_MULT):
                setattr(module, QUERY_MULT, (1.0, getattr(module, QUERY_MULT)[1]))
        return model

    report = coord_check(build, WIDTHS, make_optimizer=mu_adam, **CHECK)
    assert report.failures, report
    assert all(v.fit.tensor.endswith(("softmax", "self.dropout", "[1]")) for v in report.failures)


def test_the_coordinate_check_sees_a_conv1d_read_the_other_way_round(monkeypatch):
    """With a feed-forward layer of constant width, whose fan-in alone scales."""
    monkeypatch.setattr(storage, "is_conv1d", lambda module: False)
    monkeypatch.setattr(huggingface, "observe", without_layouts)

    def build(width):
        model = GPT2LMHeadModel(gpt2(width, d_ffn=64)).eval()
        return huggingface.parametrize(model, gpt2(BASE, d_ffn=64), gpt2(DELTA, d_ffn=64))

    report = coord_check(build, WIDTHS, make_optimizer=mu_adam, **CHECK)
    assert any(v.fit.tensor.endswith("c_fc") for v in report.failures), report
