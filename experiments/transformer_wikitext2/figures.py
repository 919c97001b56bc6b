"""Pictures of the Transformer on WikiText-2. Pure functions of the tidy table."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from experiments import landscapes


def draw_fig1(runs: pd.DataFrame) -> Figure:
    """Loss against log2 learning rate, a curve a width, SP left and µP right, same axes."""
    return landscapes.draw_pairs({"": runs}, {"": "training loss (nats)"}, "width\n(d_model)")
