"""How the factor of attention logits goes with width: exactly, from what a forward pass does."""

from __future__ import annotations

import math

import torch

from mupkit.coord_check.capture import Loss
from mupkit.coord_check.record import Build
from mupkit.observe import Observed, observe


def attention_powers(build: Build, loss: Loss, narrow: int, wide: int) -> dict[str, float]:
    """By module, the power of width that d_head times the factor of its logits q·k follows.

    It is 0 for 1/d attention and for heads of one size, 1/2 for 1/sqrt(d) attention with more width
    in each head. Modules whose forward pass is not understood are left out: so are those that
    attend in several ways.
    """
    with torch.random.fork_rng(devices=[]):
        seen = [_seen(build, loss, width) for width in (narrow, wide)]
    found = {}
    for name in seen[0].attention.keys() & seen[1].attention.keys():
        one, other = ({logits.relative for logits in s.attention[name]} for s in seen)
        if len(one) == len(other) == 1 and (base := one.pop()) * (largest := other.pop()) > 0:
            found[name] = math.log(largest / base) / math.log(wide / narrow)
    return found


def _seen(build: Build, loss: Loss, width: int) -> Observed:
    torch.manual_seed(0)
    model = build(width)
    try:
        return observe(model, lambda: loss(model))
    except Exception:  # of any kind of model: what is not seen decides nothing
        return Observed()
