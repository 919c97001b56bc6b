"""Models of transformers of many kinds: those that are right train alike, the others are refused.

`docs/huggingface.md` lists the former from `RIGHT`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers as hf
from torch.nn import functional as F

import mupkit
from mupkit import MuAdam, huggingface
from mupkit.huggingface import ATTENTION_MULT, QUERY_MULT
from tests.mupkit.hf_models import BASE, DELTA, FAMILIES, VOCAB

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


class Kind(NamedTuple):
    """A class of transformers, and its options by width."""

    model: type
    config: type
    options: Callable[[int], dict[str, Any]]


def usual(width: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": VOCAB,
        "max_position_embeddings": 32,
    }


def grouped(width: int) -> dict[str, Any]:
    return {**usual(width), "num_key_value_heads": 1, **IDS}


def sized(width: int) -> dict[str, Any]:
    return {**grouped(width), "head_dim": width // 2}


def seq2seq(width: int) -> dict[str, Any]:
    sizes = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 2 * width)
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    layers = {"encoder_layers": 1, "decoder_layers": 1, "decoder_start_token_id": 1}
    return {"d_model": width, "vocab_size": VOCAB, **sizes, **heads, **layers, **IDS}


def experts(width: int) -> dict[str, Any]:
    return {**grouped(width), "num_experts_per_tok": 2}


def embedded(width: int) -> dict[str, Any]:
    return {**usual(width), "embedding_size": 16}


RIGHT = {
    "ALBERT": Kind(hf.AlbertForTokenClassification, hf.AlbertConfig, embedded),
    "BART": Kind(hf.BartForConditionalGeneration, hf.BartConfig, seq2seq),
    "Cohere": Kind(hf.CohereForCausalLM, hf.CohereConfig, grouped),
    "DeBERTa-v2": Kind(
        hf.DebertaV2ForMaskedLM,
        hf.DebertaV2Config,
        lambda width: {
            **usual(width),
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "share_att_key": True,
            "position_buckets": 8,
        },
    ),
    "DeepSeek-V3": Kind(
        hf.DeepseekV3ForCausalLM,
        hf.DeepseekV3Config,
        lambda width: {
            **usual(width),
            "num_key_value_heads": 2,
            "moe_intermediate_size": width,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": width,
            "q_lora_rank": width,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": width // 4,
            "v_head_dim": width // 2,
        },
    ),
    "DistilBERT": Kind(
        hf.DistilBertForMaskedLM,
        hf.DistilBertConfig,
        lambda width: {
            "dim": width,
            "hidden_dim": 2 * width,
            "n_layers": 2,
            "n_heads": 2,
            "vocab_size": VOCAB,
            "max_position_embeddings": 32,
        },
    ),
    "ELECTRA": Kind(hf.ElectraForTokenClassification, hf.ElectraConfig, embedded),
    "GPT-J": Kind(
        hf.GPTJForCausalLM,
        hf.GPTJConfig,
        lambda width: {
            "n_embd": width,
            "n_inner": 2 * width,
            "n_layer": 2,
            "n_head": 2,
            "vocab_size": VOCAB,
            "n_positions": 32,
            "rotary_dim": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "GPT-NeoX": Kind(hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig, usual),
    "Granite": Kind(hf.GraniteForCausalLM, hf.GraniteConfig, grouped),
    "Mamba": Kind(
        hf.MambaForCausalLM,
        hf.MambaConfig,
        lambda width: {
            "hidden_size": width,
            "num_hidden_layers": 2,
            "vocab_size": VOCAB,
            "state_size": 4,
        },
    ),
    "Mistral": Kind(hf.MistralForCausalLM, hf.MistralConfig, grouped),
    "Mixtral": Kind(
        hf.MixtralForCausalLM,
        hf.MixtralConfig,
        lambda width: {**experts(width), "num_local_experts": 4},
    ),
    "OLMo-2": Kind(hf.Olmo2ForCausalLM, hf.Olmo2Config, grouped),
    "OPT": Kind(
        hf.OPTForCausalLM,
        hf.OPTConfig,
        lambda width: {
            **usual(width),
            "ffn_dim": 2 * width,
            "word_embed_proj_dim": width,
            **IDS,
        },
    ),
    "Phi-3": Kind(hf.Phi3ForCausalLM, hf.Phi3Config, grouped),
    "Qwen2": Kind(hf.Qwen2ForCausalLM, hf.Qwen2Config, grouped),
    "Qwen2-MoE": Kind(
        hf.Qwen2MoeForCausalLM,
        hf.Qwen2MoeConfig,
        lambda width: {
            **experts(width),
            "num_experts": 4,
            "moe_intermediate_size": width,
            "shared_expert_intermediate_size": width,
        },
    ),
    "Qwen3": Kind(hf.Qwen3ForCausalLM, hf.Qwen3Config, sized),
    "ViT": Kind(
        hf.ViTForImageClassification,
        hf.ViTConfig,
        lambda width: {**usual(width), "image_size": 16, "patch_size": 8},
    ),
    "Wav2Vec2": Kind(
        hf.Wav2Vec2ForCTC,
        hf.Wav2Vec2Config,
        lambda width: {
            **usual(width),
            "conv_dim": (16, 16),
            "conv_stride": (5, 4),
            "conv_kernel": (10, 3),
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
        },
    ),
    "Whisper": Kind(
        hf.WhisperForConditionalGeneration,
        hf.WhisperConfig,
        lambda width: {
            **seq2seq(width),
            "num_mel_bins": 8,
            "max_source_positions": 10,
            "max_target_positions": 20,
        },
    ),
}
"""By the name that its users know."""


def config(kind: Kind, width: int, **options: Any) -> Any:
    made = kind.config(**kind.options(width), **options)
    for key in ("initializer_range", "init_std"):
        if hasattr(made, key):
            setattr(made, key, 0.1)
    return made


def built(kind: Kind, width: int, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return kind.model(config(kind, width, **options)).eval()


def mup(kind: Kind, model: Any, **options: Any) -> Any:
    return huggingface.parametrize(model, config(kind, BASE), config(kind, DELTA), **options)


def moved(kind: Kind, width: int, in_mup: bool, steps: int = 2) -> float:
    """How far a few steps of Adam move the logits."""
    model = built(kind, width)
    if in_mup:
        mup(kind, model)
    optimizer = (MuAdam if in_mup else torch.optim.Adam)(model.parameters(), lr=0.01)
    torch.manual_seed(1)
    inputs = huggingface._inputs(model, None)
    first = model(**inputs).logits.detach()
    labels = torch.randint(first.shape[-1], (first.shape[:-1].numel(),))
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(**inputs).logits.flatten(0, -2), labels).backward()
        optimizer.step()
    return (model(**inputs).logits - first).detach().square().mean().sqrt().item()


@pytest.mark.parametrize("name", RIGHT)
def test_updates_of_logits_stay_as_large_in_mup_and_grow_in_sp(name):
    exponents = {}
    for in_mup in (True, False):
        narrow, wide = (moved(RIGHT[name], width, in_mup) for width in (64, 256))
        exponents[in_mup] = math.log(wide / narrow) / math.log(4)
    assert -0.35 < exponents[True] < 0.15
    assert exponents[False] > 0.4


def mults(model: Any) -> set[float]:
    """The multipliers of attention, of either kind."""
    found = {vars(m)[ATTENTION_MULT] for m in model.modules() if ATTENTION_MULT in vars(m)}
    hooked = [vars(m)[QUERY_MULT] for m in model.modules() if QUERY_MULT in vars(m)]
    return found | {mult for mult, _ in hooked}


# 1/sqrt(d_head) at BASE becomes 1/d_head: sqrt(base_d / d) beside the model's own factor.
EXPECTED = {
    "DeepSeek-V3": math.sqrt((8 + BASE // 4) / (8 + 128 // 4)),  # the whole head, rope's part too
    "Granite": BASE / 128,  # its own factor is constant
    "Mamba": None,
}


@pytest.mark.parametrize("name", RIGHT)
def test_attention_has_the_multiplier_of_1_over_d(name):
    model = mup(RIGHT[name], built(RIGHT[name], 128))
    expected = EXPECTED.get(name, math.sqrt(BASE / 128))
    assert sorted(mults(model)) == ([] if expected is None else pytest.approx([expected], rel=1e-4))


@pytest.mark.parametrize("name", ["Mixtral", "Qwen2-MoE", "DeepSeek-V3"])
def test_routers_are_output_weights(name):
    model = mup(RIGHT[name], built(RIGHT[name], 128))
    shapes = mupkit.get_infshapes(model)
    routers = [key for key in shapes if key.endswith("mlp.gate.weight")]
    assert routers and {shapes[key].role() for key in routers} == {"output"}
    rates = {id(p): g["lr"] for g in MuAdam(model, lr=1.0).param_groups for p in g["params"]}
    assert {rates[id(model.get_parameter(key))] for key in routers} == {BASE / 128}


def test_each_parameters_initialization_is_measured():
    """Mamba's is a constant for some, as PyTorch's default for others."""
    kind = RIGHT["Mamba"]
    plain, model = built(kind, 128), mup(kind, built(kind, 128))
    ratio = {
        name: (p.std() / q.std()).item()
        for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True)
        if q.std() > 0
    }
    layer = "backbone.layers.0.mixer"
    assert ratio[f"{layer}.in_proj.weight"] == pytest.approx(0.5)  # was constant: 1/sqrt(4)
    assert ratio[f"{layer}.out_proj.weight"] == 1  # was 1/sqrt(fan_in) already
    assert ratio[f"{layer}.A_log"] == 1


class Scaled(NamedTuple):
    """A model that multiplies its embedding by sqrt(width)."""

    kind: Kind
    embeddings: tuple[str, ...]


SCALED = {
    "Gemma": Scaled(Kind(hf.GemmaForCausalLM, hf.GemmaConfig, sized), ("model.embed_tokens",)),
    "BART": Scaled(
        Kind(
            hf.BartForConditionalGeneration,
            hf.BartConfig,
            lambda width: {**seq2seq(width), "scale_embedding": True},
        ),
        ("model.encoder.embed_tokens", "model.decoder.embed_tokens"),
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_an_embedding_scale_that_grows_is_refused_and_can_be_mended(name):
    kind, embeddings = SCALED[name]
    model = built(kind, 128)
    with pytest.raises(ValueError, match=r"embed_tokens multiplies .* 5.657 and 11.31"):
        mup(kind, model)
    for path in embeddings:
        module = model.get_submodule(path)
        base = torch.as_tensor(float(BASE) ** 0.5)
        module.embed_scale = base if isinstance(module.embed_scale, torch.Tensor) else base.item()
    assert mults(mup(kind, model)) == {0.5}


REFUSED = {
    "T5": (
        Kind(
            hf.T5ForConditionalGeneration,
            hf.T5Config,
            lambda width: {
                "d_model": width,
                "d_kv": 16,
                "num_heads": width // 16,
                "d_ff": 2 * width,
                "num_layers": 1,
                "vocab_size": VOCAB,
                "decoder_start_token_id": 0,
            },
        ),
        "the model multiplies activations by a number that depends on width, 0.1768",
    ),
    "Falcon": (
        Kind(
            hf.FalconForCausalLM,
            hf.FalconConfig,
            lambda width: {
                "hidden_size": width,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "vocab_size": VOCAB,
                **IDS,
            },
        ),
        r"h\.0\.self_attention has no query projection .* heads of one size",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_scaled_is_refused_by_name(name):
    kind, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        mup(kind, built(kind, 128))


def test_experts_of_one_size_at_all_widths_are_read_as_stacks():
    """More width is then wider inputs and outputs of each expert, and of its router."""
    kind = RIGHT["Mixtral"]

    def config(width):
        return kind.config(**{**kind.options(width), "intermediate_size": 24})

    model = kind.model(config(128))
    huggingface.parametrize(model, config(32), config(64))
    shapes = mupkit.get_infshapes(model)
    roles = {name.split(".mlp.")[-1]: shape.role() for name, shape in shapes.items()}
    assert roles["experts.gate_up_proj"] == "output"
    assert roles["experts.down_proj"] == "input"
    assert roles["gate.weight"] == "output"


def test_a_trained_model_is_not_rescaled_in_silence(tmp_path):
    kind = RIGHT["Qwen2"]
    model = mup(kind, built(kind, 128))
    model.save_pretrained(tmp_path)
    loaded = kind.model.from_pretrained(tmp_path)
    del loaded.config.mup  # which would be refused at once
    with pytest.raises(ValueError, match=r"q_proj.weight \(0.5.* rescale_params=False"):
        mup(kind, loaded)
    kept = mup(kind, kind.model.from_pretrained(tmp_path), rescale_params=False)
    pairs = zip(kept.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


def test_an_initialization_of_another_law_is_refused_unless_it_is_named():
    class Falling(hf.Qwen2ForCausalLM):
        def _init_weights(self, module: Any) -> None:
            super()._init_weights(module)
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=2 / module.in_features)

    kind = RIGHT["Qwen2"]._replace(model=Falling)
    with pytest.raises(ValueError, match=r"neither .* lm_head\.weight \(0.66"):
        mup(kind, built(kind, 128))
    names = {name: "torch" for name, p in built(kind, 128).named_parameters() if p.ndim == 2}
    with pytest.raises(ValueError, match=r"init names no parameter .* head\.weight"):
        mup(kind, built(kind, 128), init={**names, "head.weight": "torch"}, verify=False)
    plain, model = built(kind, 128), mup(kind, built(kind, 128), init=names, verify=False)
    assert torch.equal(
        model.model.layers[0].mlp.up_proj.weight, plain.model.layers[0].mlp.up_proj.weight
    )


def test_measuring_leaves_the_model_and_the_random_numbers_as_they_were():
    kind = RIGHT["ViT"]
    model, again = built(kind, BASE).train(), built(kind, BASE)
    state = torch.random.get_rng_state()
    mup(kind, model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks for m in model.modules())
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


def test_it_can_be_called_where_the_meta_device_is_the_default():
    kind = RIGHT["Whisper"]
    with torch.device("meta"):
        model = mup(kind, built(kind, 128))
    assert mults(model) == {0.5}


def test_a_forward_pass_that_fails_is_an_error_that_names_it():
    family = FAMILIES["bert"]
    model = family.model(family.config(128))
    wrong = {"input_ids": torch.full((1, 4), VOCAB)}
    with pytest.raises(ValueError, match=r"forward pass of BertForMaskedLM .* IndexError"):
        huggingface.parametrize(model, family.config(BASE), inputs=wrong)
    right = {"input_ids": torch.arange(5)[None]}
    assert mults(huggingface.parametrize(model, family.config(BASE), inputs=right)) == {0.5}


def test_a_wrapper_of_peft_is_refused_by_name():
    wrapper = type("PeftModelForCausalLM", (torch.nn.Module,), {"__module__": "peft.peft_model"})
    with pytest.raises(TypeError, match="PeftModelForCausalLM is a wrapper of peft"):
        huggingface.parametrize(wrapper(), None)


def test_the_initialization_of_a_model_without_data_and_delta_is_warned_of():
    def config(width: int) -> Any:
        return hf.LlamaConfig(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2)

    with torch.device("meta"):
        model = hf.LlamaForCausalLM(config(1024))
    with pytest.warns(mupkit.messages.MupWarning, match="was not measured"):
        huggingface.parametrize(model, config(128))


def test_the_documentation_lists_the_models_that_are_tested():
    page = (Path(__file__).parents[2] / "docs" / "huggingface.md").read_text(encoding="utf-8")
    (listed,) = (line for line in page.splitlines() if line.startswith("ALBERT, "))
    names = {"bert": "BERT", "megatron": "Megatron-BERT", "gpt2": "GPT-2", "llama": "Llama"}
    names["roberta"] = "RoBERTa"
    expected = sorted([*RIGHT, *(names[name] for name in FAMILIES)], key=str.lower)
    assert listed.removesuffix(".").split(", ") == expected
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"[{len(expected)} kinds are tested](docs/huggingface.md)" in readme
