"""Powers of width: the slope of log2 size against log2 width, with an interval over seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from experiments.declare.claims import Measured


def exponent(sizes: pd.DataFrame) -> Measured:
    """Mean over seeds of each seed's slope, with Student's t interval of 95 %.

    Args:
        sizes: positive; one row per width (the index), one column per seed.
    """
    slopes = np.polyfit(np.log2(sizes.index), np.log2(sizes.to_numpy()), 1)[0]
    value = float(slopes.mean())
    if len(slopes) < 2:
        return Measured(value, note="no interval: one seed")
    half = float(stdtrit(len(slopes) - 1, 0.975) * slopes.std(ddof=1) / np.sqrt(len(slopes)))
    return Measured(value, value - half, value + half)
