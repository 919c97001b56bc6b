"""How much of a gradient a number format loses. Pure functions of counts of binary exponents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

FORMATS = {"float16": (-24, 15), "bfloat16": (-133, 127), "float32": (-149, 127)}
"""Binary exponents of the least subnormal number and of the largest number."""
Counts = Mapping[int, int]
"""Numbers of entries by exponent e, for 2^e <= |entry| < 2^(e + 1)."""


def together(parts: Iterable[Counts]) -> dict[int, int]:
    """The sum of counts."""
    whole: dict[int, int] = {}
    for part in parts:
        for exponent, number in part.items():
            whole[exponent] = whole.get(exponent, 0) + number
    return whole


def lost(counts: Counts, name: str, scale: int = 0) -> float:
    """Share of the entries that are rounded to zero, from 0 to 1; NaN if there are none.

    Rounding to nearest takes to zero what is below half of the least subnormal number. The format
    is emulated: every entry is rounded by itself, after an exact product of matrices.

    Args:
        counts: of the entries.
        name: of the format, of `FORMATS`.
        scale: binary exponent of the factor by which the loss is multiplied.
    """
    least, _ = FORMATS[name]
    return _share(counts, lambda exponent: exponent + scale < least - 1)


def overflowing(counts: Counts, name: str, scale: int = 0) -> float:
    """Share of the entries that are too large; the arguments are those of `lost`."""
    _, most = FORMATS[name]
    return _share(counts, lambda exponent: exponent + scale > most)


def _share(counts: Counts, belongs: Callable[[int], bool]) -> float:
    total = sum(counts.values())
    return sum(n for e, n in counts.items() if belongs(e)) / total if total else math.nan
