"""The four scales of every declaration."""

from __future__ import annotations

from typing import Literal, get_args

from experiments.errors import unknown

Scale = Literal["smoke", "small", "gpu", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)


def check_scale(scale: str) -> Scale:
    """`scale` itself, or a UserError that lists the scales."""
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    return scale
