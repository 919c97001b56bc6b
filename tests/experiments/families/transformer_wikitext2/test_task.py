"""The language model: dimensions, roles, paper-scale sizes, and width-independence in µP."""

import numpy as np
import pytest
import torch

from experiments.families.transformer_wikitext2.config import TransformerConfig
from experiments.families.transformer_wikitext2.spec import FIG1
from experiments.families.transformer_wikitext2.task import build
from mupkit import get_infshapes
from mupkit.rules import rule_for, scale
from tests.tiny_runs import tiny_run


def parameters(config: TransformerConfig) -> int:
    """By hand: embeddings, positions, attention, feed-forward, norms, readout."""
    d = config.dims()
    model, heads = d["d_model"], d["n_head"]
    attention = 2 * model * heads * (d["d_k"] + d["d_head"])
    block = attention + 2 * model * d["d_ffn"] + 4 * model
    final_norm = 2 * model if config.norm == "pre" else 0
    words = config.vocab_size * model * (1 if config.tied else 2)
    return words + config.seq_len * model + config.n_layer * block + final_norm


@pytest.mark.parametrize("width", [128, 256, 512, 1024, 2048, 4096, 8192])
def test_paper_scale_models_have_the_papers_dimensions(width) -> None:
    runs = FIG1.runs("paper", "wikitext2")
    config = next(r for r in runs if r.width == width and r.parametrization == "mup")
    assert config.dims() == {
        "d_model": width,
        "n_head": 4,
        "d_head": width // 4,
        "d_k": width // 4,
        "d_ffn": 4 * width,
    }
    assert (config.n_layer, config.vocab_size, config.base_width) == (2, 33278, 128)
    with torch.device("meta"):
        model = build(config)
    assert sum(p.numel() for p in model.parameters()) == parameters(config)
    assert all(p.is_meta for p in model.parameters())


def test_paper_scale_trains_five_epochs() -> None:
    run = FIG1.runs("paper", "wikitext2")[0]
    assert run.steps * run.batch_size * run.seq_len / 2_088_628 == pytest.approx(5, abs=0.01)
    assert run.optimizer == "adam"
    assert run.norm == "post"


def test_small_scale_is_what_was_asked_of_it() -> None:
    axes = FIG1.sweeps[0].axes("small")
    assert len(axes["width"]) >= 4
    assert max(axes["width"]) >= 8 * min(axes["width"])
    assert len(axes["log2lr"]) >= 8
    assert len(axes["seed"]) >= 2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "pre"},
        {"tied": True},
        {"bias": True, "activation": "gelu"},
        {"n_layer": 3, "n_head": 2, "d_head": 5, "d_k": 7, "d_ffn": 11},
        {"width": 48, "n_head": 6, "base_n_head": 2, "d_head": 8, "base_d_head": 8},
    ],
)
def test_dimensions_are_free(changes) -> None:
    config = tiny_run(**changes)
    torch.manual_seed(0)
    model = build(config)
    if not config.bias:
        assert sum(p.numel() for p in model.parameters()) == parameters(config)
    logits_BLV = model(torch.randint(config.vocab_size, (2, config.seq_len)))
    assert logits_BLV.shape == (2, config.seq_len, config.vocab_size)


def test_no_token_sees_its_future() -> None:
    config = tiny_run(zero_readout=False)
    model = build(config)
    tokens_BL = torch.randint(config.vocab_size, (1, config.seq_len))
    changed_BL = tokens_BL.clone()
    changed_BL[0, -1] = (changed_BL[0, -1] + 1) % config.vocab_size
    before, after = model(tokens_BL), model(changed_BL)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


# Role and factor of Adam's rate at four times the base width, by part of the parameter's name.
ROLES = {
    "norm": ("input", 1),
    "word": ("input", 1),
    "position": ("input", 1),
    "query": ("hidden", 1 / 4),
    "key": ("hidden", 1 / 4),
    "value": ("hidden", 1 / 4),
    "out": ("hidden", 1 / 4),
    "up": ("hidden", 1 / 4),
    "down": ("hidden", 1 / 4),
    "readout": ("output", 1),
}


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_roles_and_rates(norm) -> None:
    model = build(tiny_run(width=64, base_width=16, norm=norm))
    for name, infshape in get_infshapes(model).items():
        part = next(p for p in ROLES if f".{p}" in f".{name}" or f"_{p}" in name)
        role, factor = ROLES[part]
        assert infshape.role() == role, name
        assert scale(infshape, rule_for(infshape).lr["adam"]) == factor, name


@pytest.mark.parametrize("parametrization", ["sp", "mup"])
def test_initial_std(parametrization) -> None:
    config = tiny_run(
        width=256, base_width=64, init_std=0.5, zero_readout=False, parametrization=parametrization
    )
    torch.manual_seed(0)
    model = build(config)
    base_fan_in = 64 if parametrization == "mup" else 256
    expected = {
        "word.weight": 0.5,
        "blocks.0.attention.query.weight": 0.5 / 256**0.5,
        "blocks.1.feed_forward.down.weight": 0.5 / 1024**0.5,
        "readout.weight": 0.5 / base_fan_in**0.5,
    }
    weights = dict(model.named_parameters())
    for name, std in expected.items():
        assert weights[name].std().item() == pytest.approx(std, rel=0.03), name


def test_attention_scale() -> None:
    for parametrization, factor in (("mup", 3 * 4**-0.5 * 4 / 16), ("sp", 3 * 16**-0.5)):
        config = tiny_run(width=64, base_width=16, attn_mult=3.0, parametrization=parametrization)
        assert build(config).blocks[0].attention.scale == pytest.approx(factor)


@pytest.mark.parametrize("parametrization", ["sp", "mup"])
def test_attention_is_scaled_dot_product_attention(parametrization) -> None:
    config = tiny_run(width=64, base_width=16, d_k=5, parametrization=parametrization)
    attention = build(config).blocks[0].attention
    x_BLD = torch.randn(3, 8, 64)
    mask_LL = torch.full((8, 8), float("-inf")).triu(1)
    q_BHLK, k_BHLK, v_BHLW = (
        proj(x_BLD).unflatten(-1, (config.n_head, -1)).transpose(1, 2)
        for proj in (attention.query, attention.key, attention.value)
    )
    y_BHLW = torch.nn.functional.scaled_dot_product_attention(
        q_BHLK, k_BHLK, v_BHLW, is_causal=True, scale=attention.scale
    )
    expected_BLD = attention.out(y_BHLW.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x_BLD, mask_LL), expected_BLD)


def growth(parametrization: str, norm: str, **changes) -> dict[str, float]:
    """Exponent in width of the change of activations over three Adam steps at a large rate."""
    widths = (32, 64, 128, 256)
    sizes: dict[str, list[float]] = {}
    for width in widths:
        config = tiny_run(
            width=width,
            base_width=32,
            parametrization=parametrization,
            norm=norm,
            log2lr=-5,
            vocab_size=50,
            **changes,
        )
        mean = np.mean([list(_changes(config, seed).values()) for seed in range(2)], axis=0)
        for name, size in zip(_changes(config, 0), mean, strict=True):
            sizes.setdefault(name, []).append(size)
    return {n: float(np.polyfit(np.log2(widths), np.log2(s), 1)[0]) for n, s in sizes.items()}


def _changes(config: TransformerConfig, seed: int) -> dict[str, float]:
    from experiments.train.engine import make_optimizer

    torch.manual_seed(seed)
    model = build(config)
    tokens_BL = torch.randint(config.vocab_size, (8, config.seq_len + 1))
    optimizer = make_optimizer(model, config)
    seen: dict[str, torch.Tensor] = {}
    modules = {
        "attention": model.blocks[-1].attention,
        "feed_forward": model.blocks[-1].feed_forward,
        "logits": model.readout,
    }
    for name, module in modules.items():
        module.register_forward_hook(
            lambda module, args, output, name=name: seen.__setitem__(name, output.detach())
        )
    first: dict[str, torch.Tensor] = {}
    for step in range(4):
        logits_BLV = model(tokens_BL[:, :-1])
        first = first or dict(seen)
        if step < 3:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(
                logits_BLV.flatten(0, 1), tokens_BL[:, 1:].flatten()
            ).backward()
            optimizer.step()
    return {name: (seen[name] - first[name]).abs().mean().item() for name in modules}


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_updates_do_not_grow_with_width_in_mup_and_do_in_sp(norm) -> None:
    mup, sp = growth("mup", norm), growth("sp", norm)
    assert all(abs(slope) < 0.25 for slope in mup.values()), mup
    assert sp["feed_forward"] > 0.4, sp
    assert sp["logits"] > 0.4, sp


def test_flops_of_a_width_grow_as_its_square_at_last() -> None:
    wide, wider = (tiny_run(width=w) for w in (8192, 16384))
    assert wider.flops() / wide.flops() == pytest.approx(4, rel=0.02)
