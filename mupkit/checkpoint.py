"""The record of µP that checkpoints carry: base shapes and rules, so that no other µP loads them.

In a state dict it is metadata, which `torch.save` keeps. safetensors drops that, but has metadata
of its own, for `metadata` and `check_metadata`. `mupkit.huggingface` writes it into config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from mupkit.base_shapes import REGISTRY, Scaling, canonical, unwrap
from mupkit.infshape import InfShape
from mupkit.rules import Rules

KEY = "mup"
DAMAGED = (
    "the checkpoint's record of µP is damaged, so it is unknown how the model was parametrized; "
    "use an undamaged copy, or drop the record if you are sure"
)


def metadata(model: nn.Module) -> dict[str, str]:
    """The record of µP as metadata of a safetensors file.

        save_model(model, "model.safetensors", metadata=mupkit.checkpoint.metadata(model))

    Raises:
        ValueError: if the model was not parametrized.
    """
    if not (records := _records(model)):
        raise ValueError(f"{type(model).__name__} was not parametrized: it has no µP to record")
    return {KEY: json.dumps(records)}


def check_metadata(model: nn.Module, metadata: Mapping[str, str] | None) -> None:
    """Refuse a model that is not parametrized as the one whose checkpoint it gets.

        with safetensors.safe_open("model.safetensors", "pt") as file:
            mupkit.checkpoint.check_metadata(model, file.metadata())

    Args:
        model: as it will get, or has got, the checkpoint's weights.
        metadata: those of a safetensors file; None or without a record of µP if it has none.

    Raises:
        ValueError: if one of the two is in µP and the other is not, or in another µP, or the
            record is damaged.
    """
    try:
        saved, ours = json.loads((metadata or {}).get(KEY, "{}")), _records(model)
    except (ValueError, RecursionError):
        raise ValueError(DAMAGED) from None
    if not isinstance(saved, dict):
        raise ValueError(DAMAGED)
    if missing := [prefix for prefix in saved if prefix not in ours]:
        raise ValueError(
            f"the checkpoint was trained in µP, and {missing[0] or 'the model'} is not "
            "parametrized: parametrize it before it is loaded, or with rescale_params=False after"
        )
    if missing := [prefix for prefix in ours if prefix not in saved]:
        raise ValueError(
            f"{missing[0] or 'the model'} is in µP, and the checkpoint has no record of that: it "
            "was trained without, or saved without metadata=mupkit.checkpoint.metadata(model)"
        )
    for prefix, own in saved.items():
        if error := difference(own, ours[prefix]):
            raise ValueError(error)


def record(infshapes: Mapping[str, InfShape], *rules: Rules) -> dict[str, Any]:
    """Base shapes by parameter name and the names of the rules, as JSON has them."""
    shapes = {name: [d.base_dim for d in infshape] for name, infshape in infshapes.items()}
    return {"base_shapes": shapes, "rules": sorted({r.name for r in rules})}


def _records(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The record of each part that was parametrized, by its path; "" for the model itself."""
    parts = unwrap(model).named_modules()
    return {canonical(path): _record(part) for path, part in parts if REGISTRY in vars(part)}


def _record(model: nn.Module) -> dict[str, Any]:
    registry: dict[str, Scaling] = vars(model)[REGISTRY]
    infshapes = {name: infshape for name, (infshape, _) in registry.items()}
    return record(infshapes, *(rules for _, rules in registry.values()))


def _is_record(found: Any) -> bool:
    """Whether something that was read has the form of a record (`record`)."""
    if not isinstance(found, Mapping):
        return False
    shapes, rules = found.get("base_shapes"), found.get("rules")
    return (
        isinstance(shapes, Mapping)
        and isinstance(rules, list)
        and all(isinstance(rule, str) for rule in rules)
        and all(isinstance(name, str) and isinstance(s, list) for name, s in shapes.items())
        and all(size is None or type(size) is int for shape in shapes.values() for size in shape)
    )


def difference(saved: Any, ours: Mapping[str, Any]) -> str:
    """In what a checkpoint's record is not that of the model, as an error; empty if in nothing.

    Args:
        saved: what was read; it may have any form.
        ours: the model's.
    """
    if not _is_record(saved):
        return DAMAGED
    if saved == ours:
        return ""
    here = ours["base_shapes"]
    differ = [n for n, shape in saved["base_shapes"].items() if here.get(n) != shape]
    what = f"base shapes of {', '.join(differ[:3])}" if differ else "scaling rules"
    return (
        f"the checkpoint was made with other µP: its {what} differ from the model's; "
        "parametrize the model with the base it was trained with"
    )


def attach_hooks(model: nn.Module) -> None:
    """Make the state dict carry the record, and loading compare it."""
    model.register_state_dict_post_hook(_save)  # type: ignore[no-untyped-call]
    model.register_load_state_dict_pre_hook(_check)  # type: ignore[no-untyped-call]


def detach_hooks(module: nn.Module) -> None:
    """Undo `attach_hooks`."""
    for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
        ours = [key for key, hook in hooks.items() if _unhooked(hook) in (_save, _check)]
        for key in ours:
            del hooks[key]


def _unhooked(hook: Any) -> Any:
    return getattr(hook, "hook", hook)  # torch wraps hooks that want the module


def _save(model: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    metadata[KEY] = _record(model)


def _check(
    model: nn.Module,
    state: Any,
    prefix: str,
    metadata: dict[str, Any],
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Refuse a checkpoint whose base shapes or rules are not those of the model."""
    saved = metadata.get(KEY)
    if saved is not None and (error := difference(saved, _record(model))):
        errors.append(error)
