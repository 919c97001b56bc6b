"""Models of transformers: the same at base width, µP at other widths, plain again when folded."""

from __future__ import annotations

import copy
import doctest
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mupkit import SP, TABLE_3, TABLE_8, TABLE_9, MuAdam, MuSGD, huggingface, storage
from mupkit.coord_check.capture import capture
from mupkit.huggingface import ATTENTION_MULT, QUERY_MULT
from tests.mupkit.hf_models import (
    BASE,
    BY_HOOK,
    CASES,
    DELTA,
    FAMILIES,
    STD,
    VOCAB,
    WIDTH,
    batch,
    gpt2,
    logits,
    loss,
    masks,
    mup,
    stock,
    train,
    without_layouts,
)
from tests.mupkit.models import by_name


@pytest.mark.parametrize("name", FAMILIES)
def test_initialization_has_one_std_at_all_widths(name):
    """What init="constant" takes for granted."""
    narrow, wide = (
        dict(stock(name, width, tie_word_embeddings=False).named_parameters())
        for width in (64, 256)
    )
    for key, p in narrow.items():
        if p.ndim > 1:
            assert (wide[key].std() / p.std()).item() == pytest.approx(1, abs=0.2), key
        else:
            assert p.unique().tolist() == wide[key].unique().tolist(), key


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "tied"), CASES)
def test_at_base_width_nothing_changes(name, tied, backend):
    backend = "eager" if name in BY_HOOK else backend
    expected = stock(name, BASE, backend=backend, tie_word_embeddings=tied)
    for rules in (TABLE_9, TABLE_8, TABLE_3):
        model = mup(copy.deepcopy(expected), rules)
        assert model.config._attn_implementation.endswith(backend)
        for mask in masks():
            assert torch.equal(logits(model, mask), logits(expected, mask)), rules.name
    train(model, MuAdam(model, lr=0.01), 3)
    train(expected, torch.optim.Adam(expected.parameters(), lr=0.01), 3)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), expected.parameters(), strict=True)
    )


UPCAST = {"reorder_and_upcast_attn": True, "backend": "eager"}  # GPT-2's own path


@pytest.mark.parametrize(("name", "options"), [*((n, {}) for n in FAMILIES), ("gpt2", UPCAST)])
def test_attention_logits_are_those_of_1_over_d(name, options):
    """Of the first layer, with the same weights: smaller by sqrt(d / base d)."""
    model = stock(name, WIDTH, **options)
    before = first_logits(model)
    after = first_logits(mup(model, rescale_params=False))
    assert after.isfinite().any()
    torch.testing.assert_close(after, before * (BASE / WIDTH) ** 0.5)
    hooked = [m for m in model.modules() if hasattr(m, QUERY_MULT)]
    assert len(hooked) == (2 if name in BY_HOOK or options else 0)


def first_logits(model: Any) -> torch.Tensor:
    """What the first softmax reads, where it is not masked."""
    found = capture(model, loss)
    x = next(x for key, x in found.items() if key.endswith("softmax"))
    return x[x > -1e8]


def test_heads_that_stay_as_large_keep_their_scale():
    config = gpt2(WIDTH)
    config.n_head = WIDTH // 16
    model = huggingface.parametrize(GPT2LMHeadModel(config), gpt2(BASE), gpt2(DELTA))
    assert {getattr(block.attn, ATTENTION_MULT) for block in model.transformer.h} == {1.0}


@pytest.mark.parametrize("positions", [1, 3])
def test_a_model_may_read_fewer_tokens_than_are_usually_made_up(positions):
    configs = [gpt2(width) for width in (WIDTH, BASE, DELTA)]
    for config in configs:
        config.n_positions = positions
    model, *others = configs
    found = huggingface.parametrize(GPT2LMHeadModel(model), *others)
    mults = [getattr(block.attn, ATTENTION_MULT) for block in found.transformer.h]
    assert mults == pytest.approx([(BASE / WIDTH) ** 0.5] * 2)


@pytest.mark.parametrize(("name", "tied"), CASES)
@pytest.mark.parametrize("make_optimizer", [MuAdam, MuSGD])
def test_tables_3_8_and_9_train_the_same_function(name, tied, make_optimizer):
    options = {"lr": 0.01, "eps": 1e-3} if make_optimizer is MuAdam else {"lr": 0.1}
    runs = []
    for rules in (TABLE_3, TABLE_8, TABLE_9):
        model = mup(stock(name, WIDTH, tie_word_embeddings=tied).double(), rules)
        runs.append(torch.stack(train(model, make_optimizer(model, **options), 10)))
    expected, *others = runs
    assert (expected[-1] - expected[0]).abs().max() > 0.1, "it does not learn"
    for other in others:
        assert (other - expected).abs().max() < 1e-9


# d_model grows fourfold, d_ffn twofold. Fan-in is the first dimension of a Conv1D.
RATES = {
    "transformer.wte.weight": (1, 4),
    "transformer.wpe.weight": (1, 4),
    "transformer.h.0.attn.c_attn.weight": (1 / 4, 1),
    "transformer.h.0.mlp.c_fc.weight": (1 / 4, 2 / 4),
    "transformer.h.0.mlp.c_fc.bias": (1, 2),
    "transformer.h.0.mlp.c_proj.weight": (1 / 2, 4 / 2),
    "transformer.h.0.mlp.c_proj.bias": (1, 4),
    "lm_head.weight": (1 / 4, 1 / 4),
}


def conv1d_model() -> Any:
    torch.manual_seed(0)
    configs = ((128, 128), (32, 64), (48, 96))
    model, base, delta = (gpt2(w, d_ffn=f, tie_word_embeddings=False) for w, f in configs)
    return huggingface.parametrize(GPT2LMHeadModel(model), base, delta)


def test_fan_in_of_conv1d_is_its_first_dimension():
    model = conv1d_model()
    adam, sgd = (by_name(model, make(model, lr=1.0), "lr") for make in (MuAdam, MuSGD))
    assert {name: (adam[name], sgd[name]) for name in RATES} == RATES
    mlp = model.transformer.h[0].mlp
    assert mlp.c_fc.weight.std().item() == pytest.approx(STD / 4**0.5, rel=0.05)
    depth = (2 * model.config.n_layer) ** -0.5  # GPT-2's own factor of residual branches
    assert mlp.c_proj.weight.std().item() == pytest.approx(STD * depth / 2**0.5, rel=0.05)


@pytest.mark.parametrize("seen", [True, False])
def test_a_conv1d_that_is_read_the_other_way_round_shows(seen, monkeypatch):
    """Unless the forward pass is looked at, which tells the same."""
    monkeypatch.setattr(storage, "is_conv1d", lambda module: False)
    if not seen:
        monkeypatch.setattr(huggingface, "observe", without_layouts)
    model = conv1d_model()
    rates = by_name(model, MuAdam(model, lr=1.0), "lr")
    wrong = {name for name, (adam, _) in RATES.items() if rates[name] != adam}
    expected = {f"transformer.h.0.mlp.{layer}.weight" for layer in ("c_fc", "c_proj")}
    assert wrong == (set() if seen else expected)


@pytest.mark.parametrize("rules", [TABLE_3, TABLE_8], ids=["3", "8"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_tied_head_keeps_the_rules_of_the_embedding(name, rules):
    plain = stock(name, WIDTH, tie_word_embeddings=True)
    model = mup(copy.deepcopy(plain), rules)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert head.weight is embedding.weight
    assert torch.equal(embedding.weight, plain.get_input_embeddings().weight)
    for make, rate in ((MuAdam, 1), (MuSGD, WIDTH / BASE)):
        groups = make(model, lr=1.0).param_groups
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        assert rates[id(embedding.weight)] == rate
    x, bias = torch.randn(2, WIDTH), head.bias if head.bias is not None else 0
    expected = F.linear(x, head.weight) * BASE / WIDTH + bias
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize("rules", [TABLE_3, TABLE_9], ids=["3", "9"])
@pytest.mark.parametrize(("name", "tied"), CASES)
def test_folded_is_plain_transformers_with_the_same_outputs(name, tied, rules, tmp_path):
    model = mup(stock(name, WIDTH, tie_word_embeddings=tied), rules)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=STD) if p.ndim == 1 else None  # biases count, too
    folded = huggingface.fold(model)
    folded.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for mask in masks():
        expected = logits(model, mask)
        assert (logits(folded, mask) - expected).abs().max() < 1e-6
        assert torch.equal(logits(loaded, mask), logits(folded, mask))
    assert folded.config._attn_implementation == stock(name, BASE).config._attn_implementation
    assert not folded.config.tie_word_embeddings
    assert not any("_mup" in key for m in folded.modules() for key in vars(m))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in folded.modules())
    plain = stock(name, WIDTH, tie_word_embeddings=False)
    assert folded.state_dict().keys() == plain.state_dict().keys()
    assert model.config.tie_word_embeddings == tied, "the model is left as it was"


@pytest.mark.parametrize("name", FAMILIES)
def test_folded_at_base_width_stays_tied(name):
    model = mup(stock(name, BASE, tie_word_embeddings=True))
    folded = huggingface.fold(model)
    assert folded.get_output_embeddings().weight is folded.get_input_embeddings().weight
    assert folded.config.tie_word_embeddings
    assert torch.equal(logits(folded), logits(model))


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_a_trained_checkpoint_is_loaded_without_rescaling(name, tied, tmp_path):
    model = mup(stock(name, WIDTH, tie_word_embeddings=tied))
    expected = train(model, MuAdam(model, lr=0.01), 2)[-1]
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert not torch.equal(logits(loaded), expected)
    loaded = mup(loaded, rescale_params=False)
    assert torch.equal(logits(loaded), expected)
    assert torch.equal(logits(mup(loaded, rescale_params=False)), expected), "a second call"


@pytest.mark.parametrize("name", FAMILIES)
def test_config_json_keeps_the_record(name, tmp_path):
    """So that trained weights are not rescaled, nor trained on with another base."""
    mup(stock(name, WIDTH)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"config\.mup says .* were trained in µP.* delete it"):
        mup(type(stock(name, BASE)).from_pretrained(tmp_path), verify=False)
    loaded = type(stock(name, BASE)).from_pretrained(tmp_path)
    other = dict(rules=TABLE_8, rescale_params=False)
    with pytest.raises(ValueError, match="other µP: its scaling rules differ"):
        mup(loaded, **other)
    small, delta = stock(name, BASE // 2).config, stock(name, BASE).config
    with pytest.raises(ValueError, match="other µP: its base shapes of"):
        huggingface.parametrize(loaded, small, delta, rescale_params=False)
    mup(loaded, rescale_params=False)
    folded = huggingface.fold(loaded)
    assert "mup" not in folded.config.to_dict()
    assert "mup" in loaded.config.to_dict()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_configuration_that_models_share_is_left_as_it_is(name):
    shared = stock(name, WIDTH).config
    before = shared.to_dict()
    first, second = (type(stock(name, BASE))(shared) for _ in range(2))
    mup(first)
    assert shared.to_dict() == before
    assert shared._attn_implementation == second.config._attn_implementation
    assert logits(second).isfinite().all(), "it is a plain model"
    mup(second)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_generation_with_a_cache_and_padding(name):
    model = mup(stock(name, WIDTH))
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    tokens, mask = batch()[0], masks()[2]
    made = model.generate(tokens, attention_mask=mask, **options)
    folded = huggingface.fold(model).generate(tokens, attention_mask=mask, **options)
    assert torch.equal(made, folded)
    full = model(input_ids=made[2:], use_cache=False).logits[0, 6:-1].argmax(-1)  # not padded
    assert torch.equal(full[: made.shape[1] - 7], made[2, 7:])


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_weights_of_attention_are_returned_as_before(name):
    plain = stock(name, BASE, backend="eager")
    expected = plain(input_ids=batch()[0], output_attentions=True).attentions
    found = mup(plain)(input_ids=batch()[0], output_attentions=True).attentions
    assert len(found) == 2
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_switching_to_plain_attention_is_refused():
    model = mup(stock("bert", WIDTH))
    expected = logits(model)
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="parametrize again"):
        logits(model)
    model = mup(model)
    assert model.config._attn_implementation == "mup_eager"
    torch.testing.assert_close(logits(model), expected)


def test_deepcopy_and_float64_keep_the_multiplier():
    model = mup(stock("llama", WIDTH))
    assert torch.equal(logits(copy.deepcopy(model)), logits(model))
    torch.testing.assert_close(logits(copy.deepcopy(model).double()).float(), logits(model))


def test_errors_name_what_is_missing():
    model = stock("gpt2", WIDTH)
    with pytest.raises(TypeError, match="GPT2Config, not a BertConfig"):
        huggingface.parametrize(model, FAMILIES["bert"].config(BASE))
    shallow = gpt2(BASE)
    shallow.n_layer = 1
    with pytest.raises(ValueError, match=r"transformer\.h\.1\.attn.*\(model only\)"):
        huggingface.parametrize(stock("gpt2", WIDTH), shallow)
    with pytest.raises(ValueError, match="no µP multiplier"):
        stock("bert", BASE, backend="mup_sdpa")(input_ids=batch()[0])


def test_normalized_queries_work_and_cannot_be_folded():
    def config(width):
        options = {"head_dim": width // 2, "num_attention_heads": 2, "num_key_value_heads": 1}
        sizes = {"hidden_size": width, "intermediate_size": width, "vocab_size": VOCAB}
        return Qwen3Config(num_hidden_layers=1, **sizes, **options)

    model = huggingface.parametrize(Qwen3ForCausalLM(config(WIDTH)), config(BASE), config(DELTA))
    assert logits(model).isfinite().all()
    with pytest.raises(ValueError, match=r"self_attn normalizes queries .*q_norm"):
        huggingface.fold(model)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_models_of_seven_billion_parameters_on_the_meta_device(name):
    def config(width):
        if name == "gpt2":
            return GPT2Config(n_embd=width, n_layer=32, n_head=32)
        return LlamaConfig(hidden_size=width, intermediate_size=43 * width // 16)

    with torch.device("meta"):
        model = FAMILIES[name].model(config(4096))
    assert sum(p.numel() for p in model.parameters()) > 6.6e9
    huggingface.parametrize(model, config(256), config(512))
    assert all(p.is_meta for p in model.parameters())
    mults = {getattr(m, ATTENTION_MULT) for m in model.modules() if hasattr(m, ATTENTION_MULT)}
    assert mults == {0.25}
    rates = by_name(model, MuAdam(model, lr=1.0), "lr")
    assert {1 / 16, 1.0} == set(rates.values())


def test_mupkit_alone_does_not_bring_transformers():
    code = "import sys, mupkit; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_the_example_runs():
    results = doctest.testmod(huggingface)
    assert results.attempted > 0
    assert results.failed == 0


def test_sp_is_its_own_base():
    model = stock("gpt2", WIDTH)
    expected = logits(model)
    assert torch.equal(logits(huggingface.parametrize(model, gpt2(WIDTH), rules=SP)), expected)
