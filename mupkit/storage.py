"""How PyTorch's modules store their weights, and how their default initialization scales."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from mupkit.infshape import InfDim, InfShape

Init = Literal["torch", "constant"]
Inits = Mapping[str, Init]  # by parameter name
Layout = Mapping[str, Literal["out_in", "in_out"]]  # by parameter name
Convolution = nn.modules.conv._ConvNd
TransposedConvolution = nn.modules.conv._ConvTransposeNd
_NORMED = {"weight_v": "weight_norm", "weight_orig": "spectral_norm"}  # of torch.nn.utils
WEIGHTS = ("weight", *_NORMED)
_MATRICES = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)  # theirs are (fan_out, fan_in)


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear layer of transformers' GPT-2, whose weight is (fan_in, fan_out)."""
    return hasattr(module, "nf") and any(c.__name__ == "Conv1D" for c in type(module).__mro__)


def is_linear(module: nn.Module) -> bool:
    """Whether the module multiplies its first argument by its parameter `weight`."""
    return isinstance(module, nn.Linear | Convolution) or is_conv1d(module)


def is_embedding(module: nn.Module) -> bool:
    """Whether its parameter `weight` is a table with one row for each input."""
    return isinstance(module, nn.Embedding | nn.EmbeddingBag)


def local_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's own parameters by their name in it, also those that torch's parametrize moved."""
    found = {local: p for local, p in module._parameters.items() if p is not None}
    moved = module._modules.get("parametrizations")  # not by getattr, which torch.compile passes on
    for local, chain in moved.named_children() if moved is not None else ():
        # Of weight_norm's two, the second one is as the weight; the first one is its size.
        original = getattr(chain, "original", getattr(chain, "original1", None))
        if isinstance(original, nn.Parameter):
            found[local] = original
    return found


def norm_of(module: nn.Module, p: nn.Parameter) -> str:
    """Whether "weight_norm" or "spectral_norm" takes a weight's size away; else ""."""
    for old, name in _NORMED.items():
        if p is module._parameters.get(old):
            return name
    moved = module._modules.get("parametrizations")
    for chain in moved.children() if moved is not None else ():
        kinds = {type(step).__name__ for step in chain.children()}
        if p is getattr(chain, "original1", None) and "_WeightNorm" in kinds:
            return "weight_norm"
        if p is getattr(chain, "original", None) and "_SpectralNorm" in kinds:
            return "spectral_norm"
    return ""


def own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Name, module, name in the module, and parameter; a tied one comes once per module."""
    for prefix, module in model.named_modules():
        if isinstance(module, ParametrizationList) and hasattr(module, "original"):
            continue  # its host has it
        for local, p in local_parameters(module).items():
            yield (f"{prefix}.{local}" if prefix else local), module, local, p


def embeddings(model: nn.Module) -> set[int]:
    """The ids of the parameters that are embedding tables."""
    return {id(p) for _, module, _, p in own_parameters(model) if is_embedding(module)}


def transposed_parameters(model: nn.Module, layout: Layout) -> set[int]:
    """The ids of the parameters that modules or the layout declare as stored (fan_in, fan_out)."""
    found = {id(p) for name, _, _, p in own_parameters(model) if layout.get(name) == "in_out"}
    for _, module, local, p in own_parameters(model):
        stored = isinstance(module, TransposedConvolution) or is_conv1d(module)
        if local in WEIGHTS and (stored or is_embedding(module)):
            found.add(id(p))
    return found


def free_parameters(model: nn.Module, layout: Layout) -> set[int]:
    """The ids of the parameters whose use neither their module nor the layout tells.

    Such a parameter with a single width is taken for an input weight (a position, a class token),
    whichever of its dimensions the width is.
    """
    told = {id(p) for name, _, _, p in own_parameters(model) if name in layout}
    told |= {
        id(p)
        for _, module, _, p in own_parameters(model)
        if is_linear(module) or isinstance(module, _MATRICES)
    }
    return {id(p) for p in model.parameters()} - told


def default_std(module: nn.Module, local: str, shapes: Mapping[str, InfShape]) -> float:
    """How the std of PyTorch's default initialization depends on width, 1 at base width.

    Args:
        module, local: owner and name of the parameter.
        shapes: those of all the module's own parameters.
    """
    infshape = shapes[local]
    if isinstance(module, nn.Linear | Convolution) and local != "weight_g":  # of weight_norm
        # Biases too. Torch reads transposed convolutions, (in, out), as (out, in).
        width = next(shapes[name] for name in WEIGHTS if name in shapes)[1]
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        width = next(iter(shapes.values()))[0]  # all of them by the hidden size
    elif isinstance(module, nn.MultiheadAttention) and len(infshape) > 1:
        width = _xavier_fans(infshape)
    elif is_conv1d(module):
        return 1.0
    else:
        width = infshape.fanin_fanout()[0]
    return float(width.width_mult() ** -0.5)


def not_drawn(module: nn.Module, local: str, p: Tensor) -> Tensor | None:
    """Which entries of a bias are none of PyTorch's default draws; None if all may be.

    Linear layers and convolutions draw biases up to 1/sqrt(fan_in), recurrent layers up to
    1/sqrt(hidden size), and never a bias whose entries are all equal.
    """
    if p.ndim != 1 or local in WEIGHTS:
        return None
    if isinstance(module, nn.Linear | Convolution):
        weight = next(q for name, q in local_parameters(module).items() if name in WEIGHTS)
        width = math.prod(weight.shape[1:])
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        width = int(module.hidden_size)
    else:
        return None
    left = p.detach().abs() > (1 + 1e-6) / math.sqrt(width)
    if len(p) > 1 and bool((p == p[0]).all()):
        left = torch.ones_like(left)
    return left if bool(left.any()) else None


def _xavier_fans(infshape: InfShape) -> InfDim:
    """Fan-in + fan-out, as the initializers of `torch.nn.init.xavier_*` count them."""

    def fans(sizes: list[int]) -> int:
        return (sizes[0] + sizes[1]) * math.prod(sizes[2:])

    return InfDim(fans([d.base_dim or d.dim for d in infshape]), fans([d.dim for d in infshape]))
