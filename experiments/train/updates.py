"""The updates of a stack: those of all members at once, by operations whose number has no N in it.

Each member keeps the optimizer that it would have alone, which is never asked for a step: its
groups say the rate, epsilon, decay and betas of each parameter, and its state are slices of stacked
tensors. What differs between members is a tensor with a value for each. The formulas are torch's,
whose own kernels take one rate at a time; the tests compare both.

Axes: N members, M of them with one kind of optimizer, P parameters of a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

UNKNOWN = ("amsgrad", "maximize", "nesterov", "dampening", "differentiable")
"""Options of torch's that are not written here, and that no run has."""
Rows = Sequence[Sequence[Tensor]]
Values = float | list[Tensor]
"""One number for all, or one tensor (M, 1, ...) a parameter."""


def kind(optimizer: Optimizer) -> tuple[str, bool]:
    """Equal for optimizers that are stacked; members are given in its order."""
    return type(optimizer).__name__, any(g.get("momentum") for g in optimizer.param_groups)


@torch.no_grad()
def stacked(tensors: Sequence[Tensor], by_column: bool = False) -> Tensor:
    """Tensors as one (N, ...), of which they become slices; matrices row by row or by column."""
    if by_column:
        whole = torch.stack([t.detach().t() for t in tensors]).transpose(1, 2)
    else:
        whole = torch.stack([t.detach() for t in tensors])
    for own, part in zip(tensors, whole.unbind(), strict=True):
        own.data = part
    return whole


class Updates:
    """The updates of members, in the order of `kind`.

    Args:
        optimizers: of the members.
        parameters: of each member, slices of `params`.
        params: P tensors (N, ...).
        clips: the bound of each member's norm of gradients; None for none.
        done: updates before the first of these.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        parameters: Rows,
        params: Sequence[Tensor],
        clips: Sequence[float | None],
        done: int,
    ):
        self.params = params
        bounds = [math.inf if clip is None else clip for clip in clips]
        self.clips = torch.tensor(bounds, device=params[0].device)
        self.bounded = min(bounds) < math.inf
        self.parts: list[tuple[slice, _Adam | _Sgd]] = []
        for (name, _), same in groupby(range(len(optimizers)), lambda i: kind(optimizers[i])):
            places = [*same]
            rows = slice(places[0], places[-1] + 1)
            make = _Sgd if name == SGD.__name__ else _Adam
            own = [p[rows].detach() for p in params]
            self.parts.append((rows, make(optimizers[rows], parameters[rows], own, done=done)))

    @property
    def state(self) -> list[Tensor]:
        """What an update changes beside the parameters."""
        return [t for _, part in self.parts for t in part.state]

    @torch.no_grad()
    def apply(self, factor: float | Tensor) -> None:
        """Change the parameters by their gradients, with rates times a schedule's factor."""
        grads = [p.grad for p in self.params if p.grad is not None]
        if self.bounded:
            self._clip(grads)
        for rows, part in self.parts:
            part.apply([g[rows] for g in grads], factor)

    def _clip(self, grads: Sequence[Tensor]) -> None:
        """As torch's `clip_grad_norm_` of each member."""
        norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads]
        whole = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        shares = (self.clips / (whole + 1e-6)).clamp(max=1)
        shares = torch.where(self.clips.isinf(), 1.0, shares)
        for grad in grads:
            grad.mul_(_shaped(shares, grad))


class _Kind:
    """Members with one kind of optimizer.

    Attributes:
        params: P tensors (M, ...), slices of the stack's.
        state: what an update changes beside them.
    """

    def __init__(self, optimizers: Sequence[Optimizer], parameters: Rows, params: list[Tensor]):
        self.optimizers, self.parameters, self.params = optimizers, parameters, params
        self.state: list[Tensor] = []
        by_id = [{id(p): g for g in o.param_groups for p in g["params"]} for o in optimizers]
        self.groups = [  # of each parameter, by member
            [groups[id(p)] for groups, p in zip(by_id, row, strict=True)]
            for row in zip(*parameters, strict=True)
        ]
        assert not any(g.get(key) for row in self.groups for g in row for key in UNKNOWN)
        self.rates, self.decays = self._table("lr"), self._table("weight_decay")
        self.decaying = bool(self.decays.any())

    def _table(self, key: str, place: int | None = None) -> Tensor:
        """The values of an option (P, M), in float64 as Python has them."""
        values = [[g[key] if place is None else g[key][place] for g in row] for row in self.groups]
        return torch.tensor(values, dtype=torch.float64, device=self.params[0].device)

    def _values(self, table: Tensor) -> Values:
        """A table as operations take it: a number if it has but one, for one kernel for many."""
        first = table.flatten()[0].item()
        return first if bool((table == first).all()) else self._each(table)

    def _each(self, table: Tensor) -> list[Tensor]:
        """A table (P, M) as one tensor (M, 1, ...) a parameter."""
        rows = table.float().unbind()
        return [_shaped(row, p) for row, p in zip(rows, self.params, strict=True)]

    def _kept(self, key: str) -> list[Tensor]:
        """The optimizers' state of a name, stacked as the parameters; zero where there is none."""
        found = []
        for i, whole in enumerate(self.params):
            states = [
                o.state[ps[i]] for o, ps in zip(self.optimizers, self.parameters, strict=True)
            ]
            if key in states[0]:
                by_column = whole.ndim == 3 and not whole.is_contiguous()
                found.append(stacked([state[key] for state in states], by_column))
                continue
            found.append(torch.zeros_like(whole))
            for state, part in zip(states, found[-1].unbind(), strict=True):
                state[key] = part
        self.state += found
        return found

    def _decayed(self, grads: list[Tensor]) -> list[Tensor]:
        """Gradients and the decay that an optimizer adds to them."""
        if not self.decaying:
            return grads
        decays = self._each(self.decays)
        return list(torch._foreach_addcmul(grads, self.params, decays))


class _Adam(_Kind):
    """Adam, and AdamW, whose decay leaves the moments alone."""

    def __init__(self, *given: Any, done: int):
        super().__init__(*given)
        self.decoupled = self.groups[0][0]["decoupled_weight_decay"]
        self.beta1, self.beta2, self.eps = (
            self._table("betas", 0),
            self._table("betas", 1),
            self._table("eps"),
        )
        self.first, self.second = self._values(1 - self.beta1), self._values(1 - self.beta2)
        self.averages, self.squares = self._kept("exp_avg"), self._kept("exp_avg_sq")
        # Torch has a number for each parameter.
        self.steps = torch.full(self.rates.shape, float(done), device=self.params[0].device)
        self.state.append(self.steps)
        for o, ps, column in zip(
            self.optimizers, self.parameters, self.steps.unbind(1), strict=True
        ):
            for p, step in zip(ps, column.unbind(), strict=True):
                o.state[p]["step"] = step

    def apply(self, grads: list[Tensor], factor: float | Tensor) -> None:
        rates = self.rates * factor
        self.steps += 1
        steps = self.steps.double()
        root = (1 - self.beta2**steps).sqrt()
        if not self.decoupled:
            grads = self._decayed(grads)
        elif self.decaying:
            torch._foreach_mul_(self.params, self._each(1 - rates * self.decays))
        torch._foreach_lerp_(self.averages, grads, self.first)
        torch._foreach_lerp_(self.squares, torch._foreach_mul(grads, grads), self.second)
        sizes = torch._foreach_sqrt(self.squares)
        torch._foreach_add_(sizes, self._each(self.eps * root))
        changes = self._each(-rates * root / (1 - self.beta1**steps))
        torch._foreach_addcmul_(self.params, torch._foreach_div(self.averages, sizes), changes)


class _Sgd(_Kind):
    """SGD, with momentum in all members or in none."""

    def __init__(self, *given: Any, done: int):
        super().__init__(*given)
        momentum = self._table("momentum")
        self.momentum = self._values(momentum) if bool(momentum.any()) else 0.0
        self.buffers = self._kept("momentum_buffer") if self.momentum else []

    def apply(self, grads: list[Tensor], factor: float | Tensor) -> None:
        grads = self._decayed(grads)
        if self.buffers:
            torch._foreach_mul_(self.buffers, self.momentum)
            torch._foreach_add_(self.buffers, grads)
            grads = self.buffers
        torch._foreach_addcmul_(self.params, grads, self._each(-self.rates * factor))


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    """Values (M,) as (M, 1, ...), to go with a tensor (M, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))
