"""The updates of a stack are those of torch's optimizers, member by member."""

import copy

import pytest
import torch
from torch import nn

from experiments.train import updates

STEPS = 6
OPTIMIZERS = {
    "adam": [
        (torch.optim.Adam, {"lr": 0.01}),
        (torch.optim.Adam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.3}),
    ],
    "adam, one set of options": [(torch.optim.Adam, {"lr": lr}) for lr in (0.01, 0.1, 0.0)],
    "adamw": [
        (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.0}),
        (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.5, "betas": (0.0, 0.99)}),
    ],
    "sgd": [(torch.optim.SGD, {"lr": 0.1}), (torch.optim.SGD, {"lr": 0.2, "weight_decay": 0.5})],
    "sgd, momentum": [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.SGD, {"lr": 0.2, "momentum": 0.5, "weight_decay": 0.5}),
    ],
    "of each kind": [
        (torch.optim.Adam, {"lr": 0.01}),
        (torch.optim.AdamW, {"lr": 0.01}),
        (torch.optim.AdamW, {"lr": 0.02}),
        (torch.optim.SGD, {"lr": 0.1}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    ],
}
CLIPS = (None, 0.5, 3.0)


def members(given) -> list[tuple[nn.Module, torch.optim.Optimizer]]:
    """Models of two groups, the second at twice the rate, and their optimizers."""
    made = []
    for make, options in given:
        model = nn.Linear(3, 2)
        groups = [{"params": model.bias}, {"params": model.weight, "lr": 2 * options["lr"]}]
        made.append((model, make(groups, **options)))
    return made


def whole(models) -> list[torch.Tensor]:
    rows = [[*model.parameters()] for model in models]
    return [updates.stacked(column).requires_grad_() for column in zip(*rows, strict=True)]


def together(made, clips, done: int) -> updates.Updates:
    models, optimizers = [m for m, _ in made], [o for _, o in made]
    params = whole(models)
    return updates.Updates(optimizers, [[*m.parameters()] for m in models], params, clips, done)


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("given", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_they_are_as_torch_has_them(given, clipped) -> None:
    """Also when the members are stacked anew in between, from what their optimizers keep."""
    torch.manual_seed(0)
    made = members(given)
    alone = copy.deepcopy(made)
    clips = [CLIPS[i % 3] if clipped else None for i in range(len(made))]
    stack = together(made, clips, 0)
    rates = [[group["lr"] for group in o.param_groups] for _, o in alone]
    for step in range(STEPS):
        factor = 1 - step / STEPS
        if step == STEPS // 2:
            stack = together(made, clips, step)
        for p in stack.params:
            p.grad = torch.randn(p.shape)
        for i, ((model, optimizer), clip) in enumerate(zip(alone, clips, strict=True)):
            for own, p in zip(model.parameters(), stack.params, strict=True):
                own.grad = p.grad[i].clone()
            for group, rate in zip(optimizer.param_groups, rates[i], strict=True):
                group["lr"] = rate * factor
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        stack.apply(factor)
        for (mine, own), (model, optimizer) in zip(made, alone, strict=True):
            for p, q in zip(mine.parameters(), model.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=2e-6, atol=2e-7)
            states = [o.state_dict()["state"] for o in (own, optimizer)]
            torch.testing.assert_close(*map(_tensors, states), rtol=2e-6, atol=2e-7)


def _tensors(state) -> dict:
    """Without the buffers that SGD has none of, which torch notes as None."""
    return {
        (i, key): value
        for i, values in state.items()
        for key, value in values.items()
        if value is not None
    }


def test_members_do_not_see_each_other() -> None:
    """Not even one whose gradients are not finite."""
    made = members(OPTIMIZERS["adam"])
    stack = together(made, [1.0, None], 0)
    for p in stack.params:
        p.grad = torch.full_like(p, torch.nan)
        p.grad[0] = 1.0
    stack.apply(1.0)
    finite = [all(bool(p.isfinite().all()) for p in model.parameters()) for model, _ in made]
    assert finite == [True, False]
