"""Models of transformers as they are: µP from two configurations, with 1/d attention.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from mupkit import MuAdam, huggingface
    >>> def config(width):
    ...     return GPT2Config(n_embd=width, n_layer=2, n_head=4, vocab_size=64, n_positions=16)
    >>> model = GPT2LMHeadModel(config(128))
    >>> model = huggingface.parametrize(model, config(32), config(64))
    >>> optimizer = MuAdam(model, lr=1e-3)

Only this module needs transformers; `import mupkit` does not bring it. `docs/huggingface.md` says
which models are tested, which are refused, and how to mend them.

Attention goes through transformers' attention interface: "mup_sdpa" and "mup_eager" are registered
there, with the masks of "sdpa" and "eager". In a model that does not use the interface, such as
MegatronBert, the output of the query projection is multiplied.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mupkit import checkpoint
from mupkit import fold as core_fold
from mupkit.base_shapes import REGISTRY, check_names, get_shapes, unwrap
from mupkit.messages import MupWarning
from mupkit.observe import Observed, observe
from mupkit.parametrization import INITS, infshapes
from mupkit.parametrization import parametrize as core_parametrize
from mupkit.rules import TABLE_3, Rules
from mupkit.storage import Inits, Layout, free_parameters, is_conv1d
from mupkit.verify import attention_mults, check_fresh, check_multipliers, initializations

__all__ = ["fold", "parametrize"]

ModelT = TypeVar("ModelT", bound=nn.Module)
BACKENDS, PREFIX = ("eager", "sdpa"), "mup_"
ATTENTION_MULT, QUERY_MULT = "_mup_attention_mult", "_mup_query_mult"
NOTHING: Mapping[str, Any] = MappingProxyType({})
LENGTH, SAMPLES = 7, 4000  # of inputs that are made up: tokens, and samples of sound
DRAWN = 30_000_000  # parameters of a model that is drawn again to be measured, at most
QUERIES = (
    "query",
    "q_proj",
    "query_proj",
    "q_attn",
    "c_attn",
)  # c_attn, where there is no q_attn: q, k and v
QUERY_NORMS = ("q_norm", "query_norm", "q_layernorm", "query_layernorm")


def parametrize(
    model: ModelT,
    base_config: Any,
    delta_config: Any = None,
    *,
    rules: Rules = TABLE_3,
    rescale_params: bool = True,
    init: Inits = NOTHING,
    layout: Layout = NOTHING,
    inputs: Mapping[str, Tensor] | None = None,
    verify: bool = True,
) -> ModelT:
    """Parametrize a model of transformers as it is, attention included.

    Nothing is taken from names. The base model is built, and it and the model make a forward pass,
    in which the sizes of heads, the factors of q·k, other scalars and the use of raw parameters are
    read off. How initial sizes go with width is measured, parameter by parameter. The factor of q·k
    is then multiplied so that factor * d_head, usually sqrt(d_head), is that of the base model. At
    base width outputs stay the same bit for bit.

    Args:
        model: built from its configuration, or loaded. A head that is tied to the embedding stays
            tied: the weight has the embedding's rules, and the logits have a multiplier.
        base_config: the configuration of the same model at base width.
        delta_config: the same with every width changed; without it a dimension that is equal in
            base and model counts as finite.
        rules: as in `mupkit.parametrize`.
        rescale_params: as in `mupkit.parametrize`; False after loading a model trained in µP.
        init: how initial sizes go with width, by parameter name, in place of the measurement.
        layout: as in `mupkit.parametrize`, in place of what the forward pass shows.
        inputs: keyword arguments of a forward pass; made up from the configuration without it.
        verify: False leaves out the refusals below of what goes with width otherwise.

    Returns:
        `model`, in place, with a configuration of its own, which records the µP and goes with its
        checkpoints as config.json. Choose its attention implementation
        first: "sdpa" becomes "mup_sdpa", "eager" becomes "mup_eager"; for any other the query is
        multiplied.

    Raises:
        TypeError: if a configuration is not of the model's class, or the model is a wrapper of
            peft.
        ValueError: as `mupkit.parametrize`; if config.json records a µP, and this is another one or
            weights are to be rescaled; if a scalar in the forward pass, such as an embedding's
            scale, or the size of an initialization goes with width otherwise than understood; if
            parameters are not as the initialization draws them and are to be rescaled; if
            attention, its query projection or a forward pass is not to be had. Each names it.

    Warns:
        MupWarning: if the model is on the meta device and there is no delta to measure its
            initialization on.

    Source: Tensor Programs V, Definition 4.1 (1/d attention), Tables 3, 8 and 9.
    """
    inner = cast(PreTrainedModel, unwrap(model))
    _refuse_wrapper(inner)
    parametrized = REGISTRY in vars(inner)  # then its multipliers are in its forward pass
    recorded = None if parametrized else vars(inner.config).get(checkpoint.KEY)
    if recorded and rescale_params:
        raise ValueError(
            f"config.{checkpoint.KEY} says that these weights were trained in µP, so they must not "
            "be rescaled: say rescale_params=False, or delete it if they are drawn anew"
        )
    base = _built(inner, base_config, "meta")
    delta = None if delta_config is None else _built(inner, delta_config, "meta")
    check_names(get_shapes(base), get_shapes(inner), "base", "model")
    seen_base = _observe(_built(inner, base_config), inputs)
    seen = _observe(_built(inner, inner.config, "meta") if parametrized else inner, inputs)
    mults = attention_mults(seen_base, seen)
    if verify and not parametrized:
        check_multipliers(seen_base, seen)
        if delta is not None and next(inner.parameters()).is_meta:  # which hides scalars in buffers
            check_multipliers(seen_base, _observe(_built(inner, delta_config), inputs))
    free = free_parameters(inner, layout)
    used = {n: seen_base.layouts.get(n) for n, p in inner.named_parameters() if id(p) in free}
    layout = {**{name: stored for name, stored in used.items() if stored}, **layout}
    inits: Inits = vars(inner).get(INITS, {})
    if rescale_params and not parametrized:
        inits = _measured(inner, base_config, delta_config, layout, init, verify)
    shapes = infshapes(inner, base, delta, layout)
    record = checkpoint.record(shapes, rules)
    if recorded and (error := checkpoint.difference(recorded, record)):
        raise ValueError(error)
    core_parametrize(
        inner, base, delta, rules=rules, init=inits, rescale_params=rescale_params, layout=layout
    )
    if not parametrized:
        _copy_config(inner)
    setattr(inner.config, checkpoint.KEY, record)
    setattr(inner, INITS, inits)
    backend = _backend(inner)
    for name, mult in mults.items():
        attention = inner.get_submodule(name)
        _take_mult(attention)
        if backend in BACKENDS:
            setattr(attention, ATTENTION_MULT, mult)
            if hasattr(attention, "config"):
                attention.register_forward_pre_hook(_check_implementation)
        elif mult != 1:
            projection, size = _query(name, attention)
            setattr(projection, QUERY_MULT, (mult, size))
            projection.register_forward_hook(_multiply_query)
    if backend in BACKENDS and mults:
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
    vars(inner.config).pop(checkpoint.KEY, None)
    for name, attention in inner.named_modules():
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


def _refuse_wrapper(model: nn.Module) -> None:
    if any(cls.__module__.split(".")[0] == "peft" for cls in type(model).__mro__):
        raise TypeError(
            f"{type(model).__name__} is a wrapper of peft, whose adapters are no part of the base "
            "model: parametrize the model before peft gets it"
        )


def _copy_config(model: PreTrainedModel) -> None:
    """Give the model a configuration of its own, since other models may share the one it has."""
    copies: dict[int, Any] = {}
    copy.deepcopy(model.config, copies)
    for module in model.modules():
        for name, value in vars(module).items():
            if id(value) in copies and isinstance(value, PreTrainedConfig):
                setattr(module, name, copies[id(value)])


def _built(model: PreTrainedModel, config: Any, device: str = "cpu", seed: int = 0) -> Any:
    """The same model with another configuration; random generators are left as they are."""
    if not isinstance(config, type(model.config)):
        raise TypeError(
            f"{type(model).__name__} has a {type(model.config).__name__}, "
            f"not a {type(config).__name__}"
        )
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return type(model)(copy.deepcopy(config))


def _measured(
    model: PreTrainedModel,
    base_config: Any,
    delta_config: Any,
    layout: Layout,
    given: Inits,
    verify: bool,
) -> Inits:
    """How initial sizes go with width, on base and delta or, without one, base and model."""
    base, meta = _built(model, base_config), next(model.parameters()).is_meta
    delta = None if delta_config is None else _built(model, delta_config, "meta")
    shapes = infshapes(model, base, delta, layout)
    small = sum(p.numel() for p in model.parameters()) <= DRAWN
    if delta_config is None and meta and not small:
        what = "how the model's initialization goes with width was not measured, but taken for one"
        fix = "Give a delta_config, or build the model on another device"
        warnings.warn(MupWarning(f"{what} std at all widths", fix), stacklevel=3)
        return {**dict.fromkeys(shapes, "constant"), **given}
    if delta_config is None and not small:
        inits = initializations(lambda seed: (base, model), shapes, given, draws=1)
    else:
        wide = model.config if delta_config is None else delta_config
        like = shapes if delta is None else infshapes(delta, base, delta, layout)

        def draw(seed: int) -> tuple[nn.Module, nn.Module]:
            return _built(model, base_config, seed=seed), _built(model, wide, seed=seed)

        inits = initializations(draw, like, given)
    if verify and not meta:
        check_fresh(model, base, shapes, inits)
    return inits


def _observe(model: PreTrainedModel, inputs: Mapping[str, Tensor] | None) -> Observed:
    """What a forward pass shows, with attention that does not hide its products."""
    chosen = str(cast(Any, model.config)._attn_implementation)
    switched = chosen != "eager" and model._can_set_attn_implementation()
    try:
        if switched:
            model.set_attn_implementation("eager")
        with torch.device(next(model.parameters()).device):
            return observe(model, lambda: model(**_inputs(model, inputs)))
    except Exception as error:
        where = " on the meta device" if next(model.parameters()).is_meta else ""
        fix = "inputs={...} of its own" + (", or build it on another device" if where else "")
        raise ValueError(
            f"a forward pass of {type(model).__name__}{where} failed with {type(error).__name__}: "
            f"{error}. Its attention cannot be seen without one: give {fix}"
        ) from error
    finally:
        if switched:
            model.set_attn_implementation(chosen)


def _inputs(model: PreTrainedModel, given: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Keyword arguments of a short forward pass, on the model's device."""
    found = _made_up(model.config, model.main_input_name) if given is None else given
    like = next(model.parameters())
    return {n: x.to(like if x.is_floating_point() else like.device) for n, x in found.items()}


def _made_up(config: Any, main: str) -> dict[str, Tensor]:
    text = config.get_text_config()
    length = min(LENGTH, getattr(text, "max_position_embeddings", None) or LENGTH)
    tokens = torch.arange(3, 3 + length)[None] % int(getattr(text, "vocab_size", LENGTH))
    match main:
        case "pixel_values":
            size = config.image_size
            sides = (size, size) if isinstance(size, int) else tuple(size)
            found = {"pixel_values": torch.randn(1, getattr(config, "num_channels", 3), *sides)}
        case "input_features":
            frames = 2 * config.max_source_positions
            found = {"input_features": torch.randn(1, config.num_mel_bins, frames)}
        case "input_values":
            found = {"input_values": torch.randn(1, SAMPLES)}
        case name:
            found = {name: tokens}
    if config.is_encoder_decoder:
        found["decoder_input_ids"] = tokens
    return found


def _query(name: str, attention: nn.Module) -> tuple[nn.Module, int]:
    """The query projection, and how many of its outputs, the first ones, are the query."""
    if norms := [norm for norm in QUERY_NORMS if hasattr(attention, norm)]:
        raise ValueError(
            f"{name} normalizes queries after their projection ({norms[0]}), so that its weight "
            "cannot hold the multiplier of attention"
        )
    local = next((query for query in QUERIES if hasattr(attention, query)), None)
    if local is None:
        raise ValueError(
            f"{name} has no query projection named {', '.join(QUERIES)}, which could hold the "
            "multiplier of attention: give base and model heads of one size, so that it needs none"
        )
    projection = attention.get_submodule(local)
    size = cast(Tensor, projection.weight).shape[1 if is_conv1d(projection) else 0]
    return projection, size // 3 if local == "c_attn" else size


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
