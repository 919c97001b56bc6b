"""Optimizers whose learning rates follow Table 8, parameter by parameter.

They are torch's own optimizers: the parameters are sorted into groups with scaled rates, each
with its factor as `lr_mult`. Give them `model.parameters()`, `model.named_parameters()`, the
model itself, or torch's group dictionaries, which are left unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from mupkit.infshape import InfShape
from mupkit.rules import TABLE_8, Family, rule_for, scale
from mupkit.shape import get_infshapes, infshape_of

Params = nn.Module | Iterable[Any]


def lr_mult(infshape: InfShape, family: Family) -> float:
    """The factor of a parameter's learning rate, 1 at base width."""
    return scale(infshape, rule_for(infshape, TABLE_8).lr[family])


def MuAdam(params: Params, impl: type[Optimizer] = Adam, **kwargs: Any) -> Optimizer:
    """Adam with the rates of Table 8: lr for vectors, lr / (fan_in / base fan_in) for matrices.

    Args:
        params: see the module's text.
        impl: an Adam-like optimizer, one whose update does not change with the gradient's scale.
        **kwargs: passed to `impl`. Weight decay defaults to 0 and is scaled so that its product
            with the rate is constant in width.

    Source: Tensor Programs V, Table 8, row "Adam LR".
    """
    return impl(_mu_groups(params, "adam", kwargs), **kwargs)


def MuAdamW(params: Params, **kwargs: Any) -> Optimizer:
    """`MuAdam` with torch's AdamW. Weight decay defaults to 0, where torch has 0.01."""
    return MuAdam(params, impl=AdamW, **kwargs)


def MuSGD(params: Params, impl: type[Optimizer] = SGD, **kwargs: Any) -> Optimizer:
    """SGD with the rates of Table 8: vectors lr * width_mult, matrices lr * fan_out / fan_in mult.

    Args:
        params: see the module's text.
        impl: an SGD-like optimizer, one whose update is linear in the gradients.
        **kwargs: passed to `impl`; weight decay as in `MuAdam`.

    Source: Tensor Programs V, Table 8, row "SGD LR".
    """
    return impl(_mu_groups(params, "sgd", kwargs), **kwargs)


def _mu_groups(params: Params, family: Family, defaults: dict[str, Any]) -> list[dict[str, Any]]:
    """Split each group by the factor of its parameters' learning rate."""
    out = []
    for group in _as_groups(params):
        options = {k: v for k, v in group.items() if k not in ("params", "infshapes")}
        lr = options.pop("lr", defaults.get("lr"))
        if lr is None:
            raise ValueError("a µP optimizer needs lr, as an argument or in every group")
        decay = options.pop("weight_decay", defaults.get("weight_decay", 0.0))
        by_mult: dict[float, list[Tensor]] = {}
        for p, infshape in zip(group["params"], group["infshapes"], strict=True):
            by_mult.setdefault(lr_mult(infshape, family), []).append(p)
        out += [
            {**options, "params": ps, "lr": lr * m, "weight_decay": decay / m, "lr_mult": m}
            for m, ps in by_mult.items()
        ]
    return out


def _as_groups(params: Params) -> list[dict[str, Any]]:
    """Any of torch's forms as group dictionaries, with an `InfShape` for each parameter."""
    if isinstance(params, nn.Module):
        infshapes = get_infshapes(params)
        named = dict(params.named_parameters())
        return [{"params": list(named.values()), "infshapes": [infshapes[n] for n in named]}]
    entries = list(params)
    if not entries:
        raise ValueError("a µP optimizer got no parameters")
    if not isinstance(entries[0], dict):
        entries = [{"params": entries}]
    groups = []
    for group in entries:
        members = group["params"]
        members = [members] if isinstance(members, Tensor) else list(members)
        named_members = [m if isinstance(m, tuple) else ("", m) for m in members]
        groups.append(
            {
                **group,
                "params": [p for _, p in named_members],
                "infshapes": [infshape_of(p, n) for n, p in named_members],
            }
        )
    return groups
