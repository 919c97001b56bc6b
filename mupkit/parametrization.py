"""Parametrize a model: base shapes, initialization, multipliers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import nn

from mupkit import bsh, checkpoint
from mupkit.base_shapes import (
    ATTRIBUTE,
    REGISTRY,
    RESCALED,
    RULES_ATTRIBUTE,
    ModelOrShapes,
    Rescaled,
    Shapes,
    canonical,
    check_names,
    get_base_shapes,
    get_shapes,
    make_base_shapes,
    read_shapes,
    reattach,
    unwrap,
)
from mupkit.infshape import InfDim, InfShape
from mupkit.layer import MuReadout
from mupkit.messages import MupWarning
from mupkit.multipliers import parametrization, set_multiplier
from mupkit.rules import TABLE_3, TABLE_8, Rules, rule_for, scale, tied_multiplier
from mupkit.storage import (
    Init,
    Inits,
    Layout,
    default_std,
    embeddings,
    free_parameters,
    is_embedding,
    is_linear,
    local_parameters,
    norm_of,
    not_drawn,
    own_parameters,
    transposed_parameters,
)

ModelT = TypeVar("ModelT", bound=nn.Module)
INITS, LAYOUT = "_mup_inits", "_mup_layout"
NO_LAYOUT: Layout = MappingProxyType({})


def parametrize(
    model: ModelT,
    base: ModelOrShapes | None,
    delta: ModelOrShapes | None = None,
    *,
    rules: Rules = TABLE_3,
    init: Init | Inits = "torch",
    rescale_params: bool = True,
    layout: Layout = NO_LAYOUT,
) -> ModelT:
    """Parametrize any model as it is: no layer has to be exchanged.

    A std or a multiplier is that at base width times ñ_in^a * ñ_out^b, with ñ a size over that at
    base width and (a, b) from `rules`. By Table 3 the factor of the std is

        input weight, bias    1
        hidden weight         1/sqrt(ñ_in)
        output weight         1/ñ_in

    The rates scale too: train with `MuAdam` or another optimizer of mupkit. `parametrize` does not
    see attention logits: scale them by `attention_scale`, or use `mupkit.huggingface.parametrize`
    for models of transformers.

        >>> import mupkit, torch
        >>> def build(width):
        ...     return torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Linear(width, width))
        >>> with torch.device("meta"):  # only shapes are read
        ...     base, delta = build(32), build(64)
        >>> model = mupkit.parametrize(build(256), base, delta)
        >>> {name: shape.role() for name, shape in mupkit.get_infshapes(model).items()}
        {'0.weight': 'input', '0.bias': 'input', '1.weight': 'hidden', '1.bias': 'input'}

    Args:
        model: the model at hand, just initialized.
        base: the same model at base width (build it on the meta device), its shapes by name, or a
            .bsh file; None makes `model` its own base, which leaves it in SP.
        delta: the same model with every width changed; without it a dimension that is equal in
            `base` and `model` counts as finite.
        rules: the formulation; `TABLE_3` needs no multipliers. A weight that a readout shares with
            an embedding keeps the embedding's rules, and the logits get a multiplier. The state
            dict keeps the name of the rules, and the base shapes, in its metadata.
        init: how the model's initialization scales so far: "torch" for PyTorch's default or
            another in which a std goes as 1/sqrt(fan_in), "constant" for one std at all widths, as
            `initializer_range` of transformers. A mapping says it by parameter name; parameters
            that it does not name have PyTorch's default. Entries of a bias that this does not draw,
            such as a constant, stay as they are.
        rescale_params: turn that initialization into the one of `rules`. A second call changes
            nothing. Use False after loading a trained checkpoint.
        layout: how parameters of your own are stored, by name: "out_in" as in `nn.Linear`, "in_out"
            for x @ W; with more dimensions, and widths among the last two alone, it is a stack of
            such matrices, one for each expert. Without it a matrix is read as "out_in", and a
            parameter with one width as an input weight, such as a position or a class token.

    Returns:
        `model`, in place.

    Raises:
        ValueError: if names or numbers of dimensions disagree, if it cannot be told which
            dimensions are fan-in and fan-out, or if weight_norm or spectral_norm sets a size that
            µP has to set. The message names the parameter.

    Warns:
        MupWarning: if a dimension differs between `base` and `model`, but not between `base` and
            `delta`.

    Source: Tensor Programs V, Tables 3, 8 and 9, Definition 4.1, Appendix H.
    """
    inner = unwrap(model)
    registry = infshapes(inner, base, delta, layout)
    if not isinstance(init, str) and (unknown := sorted(init.keys() - registry.keys())):
        raise ValueError(f"init names no parameter of the model: {', '.join(unknown)}")
    attach(inner, registry, rules)
    setattr(inner, LAYOUT, dict(layout))
    if rescale_params:
        _rescale(inner, init)
    _set_multipliers(inner)
    return model


def set_base_shapes(
    model: ModelT,
    base: ModelOrShapes | None,
    rescale_params: bool = True,
    delta: ModelOrShapes | None = None,
    savefile: str | Path | None = None,
    do_assert: bool = True,
) -> ModelT:
    """`parametrize` by Table 8 for a model with a `MuReadout`, with the arguments of `mup`.

    Args:
        model, base, rescale_params, delta: as in `parametrize`.
        savefile: a .bsh file to write the base shapes to.
        do_assert: refuse a model whose output layer is a plain one, as `mup` does.

    Raises:
        ValueError: as `parametrize`, and for an output layer that is no `MuReadout`.
    """
    inner = unwrap(model)
    registry = infshapes(inner, base, delta)
    if do_assert:
        check_readouts(inner, registry)
    attach(inner, registry, TABLE_8)
    if savefile is not None:
        bsh.save(get_base_shapes(inner), savefile)
    if rescale_params:
        _rescale(inner, "torch", constants=True)
    _set_multipliers(inner)
    return model


def reset_parameters(model: nn.Module) -> None:
    """Draw PyTorch's default initialization again, in the model's parametrization.

    It calls `reset_parameters` of every module that has one, and rescales. A `reset_parameters`
    that you call yourself undoes the rescaling.

    Raises:
        ValueError: if parameters have multipliers of their own (Table 9, NTP): build a new model.
    """
    inner = unwrap(model)
    reattach(inner)
    for name, module, local, _ in own_parameters(inner):
        if parametrization(module, local) is not None:
            raise ValueError(f"{name} has a multiplier; build a new model to draw it again")
    inner.apply(_redraw)  # parents last, as in their constructors
    for module, _ in owners_of(inner).values():
        if is_embedding(module):
            _redraw(module)  # a readout that shares the weight has drawn it too
    _rescale(inner, "torch")


def _redraw(module: nn.Module) -> None:
    own = getattr(module, "_reset_parameters", None)  # of nn.MultiheadAttention
    if callable(reset := getattr(module, "reset_parameters", own)):
        reset()
        vars(module).pop(RESCALED, None)


def infshapes(
    model: nn.Module,
    base: ModelOrShapes | None,
    delta: ModelOrShapes | None,
    layout: Layout = NO_LAYOUT,
) -> dict[str, InfShape]:
    """The `InfShape` of every parameter by name, as `parametrize` attaches them."""
    shapes = get_shapes(model)
    base_shapes: Shapes = shapes if base is None else read_shapes(base, like=shapes)
    check_names(base_shapes, shapes, "base", "model")
    if unknown := sorted(set(layout) - shapes.keys()):
        raise ValueError(f"layout names no parameter of the model: {', '.join(unknown)}")
    if delta is not None:
        fixed = base_shapes
        base_shapes = make_base_shapes(fixed, delta)
        _warn_forgotten(fixed, base_shapes, shapes)
    explicit = delta is not None or any(None in s for s in base_shapes.values())
    stored, free = transposed_parameters(model, layout), free_parameters(model, layout)
    raw = free_parameters(model, NO_LAYOUT) - free  # whose layout alone tells how they are used
    registry: dict[str, InfShape] = {}
    for actual, p in model.named_parameters():
        name = canonical(actual)
        dims = [
            InfDim(b if explicit or b != d else None, d)
            for b, d in zip(base_shapes[name], p.shape, strict=True)
        ]
        try:
            stacked = id(p) in raw and len(dims) > 2 and not any(d.isinf() for d in dims[:-2])
            infshape = InfShape(dims, transposed=id(p) in stored, stacked=stacked)
            if id(p) in free and infshape.role() == "output":
                infshape = InfShape(dims, transposed=not infshape.transposed)
            registry[name] = infshape
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return registry


def _warn_forgotten(base: Shapes, widths: Shapes, shapes: Shapes) -> None:
    forgotten = [
        f"{name} dimension {i} ({base[name][i]} -> {size})"
        for name, shape in shapes.items()
        for i, size in enumerate(shape)
        if widths[name][i] is None and base[name][i] not in (None, size)  # None in a .bsh file
    ]
    if forgotten:
        what = (
            "these dimensions differ between base and model but not between base and delta, so "
            f"they count as finite: {', '.join(forgotten)}"
        )
        fix = "If they are widths, vary them in the delta model too"
        warnings.warn(MupWarning(what, fix), stacklevel=4)


def attach(model: nn.Module, registry: Mapping[str, InfShape], rules: Rules) -> None:
    """Give the parameters their `InfShape` and rules, and the model the registry of both."""
    for name, p in model.named_parameters():
        setattr(p, ATTRIBUTE, registry[canonical(name)])
        setattr(p, RULES_ATTRIBUTE, rules)
    first = REGISTRY not in vars(model)
    setattr(model, REGISTRY, {name: (infshape, rules) for name, infshape in registry.items()})
    if first:
        checkpoint.attach_hooks(model)


def owners_of(model: nn.Module) -> dict[int, tuple[nn.Module, str]]:
    """The module that initializes each parameter: the embedding if a readout shares its weight."""
    embedded = embeddings(model)
    owners: dict[int, tuple[nn.Module, str]] = {}
    for _, module, local, p in own_parameters(model):
        if id(p) not in owners or (id(p) in embedded and not is_linear(module)):
            owners[id(p)] = (module, local)
    return owners


@torch.no_grad()
def _rescale(model: nn.Module, init: Init | Inits, constants: bool = False) -> None:
    """Multiply each parameter by the factor that its initialization lacks, once.

    The module keeps the factors that were applied, so that a second call, even for another base,
    applies only the rest. Entries of a bias that PyTorch's default does not draw are left as they
    are, unless `constants`: a forget gate's 1, or the logarithm of a prior.
    """
    owners = owners_of(model)
    for name, p in model.named_parameters():
        module, local = owners[id(p)]
        infshape: InfShape = getattr(p, ATTRIBUTE)
        own = {name: getattr(q, ATTRIBUTE) for name, q in local_parameters(module).items()}
        law = init if isinstance(init, str) else init.get(canonical(name), "torch")
        has = default_std(module, local, own) if law == "torch" else 1.0
        wanted = scale(infshape, rule_for(infshape, getattr(p, RULES_ATTRIBUTE)).init_std)
        norm, role = norm_of(module, p), infshape.role()
        if (norm and role == "output") or (norm == "spectral_norm" and role == "input"):
            raise ValueError(
                f"{canonical(name)}: {norm} takes the size of an {role} weight away, which µP has "
                "to set: leave it out of that layer"
            )
        if p.is_meta:
            continue  # without data nothing is done, so there is nothing to keep
        done: dict[str, Rescaled] = vars(module).setdefault(RESCALED, {})
        first = Rescaled(1.0, 1.0, None if constants else not_drawn(module, local, p))
        before = done.get(local, first)
        drawn, other = wanted / has / before.drawn, wanted / before.other
        if before.left is not None:
            p.mul_(torch.where(before.left, p.new_tensor(other), p.new_tensor(drawn)))
        elif drawn != 1:
            p.mul_(drawn)
        done[local] = Rescaled(wanted / has, wanted, before.left)


def _set_multipliers(model: nn.Module) -> None:
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()  # what torch.compile has traced does not see hooks that come later
    embedded = embeddings(model)
    for _, module, local, p in list(own_parameters(model)):
        infshape: InfShape = getattr(p, ATTRIBUTE)
        rules: Rules = getattr(p, RULES_ATTRIBUTE)
        if id(p) in embedded and is_linear(module):
            as_output = InfShape(infshape.dims)
            set_multiplier(module, local, scale(as_output, tied_multiplier(rules)))
        else:
            set_multiplier(module, local, scale(infshape, rule_for(infshape, rules).multiplier))


def check_readouts(model: nn.Module, registry: Mapping[str, InfShape]) -> None:
    """Raise ValueError for an output layer that is no `MuReadout`, naming it."""
    embedded = embeddings(model)
    for name, module, local, p in own_parameters(model):
        if local != "weight" or not is_linear(module) or isinstance(module, MuReadout):
            continue
        infshape = registry.get(name, InfShape([]))  # of a tied weight under its first name alone
        if id(p) in embedded or infshape.role() == "output":
            raise ValueError(
                f"{name.removesuffix('.weight')} ({type(module).__name__}) maps the width of its "
                f"weight {tuple(p.shape)} to a finite dimension: make it a mupkit.MuReadout "
                "(MuSharedReadout if it shares the weight of an embedding), or leave the model as "
                "it is and call mupkit.parametrize instead, or vary its other dimension in the "
                "delta model if that one is a width too"
            )


def forget(model: nn.Module) -> None:
    """Remove everything that parametrization keeps on a model, except multipliers."""
    for module in model.modules():
        for kept in (REGISTRY, RESCALED, INITS, LAYOUT):
            vars(module).pop(kept, None)
        checkpoint.detach_hooks(module)
