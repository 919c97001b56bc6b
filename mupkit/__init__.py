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

from mupkit import init
from mupkit.attention import attention_scale
from mupkit.infshape import InfDim, InfShape, Role
from mupkit.layer import MuReadout, MuSharedReadout
from mupkit.optim import MuAdam, MuAdamW, MuSGD
from mupkit.rules import SP, TABLE_8, Rule, Table, rule_for
from mupkit.shape import get_infshapes, get_shapes, make_base_shapes, set_base_shapes

__all__ = [
    "SP",
    "TABLE_8",
    "InfDim",
    "InfShape",
    "MuAdam",
    "MuAdamW",
    "MuReadout",
    "MuSGD",
    "MuSharedReadout",
    "Role",
    "Rule",
    "Table",
    "attention_scale",
    "get_infshapes",
    "get_shapes",
    "init",
    "make_base_shapes",
    "rule_for",
    "set_base_shapes",
]
