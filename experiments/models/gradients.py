"""Which binary exponents the entries of a model's gradients have, layer by layer."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

KINDS = ("weights", "activations")
Exponents = dict[str, dict[str, dict[int, int]]]
"""Numbers of entries by kind, layer and exponent e, for 2^e <= |entry| < 2^(e + 1)."""


def gradient_exponents(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], layer_of: Callable[[str], str]
) -> Exponents:
    """Count the exponents of the gradients of one batch, in float64, where none underflows.

    Entries that are exactly zero are left out: nothing is lost where there is nothing.

    Args:
        model: stays as it is.
        loss: of a batch, of a float64 copy of the model.
        layer_of: the layer to which a parameter or a module of that name belongs.

    Returns:
        Of the gradients of the parameters ("weights") and of the outputs of all modules that have
        no parts ("activations").
    """
    exact = copy.deepcopy(model).double()
    outputs: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            if output.requires_grad:
                output.retain_grad()
                outputs[name] = output

        return keep

    for name, module in exact.named_modules():
        if not any(module.children()):
            module.register_forward_hook(watch(name))
    with torch.enable_grad():
        loss(exact).backward()  # type: ignore[no-untyped-call]
    weights: dict[str, Tensor] = dict(exact.named_parameters())
    tensors = zip(KINDS, (weights, outputs), strict=True)
    return {kind: _by_layer(named, layer_of) for kind, named in tensors}


def _by_layer(
    tensors: Mapping[str, Tensor], layer_of: Callable[[str], str]
) -> dict[str, dict[int, int]]:
    found: dict[str, Counter[int]] = {}
    for name, tensor in tensors.items():
        if tensor.grad is not None:
            entries = tensor.grad[tensor.grad != 0]
            exponents = torch.frexp(entries).exponent - 1  # of a mantissa from 1 to 2
            values, numbers = (x.tolist() for x in torch.unique(exponents, return_counts=True))
            counts = found.setdefault(layer_of(name), Counter())
            counts.update(dict(zip(values, numbers, strict=True)))
    return {layer: dict(counts) for layer, counts in found.items()}
