"""The scale of attention logits."""

from __future__ import annotations

import math


def attention_scale(d_head: int, base_d_head: int | None = None, attn_mult: float = 1.0) -> float:
    """The factor s of attention logits s q·k: 1/d attention, equal to 1/sqrt(d) at base width.

        s = attn_mult * sqrt(base_d_head) / d_head
        s = attn_mult / sqrt(d_head)                  without a base

    At d_head = base_d_head both equal, bit for bit, the 1 / sqrt(d) of torch's attention (which is
    another number than d**-0.5 at d = 2 and at d = 24).

        >>> import mupkit
        >>> mupkit.attention_scale(16, base_d_head=16), mupkit.attention_scale(64, base_d_head=16)
        (0.25, 0.0625)

    Args:
        d_head: the dimension of a query and a key (d_k).
        base_d_head: d_head of the base model; None for the standard 1/sqrt(d).
        attn_mult: the tunable multiplier, constant in width.

    Returns:
        A number to pass as `scale` to `torch.nn.functional.scaled_dot_product_attention`.

    Source: Tensor Programs V, Definition 4.1 and Appendix B.1, "Attention Logit Scaling".
    """
    if base_d_head is None:
        base_d_head = d_head
    return attn_mult / math.sqrt(base_d_head) * (base_d_head / d_head)
