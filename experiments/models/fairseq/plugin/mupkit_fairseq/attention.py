"""fairseq's attention with free sizes of keys and values, and a free scale of its logits.

Axes: L queries, S keys, B batch, D d_model, H n_head, K d_k, W d_v.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn


class Attention(MultiheadAttention):
    """It takes the place of one of fairseq's attention modules, and draws its weights as they do.

    Args:
        plain: the module that it replaces, for self- or cross-attention.
        n_head, d_k, d_v: number of heads, and their sizes of keys and values.
        scale: the factor of the logits.
    """

    def __init__(self, plain: MultiheadAttention, n_head: int, d_k: int, d_v: int, scale: float):
        d_model = plain.embed_dim
        super().__init__(
            d_model,
            1,
            dropout=plain.dropout_module.p,
            self_attention=plain.self_attention,
            encoder_decoder_attention=plain.encoder_decoder_attention,
        )
        self.num_heads, self.head_dim, self.scaling = n_head, d_v, scale
        self.q_proj = nn.Linear(d_model, n_head * d_k)
        self.k_proj = nn.Linear(d_model, n_head * d_k)
        self.v_proj = nn.Linear(d_model, n_head * d_v)
        self.out_proj = nn.Linear(n_head * d_v, d_model)
        self.reset_parameters()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        incremental_state: dict[str, Any] | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, None]:
        """Outputs (L, B, D) of queries (L, B, D) over keys (S, B, D), which are the values too.

        It never returns attention weights.

        Args:
            query, key, value: as above.
            key_padding_mask: (B, S), True where there is no key.
            incremental_state: while fairseq generates, it gives the newest query alone; earlier
                keys and values are here. Cross-attention has the same ones at all times.
            static_kv: whether this is cross-attention.
            attn_mask: (L, S), added to the logits.
            need_weights, before_softmax, need_head_weights: not used.
        """
        seen = self._get_input_buffer(incremental_state)
        q_BHLK = self._heads(self.q_proj(query) * self.scaling)
        if static_kv and seen:
            k_BHSK, v_BHSW = seen["prev_key"], seen["prev_value"]
        else:
            k_BHSK, v_BHSW = self._heads(self.k_proj(key)), self._heads(self.v_proj(key))
            if seen:
                k_BHSK = torch.cat([seen["prev_key"], k_BHSK], 2)
                v_BHSW = torch.cat([seen["prev_value"], v_BHSW], 2)
        padding_BS = self._append_prev_key_padding_mask(
            key_padding_mask,
            seen.get("prev_key_padding_mask"),
            k_BHSK.shape[0],
            k_BHSK.shape[2],
            static_kv,
        )
        seen = {
            "prev_key": k_BHSK,
            "prev_value": v_BHSW,
            "prev_key_padding_mask": padding_BS,
        }
        self._set_input_buffer(incremental_state, seen)
        logits_BHLS = q_BHLK @ k_BHSK.transpose(-1, -2)
        if attn_mask is not None:
            logits_BHLS = logits_BHLS + attn_mask
        if padding_BS is not None:
            logits_BHLS = logits_BHLS.masked_fill(padding_BS[:, None, None].bool(), -math.inf)
        y_BHLW = self.dropout_module(logits_BHLS.softmax(-1)) @ v_BHSW
        y_LBD: Tensor = self.out_proj(y_BHLW.permute(2, 0, 1, 3).flatten(2))
        return y_LBD, None

    def _heads(self, x_LBE: Tensor) -> Tensor:
        """(B, H, L, ...) of the heads side by side."""
        return x_LBE.view(*x_LBE.shape[:2], self.num_heads, -1).permute(1, 2, 0, 3)
