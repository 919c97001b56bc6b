"""The scale of attention logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mupkit import attention_scale

D_HEAD = st.integers(1, 4096)
MULT = st.floats(2**-10, 2**10)


@settings(derandomize=True, database=None, deadline=None)
@given(D_HEAD)
def test_at_base_it_is_the_standard_scale_bit_for_bit(d_head):
    standard = 1 / math.sqrt(d_head)
    assert attention_scale(d_head) == standard
    assert attention_scale(d_head, d_head) == standard


@settings(derandomize=True, database=None, deadline=None)
@given(D_HEAD, D_HEAD, MULT)
def test_elsewhere_it_goes_as_1_over_d(d_head, base_d_head, attn_mult):
    expected = attn_mult * math.sqrt(base_d_head) / d_head
    assert attention_scale(d_head, base_d_head, attn_mult) == pytest.approx(expected, rel=1e-12)
    standard = attention_scale(d_head, attn_mult=attn_mult)
    assert standard == pytest.approx(attn_mult / math.sqrt(d_head), rel=1e-12)


@pytest.mark.parametrize("d_head", [8, 24, 33])
def test_attention_at_base_equals_torchs_default(d_head):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 6, d_head, dtype=torch.float64)
    ours = F.scaled_dot_product_attention(q, k, v, scale=attention_scale(d_head, d_head))
    assert torch.equal(ours, F.scaled_dot_product_attention(q, k, v))
