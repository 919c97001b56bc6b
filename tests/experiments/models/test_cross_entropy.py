"""The chunked cross-entropy has the bits of torch's, value and gradients."""

import pytest
import torch
import torch.nn.functional as F

from experiments.models import cross_entropy as module
from experiments.models.cross_entropy import IGNORED, cross_entropy

ROWS, WIDTH, WORDS = 37, 16, 301


def theirs(logits_NV, targets_N):
    count = (targets_N != IGNORED).sum().clamp(min=1)
    return F.cross_entropy(logits_NV, targets_N, reduction="sum") / count


def outcome(loss_of, ignored: int, dtype=torch.float32, autocast=False, factor=1.0):
    """Loss, and gradients of the activations and of the readout's weight."""
    torch.manual_seed(0)
    x = (3 * torch.randn(ROWS, WIDTH, dtype=dtype)).requires_grad_()
    weight = torch.randn(WORDS, WIDTH, dtype=dtype).requires_grad_()
    targets = torch.randint(WORDS, (ROWS,))
    targets[torch.randperm(ROWS)[:ignored]] = IGNORED
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = loss_of(F.linear(x, weight), targets)
    (factor * loss).backward()
    return loss.detach(), x.grad, weight.grad


@pytest.fixture(params=[1, 10 * WORDS, 16 * WORDS + 5, 1000 * WORDS])
def chunk(request, monkeypatch) -> None:
    """Chunks of one row, of ten, of sixteen, and one of all."""
    monkeypatch.setattr(module, "NUMBERS", request.param)


@pytest.mark.parametrize("ignored", [0, 30, ROWS])
@pytest.mark.parametrize(
    "options", [{}, {"autocast": True}, {"dtype": torch.float64}], ids=["float32", "bfloat16", "64"]
)
def test_value_and_gradients_have_the_bits_of_torch(chunk, ignored, options) -> None:
    ours, plain = (outcome(f, ignored, **options) for f in (cross_entropy, theirs))
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_without_ignored_rows_it_is_the_mean_of_torch(chunk) -> None:
    ours, plain = (outcome(f, 0) for f in (cross_entropy, F.cross_entropy))
    assert all(map(torch.equal, ours, plain))


def test_a_scaled_loss_has_scaled_gradients() -> None:
    once, thrice = (outcome(cross_entropy, 5, torch.float64, factor=f) for f in (1.0, 3.0))
    for a, b in zip(once[1:], thrice[1:], strict=True):
        torch.testing.assert_close(3 * a, b)


def test_without_gradients_it_is_the_same_value() -> None:
    logits, targets = torch.randn(ROWS, WORDS), torch.randint(WORDS, (ROWS,))
    with torch.no_grad():
        silent = cross_entropy(logits, targets)
    assert torch.equal(silent, cross_entropy(logits.requires_grad_(), targets).detach())


def test_infinite_logits_spoil_the_gradient_as_with_torch() -> None:
    found = []
    for loss_of in (cross_entropy, theirs):
        logits = torch.zeros(4, WORDS)
        logits[1, 2] = float("inf")
        targets = torch.tensor([5, IGNORED, 7, 8])
        loss_of(logits.requires_grad_(), targets).backward()
        found.append(logits.grad)
    assert found[1][1].isnan().any()
    assert torch.equal(*(g.nan_to_num(nan=7.0) for g in found))
