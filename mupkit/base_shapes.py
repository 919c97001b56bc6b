"""Base shapes: which dimensions of each parameter scale with width, found by comparing models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from mupkit import bsh
from mupkit.infshape import InfShape
from mupkit.rules import TABLE_8, Rules

Shapes = Mapping[str, Sequence[int | None]]  # by parameter name
ModelOrShapes = nn.Module | Shapes | str | Path
REGISTRY = "_mup_registry"
RESCALED = "_mup_rescaled"  # on a module: what its parameters were multiplied by, by name
ATTRIBUTE, RULES_ATTRIBUTE = "infshape", "mup_rules"
Scaling = tuple[InfShape, Rules]
_PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.([^.]+)\.original$")
_INSIDE = re.compile(r"(^|\.)(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)(?=\.|$)")
_OUTSIDE = "module."  # added by DataParallel and its like; may also be a module's own name


class Rescaled(NamedTuple):
    """What a parameter was multiplied by: its drawn entries, others, and which are the others."""

    drawn: float
    other: float = 1.0
    left: Tensor | None = None


def canonical(name: str) -> str:
    """A parameter's name without the parts that torch's parametrize and torch.compile add."""
    return _PARAMETRIZED.sub(r"\1\2", _INSIDE.sub("", name).removeprefix("."))


def get_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of `model`, by name (tied parameters once)."""
    return {canonical(name): tuple(p.shape) for name, p in model.named_parameters()}


def is_parametrized(model: nn.Module) -> bool:
    """Whether the model or a part of it was parametrized."""
    return any(REGISTRY in vars(module) for module in model.modules())


def get_scalings(model: nn.Module) -> dict[str, Scaling]:
    """The `InfShape` and the scaling rules of every parameter of `model`, by name.

    The model may be a copy or a wrapper (DDP, a compiled model) of what was parametrized.

    Raises:
        ValueError: if a parameter has none, has another shape than the one that was parametrized,
            or an `infshape` of its own that differs, naming it.
    """
    registry: dict[str, Scaling] = {}
    for prefix, module in model.named_modules():
        for name, scaling in vars(module).get(REGISTRY, {}).items():
            registry.setdefault(canonical(f"{prefix}.{name}" if prefix else name), scaling)
    named = dict(model.named_parameters())
    if missing := [name for name in named if canonical(name) not in registry]:
        raise ValueError(
            f"{type(model).__name__} has parameters without base shapes: {', '.join(missing)}; "
            "call mupkit.set_base_shapes(model, base) or mupkit.parametrize(model, base)"
        )
    for name, p in named.items():
        _check(name, p, registry[canonical(name)][0])
    return {name: registry[canonical(name)] for name in named}


def _check(name: str, p: Tensor, infshape: InfShape) -> None:
    """Refuse a parameter that is not the one that was parametrized, or says otherwise itself."""
    own = getattr(p, ATTRIBUTE, infshape)
    stored = [getattr(own, key, None) for key in ("transposed", "stacked")]
    if own != infshape or stored != [infshape.transposed, infshape.stacked]:
        raise ValueError(
            f"{name}.{ATTRIBUTE} is {own}, but the model was parametrized with {infshape}: say how "
            "it is stored by mupkit.parametrize(..., layout=), or call mupkit.shape.apply_infshapes"
        )
    sharded = "_fsdp_wrapped_module" in name or hasattr(p, "ds_id")  # flat there, or empty
    if not sharded and infshape.shape() != [*p.shape]:
        raise ValueError(
            f"{name} has the shape {tuple(p.shape)}, but the model was parametrized with "
            f"{infshape}: exchange layers first, with a base that has the new ones too, and call "
            "mupkit.parametrize then (rescale_params=False if the rest is trained)"
        )


def reattach(model: nn.Module) -> None:
    """Give the parameters the base shapes and rules that the model keeps by their names.

    New tensors have none of their own, as after a deep copy, `to_empty` or FSDP2's `fully_shard`.

    Raises:
        ValueError: as `get_scalings`.
    """
    scalings = get_scalings(model)
    for name, p in model.named_parameters():
        infshape, rules = scalings[name]
        setattr(p, ATTRIBUTE, infshape)
        setattr(p, RULES_ATTRIBUTE, rules)


def get_infshapes(model: nn.Module) -> dict[str, InfShape]:
    """The `InfShape` of every parameter of `model`, by name.

    Raises:
        ValueError: if a parameter has none, naming it.
    """
    return {name: infshape for name, (infshape, _) in get_scalings(model).items()}


def get_rules(model: nn.Module) -> Rules:
    """The scaling rules by which `model` was parametrized.

    Raises:
        ValueError: if it was not, or its parts by different rules.
    """
    found = {rules.name: rules for _, rules in get_scalings(model).values()}
    if len(found) != 1:
        raise ValueError(f"parts of the model have different rules: {', '.join(sorted(found))}")
    return next(iter(found.values()))


def infshape_of(tensor: Tensor, name: str = "") -> InfShape:
    """The `InfShape` that was attached to a parameter.

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


def rules_of(tensor: Tensor) -> Rules:
    """The scaling rules of a parameter: Table 8 unless its model was parametrized by others."""
    rules = getattr(tensor, RULES_ATTRIBUTE, TABLE_8)
    assert isinstance(rules, Rules)
    return rules


def make_base_shapes(
    base: ModelOrShapes, delta: ModelOrShapes, savefile: str | Path | None = None
) -> dict[str, list[int | None]]:
    """Base shapes as a dictionary: a size where base and delta differ, None where they agree.

    Args:
        base: the model at base width, or its shapes by parameter name, or a .bsh file.
        delta: the same with every width changed.
        savefile: a .bsh file to write them to, as the `mup` package does.

    Raises:
        ValueError: if names or numbers of dimensions disagree, naming the parameter.
    """
    base_shapes = read_shapes(base)
    delta_shapes = read_shapes(delta, like=base_shapes)
    check_names(base_shapes, delta_shapes, "base", "delta")
    shapes = {
        name: [b if b != d else None for b, d in zip(shape, delta_shapes[name], strict=True)]
        for name, shape in base_shapes.items()
    }
    if savefile is not None:
        bsh.save(shapes, savefile)
    return shapes


def get_base_shapes(model: nn.Module) -> dict[str, list[int | None]]:
    """The base shapes of a parametrized model, as `make_base_shapes` returns them."""
    return {
        canonical(name): [dim.base_dim for dim in infshape]
        for name, infshape in get_infshapes(model).items()
    }


def save_base_shapes(model_or_shapes: ModelOrShapes, file: str | Path) -> None:
    """Write the base shapes of a parametrized model, or a dictionary of them, to a .bsh file."""
    given = model_or_shapes
    bsh.save(get_base_shapes(given) if isinstance(given, nn.Module) else read_shapes(given), file)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel or torch.compile's wrapper."""
    if type(model).__name__ in ("DistributedDataParallel", "DataParallel", "OptimizedModule"):
        return unwrap(next(model.children()))
    return model


def read_shapes(given: ModelOrShapes, like: Shapes | None = None) -> Shapes:
    """Shapes by name of a model, a dictionary or a .bsh file.

    If the names are those of `like` except that all begin with `module.`, as after DataParallel, or
    the other way round, they become the names of `like`.

    Raises:
        ValueError: if a size is neither None nor a positive integer, naming the parameter.
    """
    if isinstance(given, nn.Module):
        return get_shapes(unwrap(given))
    shapes = bsh.load(given) if isinstance(given, str | Path) else given
    for name, shape in shapes.items():
        if not all(size is None or (isinstance(size, Integral) and size > 0) for size in shape):
            raise ValueError(f"base shape of {name}: {[*shape]} has a size that no tensor has")
    shapes = {canonical(name): shape for name, shape in shapes.items()}
    found, wanted = _bare_names(shapes), _bare_names(like or {})
    if found.keys() != wanted.keys():
        return shapes
    return {wanted[bare]: shapes[name] for bare, name in found.items()}


def _bare_names(shapes: Shapes) -> dict[str, str]:
    """The names, by what remains of each without the `module.` that all begin with."""
    names = {name: name for name in shapes}
    while names and all(bare.startswith(_OUTSIDE) for bare in names):
        names = {bare.removeprefix(_OUTSIDE): name for bare, name in names.items()}
    return names


def check_names(left: Shapes, right: Shapes, left_name: str, right_name: str) -> None:
    """Raise ValueError unless both have the same parameters with the same numbers of dimensions."""
    if only := sorted(left.keys() ^ right.keys()):
        where = ", ".join(f"{n} ({left_name if n in left else right_name} only)" for n in only)
        raise ValueError(f"parameters of {left_name} and {right_name} differ: {where}")
    for name, shape in left.items():
        if len(shape) != len(right[name]):
            raise ValueError(
                f"{name} has {len(shape)} dimensions in {left_name}, "
                f"{len(right[name])} in {right_name}"
            )
