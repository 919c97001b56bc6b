"""Models of transformers as they are: µP from two configurations, with 1/d attention.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from mupkit import MuAdam, huggingface
    >>> def config(width):
    ...     return GPT2Config(n_embd=width, n_layer=2, n_head=4, vocab_size=64, n_positions=16)
    >>> model = GPT2LMHeadModel(config(128))
    >>> model = huggingface.parametrize(model, config(32), config(64))
    >>> optimizer = MuAdam(model, lr=1e-3)

Only this module needs transformers; `import mupkit` does not bring it.

Attention goes through transformers' attention interface: "mup_sdpa" and "mup_eager" are registered
there, with the masks of "sdpa" and "eager". In a model that does not use the interface, such as
MegatronBert, the output of the query projection is multiplied.
"""

from __future__ import annotations

import copy
import sys
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mupkit import fold as core_fold
from mupkit.parametrization import parametrize as core_parametrize
from mupkit.rules import TABLE_3, Rules
from mupkit.shape import unwrap
from mupkit.storage import is_conv1d

__all__ = ["fold", "parametrize"]

ModelT = TypeVar("ModelT", bound=nn.Module)
BACKENDS, PREFIX = ("eager", "sdpa"), "mup_"
ATTENTION_MULT, QUERY_MULT = "_mup_attention_mult", "_mup_query_mult"
QUERIES = ("query", "q_proj", "q_attn", "c_attn")  # c_attn, where there is no q_attn: q, k and v
QUERY_NORMS = ("q_norm", "query_norm", "q_layernorm", "query_layernorm")


def parametrize(
    model: ModelT,
    base_config: Any,
    delta_config: Any = None,
    *,
    rules: Rules = TABLE_3,
    rescale_params: bool = True,
) -> ModelT:
    """Parametrize a model of transformers as it is, attention included.

    The factor of q·k becomes scaling * base_d_head / d_head, with the scaling of the base model,
    which is usually 1/sqrt(base_d_head). At base width outputs stay the same bit for bit.

    Args:
        model: built from its configuration, which draws every matrix with an std that does not
            depend on width (`initializer_range`), or loaded. A head that is tied to the embedding
            stays tied: the weight has the embedding's rules, and the logits have a multiplier.
        base_config: the configuration of the same model at base width.
        delta_config: the same with every width changed; without it a dimension that is equal in
            base and model counts as finite.
        rules: as in `mupkit.parametrize`.
        rescale_params: as in `mupkit.parametrize`; False after loading a model trained in µP.

    Returns:
        `model`, in place. Choose its attention implementation first: "sdpa" becomes "mup_sdpa",
        "eager" becomes "mup_eager"; for any other the query is multiplied.

    Raises:
        TypeError: if a configuration is not of the model's class.
        ValueError: as `mupkit.parametrize`, and if attention, its query projection or the size of
            its heads is not found, naming what is missing.

    Source: Tensor Programs V, Definition 4.1 (1/d attention), Tables 3, 8 and 9.
    """
    inner = cast(PreTrainedModel, unwrap(model))
    base = _on_meta(inner, base_config)
    delta = None if delta_config is None else _on_meta(inner, delta_config)
    mults = _attention_mults(inner, base)
    core_parametrize(
        inner, base, delta, rules=rules, init="constant", rescale_params=rescale_params
    )
    backend = _backend(inner)
    for name, mult in mults.items():
        attention = inner.get_submodule(name)
        _take_mult(attention)
        if backend in BACKENDS:
            setattr(attention, ATTENTION_MULT, mult)
            attention.register_forward_pre_hook(_check_implementation)
        elif mult != 1:
            projection, size = _query(name, attention)
            setattr(projection, QUERY_MULT, (mult, size))
            projection.register_forward_hook(_multiply_query)
    if backend in BACKENDS:
        inner.set_attn_implementation(PREFIX + backend)
    return model


@torch.no_grad()
def fold(model: ModelT) -> ModelT:
    """A copy of `model` with the same outputs and without µP: save, load and share it as any other.

    Multipliers go into the weights, that of attention into the query projection; the attention
    implementation is the one before `parametrize`. A tied head that has a multiplier gets a weight
    of its own, and `config.tie_word_embeddings` becomes False.

    Args:
        model: a model that `parametrize` returned, or a wrapper of one; it is left unchanged.

    Raises:
        ValueError: if queries are normalized after their projection, since this then cannot hold
            the multiplier.
    """
    plain = core_fold(model)
    inner = cast(PreTrainedModel, plain)
    for name, attention in _attentions(inner).items():
        if (mult := _take_mult(attention)) != 1:
            projection, size = _query(name, attention)
            weight, bias = cast(Tensor, projection.weight), cast(Tensor | None, projection.bias)
            (weight[:, :size] if is_conv1d(projection) else weight[:size]).mul_(mult)
            if bias is not None:
                bias[:size].mul_(mult)
    if (backend := _backend(inner)) in BACKENDS:
        inner.set_attn_implementation(backend)
    _untie(inner)
    return plain


def attend(
    backend: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """An attention function of transformers: that of `backend`, with the module's multiplier.

    Shapes: query (batch, heads, L, d_head); key and value (batch, key heads, S, d_head); the mask
    as for `backend`; the first result (batch, L, heads, d_head).

    Raises:
        ValueError: if `parametrize` was not called on the module's model.
    """
    mult = getattr(module, ATTENTION_MULT, None)
    if mult is None:
        raise ValueError(
            f"{type(module).__name__} has no µP multiplier of its attention: "
            "call mupkit.huggingface.parametrize on the model"
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    function = _eager(module) if backend == "eager" else ALL_ATTENTION_FUNCTIONS[backend]
    result = function(module, query, key, value, attention_mask, scaling=scaling * mult, **kwargs)
    return cast(tuple[Tensor, Tensor | None], result)


def _eager(module: nn.Module) -> Any:
    """The eager attention function, which each family of models has in a file of its own."""
    for cls in type(module).__mro__:
        if function := getattr(sys.modules[cls.__module__], "eager_attention_forward", None):
            return function
    raise ValueError(
        f"the module that defines {type(module).__name__} has no eager_attention_forward: "
        'choose another with model.set_attn_implementation("sdpa")'
    )


for _backend_name in BACKENDS:
    ALL_ATTENTION_FUNCTIONS.register(PREFIX + _backend_name, partial(attend, _backend_name))
    ALL_MASK_ATTENTION_FUNCTIONS.register(
        PREFIX + _backend_name, ALL_MASK_ATTENTION_FUNCTIONS[_backend_name]
    )


def _backend(model: PreTrainedModel) -> str:
    """The attention implementation without µP; "" if a model does not use the interface."""
    config: Any = model.config
    # GPT-2 has a path of its own for this option, taken for "eager" alone.
    own_path = getattr(config, "reorder_and_upcast_attn", False)
    if own_path or not model._can_set_attn_implementation():
        return ""
    return str(config._attn_implementation).removeprefix(PREFIX)


def _check_implementation(attention: nn.Module, args: Any) -> None:
    """Forward pre-hook: refuse an attention implementation without 1/d."""
    implementation = cast(Any, attention).config._attn_implementation
    if not implementation.startswith(PREFIX):
        raise ValueError(
            f"the attention implementation was set to {implementation!r}, which has 1/sqrt(d) "
            "attention: call mupkit.huggingface.parametrize again (a second call rescales nothing)"
        )


def _multiply_query(projection: nn.Module, args: Any, output: Tensor) -> Tensor:
    """Forward hook of a query projection: multiply the part of its output that is the query."""
    mult, size = cast(tuple[float, int], getattr(projection, QUERY_MULT))
    if size == output.shape[-1]:
        return output * mult
    return torch.cat((output[..., :size] * mult, output[..., size:]), -1)


def _take_mult(attention: nn.Module) -> float:
    """Remove the multiplier and the hooks from an attention module; returns the multiplier."""
    mult: float = vars(attention).pop(ATTENTION_MULT, 1.0)
    for module in (attention, *attention.children()):
        mult *= vars(module).pop(QUERY_MULT, (1.0, 0))[0]
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [k for k, h in hooks.items() if h in _HOOKS]:
                del hooks[key]
    return mult


_HOOKS = (_check_implementation, _multiply_query)


def _on_meta(model: PreTrainedModel, config: Any) -> PreTrainedModel:
    """The same model with another configuration, without data."""
    if not isinstance(config, type(model.config)):
        raise TypeError(
            f"{type(model).__name__} has a {type(model.config).__name__}, "
            f"not a {type(config).__name__}"
        )
    with torch.device("meta"):
        return type(model)(copy.deepcopy(config))


def _attentions(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules with a query projection, by name."""
    found = {
        name: module
        for name, module in model.named_modules()
        if any(isinstance(getattr(module, query, None), nn.Module) for query in QUERIES)
    }
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no attention module with a query projection named "
            f"{', '.join(QUERIES)}"
        )
    return found


def _query(name: str, attention: nn.Module) -> tuple[nn.Module, int]:
    """The query projection, and how many of its outputs, the first ones, are the query."""
    if norms := [norm for norm in QUERY_NORMS if hasattr(attention, norm)]:
        raise ValueError(
            f"{name} normalizes queries after their projection ({norms[0]}), so that its weight "
            "cannot hold the multiplier of attention"
        )
    local = next(query for query in QUERIES if hasattr(attention, query))
    projection = attention.get_submodule(local)
    size = cast(Tensor, projection.weight).shape[1 if is_conv1d(projection) else 0]
    return projection, size // 3 if local == "c_attn" else size


def _attention_mults(model: PreTrainedModel, base: PreTrainedModel) -> dict[str, float]:
    """The factor of the scaling of each attention module, 1 at base width."""
    mults = {}
    in_base = _attentions(base)
    for name, attention in _attentions(model).items():
        if name not in in_base:
            raise ValueError(f"{name} is in the model, not in the base model")
        d_head, scaling = _heads(name, attention, model.config)
        base_d_head, base_scaling = _heads(name, in_base[name], base.config)
        mults[name] = base_scaling / scaling * (base_d_head / d_head)
    return mults


def _heads(name: str, attention: nn.Module, config: Any) -> tuple[int, float]:
    """The size of a head, and the factor of q·k in the module."""
    sizes = [getattr(attention, key, None) for key in ("head_dim", "attention_head_size")]
    sizes.append(getattr(config, "head_dim", None))
    if hasattr(config, "hidden_size") and hasattr(config, "num_attention_heads"):
        sizes.append(config.hidden_size // config.num_attention_heads)
    size = next((s for s in sizes if s), None)
    if size is None:
        raise ValueError(
            f"the size of a head of {name} is not found: neither it nor the configuration has "
            "head_dim, nor the configuration hidden_size and num_attention_heads"
        )
    return size, float(getattr(attention, "scaling", size**-0.5))


def _untie(model: PreTrainedModel) -> None:
    """Give tied parameters data of their own if folding has separated a pair of them."""
    tied: dict[str, str] = model.all_tied_weights_keys
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if all(parameters[target] is parameters[origin] for target, origin in tied.items()):
        return
    for target, origin in tied.items():
        if parameters[target] is parameters[origin]:
            owner, _, local = target.rpartition(".")
            copied = nn.Parameter(parameters[target].clone())
            setattr(model.get_submodule(owner), local, copied)
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.all_tied_weights_keys = {}
            cast(Any, module.config).tie_word_embeddings = False
