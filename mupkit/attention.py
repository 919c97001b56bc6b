"""The scale of attention logits."""

from __future__ import annotations

import math


def attention_scale(d_head: int, base_d_head: int | None = None, attn_mult: float = 1.0) -> float:
    """The factor of q·k: attn_mult * sqrt(base_d_head) / d_head, or 1/sqrt(d_head) without a base.

    At d_head = base_d_head the two agree bit for bit, and with torch's attention, which computes
    1 / sqrt(d) (d**-0.5 is not the same number: they differ at d = 2 and at d = 24).

    Args:
        d_head: the dimension of a query and a key (d_k).
        base_d_head: the same in the base model; None for the standard 1/sqrt(d).
        attn_mult: the tunable multiplier.

    Source: Tensor Programs V, Definition 4.1 and Appendix B.1, "Attention Logit Scaling".
    """
    if base_d_head is None:
        base_d_head = d_head
    return attn_mult / math.sqrt(base_d_head) * (base_d_head / d_head)
