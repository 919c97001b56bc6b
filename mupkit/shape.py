"""Base shapes: which dimensions of which parameter scale with width, found by comparing models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from mupkit.infshape import InfDim, InfShape
from mupkit.layer import MuReadout, rescale_bias
from mupkit.rules import rule_for, scale

Shapes = Mapping[str, Sequence[int | None]]  # by parameter name
ModelT = TypeVar("ModelT", bound=nn.Module)
REGISTRY = "_mup_infshapes"
ATTRIBUTE = "infshape"
Layer = nn.Linear | nn.modules.conv._ConvNd
Transposed = nn.modules.conv._ConvTransposeNd


def get_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of `model`, by name (tied parameters once)."""
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def get_infshapes(model: nn.Module) -> dict[str, InfShape]:
    """The `InfShape` of every parameter of `model`, by name.

    `set_base_shapes` may have been called on `model` or on modules inside it (a wrapper's module).

    Raises:
        ValueError: if a parameter has none, naming it.
    """
    registry: dict[str, InfShape] = {}
    for prefix, module in model.named_modules():
        for name, infshape in vars(module).get(REGISTRY, {}).items():
            registry.setdefault(f"{prefix}.{name}" if prefix else name, infshape)
    names = [name for name, _ in model.named_parameters()]
    if missing := [name for name in names if name not in registry]:
        raise ValueError(
            f"{type(model).__name__} has parameters without base shapes: {', '.join(missing)}; "
            "call mupkit.set_base_shapes(model, base)"
        )
    return {name: registry[name] for name in names}


def infshape_of(tensor: Tensor, name: str = "") -> InfShape:
    """The `InfShape` that `set_base_shapes` attached to a parameter.

    Raises:
        ValueError: if there is none, as after a deep copy of the model.
    """
    infshape = getattr(tensor, ATTRIBUTE, None)
    if not isinstance(infshape, InfShape):
        raise ValueError(
            f"parameter {name or tuple(tensor.shape)} has no base shape; call "
            "mupkit.set_base_shapes(model, base) first, or give the optimizer the model itself"
        )
    return infshape


def make_base_shapes(
    base: nn.Module | Shapes, delta: nn.Module | Shapes
) -> dict[str, list[int | None]]:
    """Base shapes as a dictionary: a size where base and delta differ, None where they agree.

    Args:
        base: the model at base width, or its shapes by parameter name.
        delta: the same model with every width different from the base's.
    """
    base_shapes, delta_shapes = _shapes(base), _shapes(delta)
    _check_names(base_shapes, delta_shapes, "base", "delta")
    return {
        name: [b if b != d else None for b, d in zip(shape, delta_shapes[name], strict=True)]
        for name, shape in base_shapes.items()
    }


def set_base_shapes(
    model: ModelT,
    base: nn.Module | Shapes | None,
    rescale_params: bool = True,
    delta: nn.Module | Shapes | None = None,
) -> ModelT:
    """Tell `model` its base shapes and turn its default initialization into that of Table 8.

    Args:
        model: the model at hand, initialized by PyTorch's defaults or another scheme in which the
            std goes as 1/sqrt(fan_in).
        base: the same model at base width (its weights do not matter: build it on the meta
            device), its shapes by name, what `make_base_shapes` returned, or None, which makes
            `model` its own base, and so leaves it in SP.
        rescale_params: rescale readout weights, and biases whose default range depends on fan-in.
            A second call for the same base changes nothing. Use False after loading a trained
            checkpoint.
        delta: the same model with every width changed; without it a dimension that is equal in
            `base` and `model` counts as finite.

    Returns:
        `model`, in place: each parameter has its `infshape`, each readout its multiplier.

    Raises:
        ValueError: if names or numbers of dimensions disagree, or if a layer maps a width to a
            finite dimension without being a `MuReadout`, or if which of a parameter's dimensions
            are fan-in and fan-out cannot be told. The message names the parameter or the module.

    Source: Tensor Programs V, Table 8 and Appendix H.
    """
    shapes = get_shapes(model)
    base_shapes = shapes if base is None else _shapes(base)
    _check_names(base_shapes, shapes, "base", "model")
    if delta is not None:
        base_shapes = make_base_shapes(base_shapes, delta)
    explicit = delta is not None or any(None in s for s in base_shapes.values())
    embeddings = {
        id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)
    }

    registry: dict[str, InfShape] = {}
    for name, p in model.named_parameters():
        dims = [
            InfDim(b if explicit or b != d else None, d)
            for b, d in zip(base_shapes[name], p.shape, strict=True)
        ]
        try:
            registry[name] = InfShape(dims, transposed=id(p) in embeddings)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        setattr(p, ATTRIBUTE, registry[name])
    setattr(model, REGISTRY, registry)
    _check_readouts(model)
    _set_multipliers(model, rescale_params)
    return model


def _shapes(source: nn.Module | Shapes) -> Shapes:
    return get_shapes(source) if isinstance(source, nn.Module) else source


def _check_names(left: Shapes, right: Shapes, left_name: str, right_name: str) -> None:
    if only := sorted(left.keys() ^ right.keys()):
        where = ", ".join(f"{n} ({left_name if n in left else right_name} only)" for n in only)
        raise ValueError(f"parameters of {left_name} and {right_name} differ: {where}")
    for name, shape in left.items():
        if len(shape) != len(right[name]):
            raise ValueError(
                f"{name} has {len(shape)} dimensions in {left_name}, "
                f"{len(right[name])} in {right_name}"
            )


def _check_readouts(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, Layer) or isinstance(module, MuReadout):
            continue
        infshape = infshape_of(module.weight, name)
        fan_out, fan_in = infshape[0], infshape[1]
        if isinstance(module, Transposed):
            if fan_in.width_mult() != fan_out.width_mult() or fan_in.isinf() != fan_out.isinf():
                raise ValueError(
                    f"{name} ({type(module).__name__}) stores its weight {infshape} as (fan_in, "
                    "fan_out), which the tables do not cover unless both scale alike: upsample and "
                    "use an ordinary convolution"
                )
        elif fan_in.isinf() and not fan_out.isinf():
            raise ValueError(
                f"{name} ({type(module).__name__}) maps the width dimension 1 of its weight "
                f"{infshape} to a finite one: make it a mupkit.MuReadout (MuSharedReadout if it "
                "shares the weight of an embedding), or vary its other dimension in the delta "
                "model if that one is a width too"
            )


def _set_multipliers(model: nn.Module, rescale_params: bool) -> None:
    for name, module in model.named_modules():
        if isinstance(module, MuReadout):
            # A tied weight is the embedding's, an input weight that must not be rescaled; its shape
            # read as an output weight's gives the multiplier of the logits.
            infshape = infshape_of(module.weight, name)
            as_output = InfShape(infshape.dims)
            module.set_width_mult(1 / scale(as_output, rule_for(as_output).multiplier))
            if rescale_params:
                module.rescale_parameters(shared=infshape.transposed)
        elif isinstance(module, Layer) and rescale_params:
            rescale_bias(module, infshape_of(module.weight, name)[1].width_mult())
