"""What a format loses, against torch's own rounding."""

import math

import pytest
import torch

from experiments.analysis.underflow import FORMATS, lost, overflowing, together


def counts(entries):
    exponents = torch.frexp(entries[entries != 0]).exponent - 1
    values, numbers = torch.unique(exponents, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("scale", [0, 5, 20])
def test_the_share_is_what_rounding_takes_to_zero(name, scale) -> None:
    dtype = getattr(torch, name)
    info = torch.finfo(dtype)
    draw = torch.Generator().manual_seed(0)
    least, most = math.log2(info.tiny * info.eps), math.log2(info.max)
    for center, share in ((least, lost), (most, overflowing)):
        entries = 2.0 ** (
            center - scale + 3 * torch.randn(20_000, generator=draw, dtype=torch.float64)
        )
        rounded = (entries * 2.0**scale).to(dtype)
        expected = (rounded == 0) if share is lost else ~torch.isfinite(rounded)
        found = share(counts(entries), name, scale)
        # Between the format's largest number and the next power of two it is too large, uncounted.
        assert found == pytest.approx(expected.float().mean().item(), abs=1e-3)
        assert 0.2 < found < 0.8


def test_the_least_subnormal_number_is_kept_and_what_is_below_its_half_is_lost() -> None:
    assert lost({-24: 1, -25: 1, -26: 2}, "float16") == 0.5
    assert lost({-24: 1, -25: 1, -26: 2}, "float16", 1) == 0
    assert lost({-149: 1, -151: 1}, "float32") == lost({-133: 1, -135: 1}, "bfloat16") == 0.5


def test_no_entries_have_no_share() -> None:
    assert math.isnan(lost({}, "float16"))
    assert together([{1: 2, 3: 4}, {3: 1}]) == {1: 2, 3: 5}
