"""Multipliers of weights, set on modules as they are.

A linear layer's weight is multiplied by multiplying the layer's input, in a hook; any other
parameter by torch's parametrize. Both are plain floats that copies, compilers and exports keep.

Source: Tensor Programs V, Tables 8 and 9.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from mupkit.layer import MuReadout
from mupkit.storage import is_linear

INPUT_MULT = "_mup_input_mult"


class Multiply(nn.Module):
    """x * mult, the parametrization of a parameter that has a multiplier."""

    def __init__(self, mult: float):
        super().__init__()
        self.mult = mult

    def forward(self, x: Tensor) -> Tensor:
        """The parameter as the forward pass sees it."""
        return x * self.mult


def multiply_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook: multiply the first positional argument.

    Raises:
        TypeError: if the module was called with keyword arguments alone.
    """
    if not args:
        raise TypeError(f"{type(module).__name__} has a µP multiplier: pass its input by position")
    return (args[0] * getattr(module, INPUT_MULT), *args[1:])


def set_multiplier(module: nn.Module, local: str, mult: float) -> None:
    """Make `module` use its parameter `local` times `mult`; a second call replaces the first.

    Raises:
        ValueError: for a recurrent layer, since its kernels read the stored weights, for a
            parameter that is already sharded, since fully_shard remembers its place, and for a
            `MuReadout` with a width multiplier of its own.
    """
    if mult != 1 and isinstance(module, nn.RNNBase):
        raise ValueError(
            f"{type(module).__name__}.{local} would need a multiplier, which its kernels do not "
            "see: use mupkit.TABLE_3, which has none"
        )
    if local == "weight" and isinstance(module, MuReadout):
        module.set_width_mult(1 / mult)
        if module.width_mult() != 1 / mult:
            raise ValueError(
                f"{type(module).__name__}.width_mult() is {module.width_mult():g}, but its weight "
                f"has the rules of {1 / mult:g}: do not override it, scale by output_mult"
            )
    elif local == "weight" and _calls_hooks(module):
        if not hasattr(module, INPUT_MULT):
            if mult == 1:
                return
            module.register_forward_pre_hook(multiply_input)
        setattr(module, INPUT_MULT, mult)
    elif (found := parametrization(module, local)) is not None:
        found.mult = mult
    elif mult != 1:
        if hasattr(getattr(module, local), "full_tensor"):  # a DTensor
            raise ValueError(
                f"{type(module).__name__}.{local} is sharded already and needs a multiplier: "
                "parametrize the model first, then shard it"
            )
        parametrize.register_parametrization(module, local, Multiply(mult), unsafe=True)


def _calls_hooks(module: nn.Module) -> bool:
    # nn.MultiheadAttention reads the weight of its out_proj and never calls it.
    return is_linear(module) and not isinstance(module, NonDynamicallyQuantizableLinear)


def parametrization(module: nn.Module, local: str) -> Multiply | None:
    """The multiplier that torch's parametrize applies to a parameter, if there is one."""
    if not parametrize.is_parametrized(module, local):
        return None
    chain = cast(nn.ModuleDict, module.parametrizations)[local]
    return next((step for step in cast(nn.ModuleList, chain) if isinstance(step, Multiply)), None)


def multiplier(module: nn.Module, local: str) -> float:
    """The factor by which the module multiplies its parameter `local`, without tunable ones."""
    if local == "weight" and isinstance(module, MuReadout):
        return 1 / module.width_mult()
    if local == "weight" and hasattr(module, INPUT_MULT):
        return float(getattr(module, INPUT_MULT))
    found = parametrization(module, local)
    return 1.0 if found is None else found.mult


@torch.no_grad()
def fold_multipliers(module: nn.Module) -> None:
    """Multiply the parameters by their multipliers, and remove these; shared weights are copied."""
    if (mult := getattr(module, INPUT_MULT, None)) is not None:
        module.weight = nn.Parameter(cast(Tensor, module.weight) * mult)
        delattr(module, INPUT_MULT)
        hooks = module._forward_pre_hooks
        for key in [k for k, hook in hooks.items() if hook is multiply_input]:
            del hooks[key]
    for local in list(getattr(module, "parametrizations", {})):
        if parametrization(module, local) is not None:
            _own_class(module)
            chain = cast(nn.ModuleDict, module.parametrizations)[local]
            # torch writes the result into the original, which a tied layer may share.
            chain.original = nn.Parameter(cast(Tensor, chain.original).clone())
            parametrize.remove_parametrizations(module, local, leave_parametrized=True)


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own, since torch lets deep copies share one.

    Removing the parametrization of one copy would otherwise take the parameter from all.
    """
    shared = type(module)
    members = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)
