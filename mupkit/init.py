"""Initializers of `torch.nn.init` whose std scales with width by the model's rules.

    std = s * std at base width,    s = ñ_in^a * ñ_out^b,    ñ = size / size at base width

In Table 8 s is 1/sqrt(ñ_in) for hidden weights and 1 otherwise. At base width each equals torch's
initializer; at any width it draws the same random numbers up to a factor. Call `set_base_shapes` or
`parametrize` first. Shapes are torch's: (fan_out, fan_in, *kernel).

Source: Tensor Programs V, Tables 3, 8 and 9, row "Init. Var."; names as in the `mup` package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mupkit.base_shapes import infshape_of, rules_of
from mupkit.rules import rule_for, scale

__all__ = [
    "constant_std_init_",
    "eye_",
    "fan_in_normal_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """N(mean, (s * std)^2); `std` is the value at base width.

    Raises:
        ValueError: for a matrix-like tensor with a mean other than 0.
    """
    s = _constant_std_scale(tensor, centred=mean == 0)
    return nn.init.normal_(tensor, mean, std * s)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """U(s * a, s * b).

    Raises:
        ValueError: for a matrix-like tensor unless a == -b.
    """
    s = _constant_std_scale(tensor, centred=a == -b)
    return nn.init.uniform_(tensor, a * s, b * s)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """N(mean, (s * std)^2) cut at s * a and s * b.

    Raises:
        ValueError: for a matrix-like tensor unless mean == 0 and a == -b.
    """
    s = _constant_std_scale(tensor, centred=mean == 0 and a == -b)
    return nn.init.trunc_normal_(tensor, mean, std * s, a * s, b * s)


def ones_(tensor: Tensor) -> Tensor:
    """Ones, for vector-like and scalar-like tensors (layernorm gains).

    Raises:
        ValueError: for a matrix-like tensor.
    """
    _constant_std_scale(tensor, centred=False)
    return nn.init.ones_(tensor)


def eye_(tensor: Tensor) -> Tensor:
    """The identity, for vector-like and scalar-like matrices (fan_out, fan_in).

    Raises:
        ValueError: for a matrix-like tensor.
    """
    _constant_std_scale(tensor, centred=False)
    return nn.init.eye_(tensor)


def constant_std_init_(tensor: Tensor, sampler_: Callable[..., Any]) -> Tensor:
    """Whatever a sampler of one's own draws at base width, scaled by s.

    Args:
        tensor: any parameter with a base shape.
        sampler_: fills the tensor in place; its keyword `scale`, 1 if it is not given, is a factor
            of all that it draws.
    """
    s = _init_scale(tensor)
    if s == 1:
        sampler_(tensor)
    else:
        sampler_(tensor, scale=s)
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros: allowed for any role (paper, Appendix B, "Zero Initialization Variance")."""
    infshape_of(
        tensor
    )  # raises for a tensor that is no parameter, such as a weight times its multiplier
    return nn.init.zeros_(tensor)


def fan_in_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """N(0, s^2 gain^2 / fan_in), fan-in at base width: the paper's init with σ = gain."""
    return _normal(tensor, gain / math.sqrt(_base_fans(tensor)[0]) * _init_scale(tensor))


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """N(0, s^2 gain^2 / fan), fan at base width; the gain is that of torch's `calculate_gain`."""
    return _normal(tensor, _kaiming_std(tensor, a, mode, nonlinearity))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """U(-c, c) with the std of `kaiming_normal_`."""
    return _uniform(tensor, _kaiming_std(tensor, a, mode, nonlinearity))


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """N(0, 2 s^2 gain^2 / (fan_in + fan_out)), fans at base width."""
    return _normal(tensor, _xavier_std(tensor, gain))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """U(-c, c) with the std of `xavier_normal_`."""
    return _uniform(tensor, _xavier_std(tensor, gain))


def _normal(tensor: Tensor, std: float) -> Tensor:
    with torch.no_grad():
        return tensor.normal_(0, std)


def _uniform(tensor: Tensor, std: float) -> Tensor:
    bound = math.sqrt(3.0) * std
    with torch.no_grad():
        return tensor.uniform_(-bound, bound)


def _constant_std_scale(tensor: Tensor, centred: bool) -> float:
    """The factor s; the mean of a matrix-like tensor must be 0."""
    infshape = infshape_of(tensor)
    if infshape.role() == "hidden" and not centred:
        raise ValueError(f"{infshape} is matrix-like: its initialization must have mean 0")
    return _init_scale(tensor)


def _init_scale(tensor: Tensor) -> float:
    infshape = infshape_of(tensor)
    return scale(infshape, rule_for(infshape, rules_of(tensor)).init_std)


def _base_fans(tensor: Tensor) -> tuple[int, int]:
    """Fan-in and fan-out of the base model's tensor, as torch counts them (kernel included)."""
    infshape = infshape_of(tensor)
    sizes = [d.base_dim or d.dim for d in infshape]
    if infshape.stacked:
        fan_in, fan_out = (d.base_dim or d.dim for d in infshape.fanin_fanout())
        return fan_in, fan_out
    if len(sizes) < 2:
        raise ValueError(f"a tensor of {len(sizes)} dimensions has no fan-in; use normal_")
    receptive = math.prod(sizes[2:])
    return sizes[1] * receptive, sizes[0] * receptive


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is {mode!r}, allowed are 'fan_in' and 'fan_out'")
    fan = _base_fans(tensor)[0 if mode == "fan_in" else 1]
    gain = nn.init.calculate_gain(nonlinearity, a)  # type: ignore[arg-type]
    return gain / math.sqrt(fan) * _init_scale(tensor)


def _xavier_std(tensor: Tensor, gain: float) -> float:
    return gain * math.sqrt(2.0 / sum(_base_fans(tensor))) * _init_scale(tensor)
