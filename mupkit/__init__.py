"""µP for PyTorch: torch and the standard library, nothing else.

The names are those of the `mup` package, so that code moves over with one changed import.

    >>> import torch, mupkit
    >>> def build(width):
    ...     return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.ReLU(),
    ...                                mupkit.MuReadout(width, 2))
    >>> model = mupkit.set_base_shapes(build(256), build(32), delta=build(64))
    >>> optimizer = mupkit.MuAdam(model.parameters(), lr=1e-3)

Source: Tensor Programs V, Table 8.
"""

from mupkit import checkpoint, init
from mupkit.attention import attention_scale
from mupkit.base_shapes import get_base_shapes, get_rules
from mupkit.bsh import load as load_base_shapes
from mupkit.folding import fold
from mupkit.infshape import InfDim, InfShape, Role
from mupkit.layer import MuReadout, MuSharedReadout
from mupkit.optim import MuAdam, MuAdamW, MuFrobenius, MuMuon, MuSGD
from mupkit.parametrization import parametrize, reset_parameters, set_base_shapes
from mupkit.rules import (
    NTP,
    RULES,
    SP,
    TABLE_3,
    TABLE_8,
    TABLE_9,
    Rule,
    Rules,
    interpolate,
    rule_for,
)
from mupkit.schedule import per_group
from mupkit.shape import get_infshapes, get_shapes, make_base_shapes, save_base_shapes

__all__ = [
    "NTP",
    "RULES",
    "SP",
    "TABLE_3",
    "TABLE_8",
    "TABLE_9",
    "InfDim",
    "InfShape",
    "MuAdam",
    "MuAdamW",
    "MuFrobenius",
    "MuMuon",
    "MuReadout",
    "MuSGD",
    "MuSharedReadout",
    "Role",
    "Rule",
    "Rules",
    "attention_scale",
    "checkpoint",
    "fold",
    "get_base_shapes",
    "get_infshapes",
    "get_rules",
    "get_shapes",
    "init",
    "interpolate",
    "load_base_shapes",
    "make_base_shapes",
    "parametrize",
    "per_group",
    "reset_parameters",
    "rule_for",
    "save_base_shapes",
    "set_base_shapes",
]
