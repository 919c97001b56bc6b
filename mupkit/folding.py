"""Turn a trained µP model into a plain one: multipliers go into the weights."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import nn

from mupkit.base_shapes import unwrap
from mupkit.layer import MuReadout
from mupkit.multipliers import fold_multipliers
from mupkit.parametrization import forget

ModelT = TypeVar("ModelT", bound=nn.Module)


@torch.no_grad()
def fold(model: ModelT) -> ModelT:
    """A copy of `model` with the same outputs and without µP: plain layers, no hooks.

    Each `MuReadout` becomes an `nn.Linear` with output_mult / width_mult in its weight. A readout
    that shares the weight of an embedding gets a weight of its own. Factors in your own code, such
    as `attention_scale`, stay there. `mupkit.huggingface.fold` folds models of transformers,
    attention included.

    Args:
        model: a parametrized model, or a wrapper of one; it is left unchanged.
    """
    plain = copy.deepcopy(unwrap(model))
    for name, module in list(plain.named_modules()):
        if isinstance(module, MuReadout):
            readout = _plain_readout(module)
            if not name:
                return cast(ModelT, readout)
            parent, _, local = name.rpartition(".")
            setattr(plain.get_submodule(parent), local, readout)
        else:
            fold_multipliers(module)
    forget(plain)
    return cast(ModelT, plain)


def _plain_readout(readout: MuReadout) -> nn.Linear:
    fold_multipliers(readout)
    factor = readout.output_mult / readout.width_mult()
    linear = nn.Linear(readout.in_features, readout.out_features, device="meta")
    linear.weight = nn.Parameter(readout.weight * factor)
    linear.bias = None if readout.bias is None else nn.Parameter(readout.bias.clone())
    linear.train(readout.training)
    return linear
