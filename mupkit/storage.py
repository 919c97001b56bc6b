"""How PyTorch's modules store their weights, and how their default initialization scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from mupkit.infshape import InfShape

Init = Literal["torch", "constant"]
Layout = Mapping[str, Literal["out_in", "in_out"]]  # by parameter name
Convolution = nn.modules.conv._ConvNd
TransposedConvolution = nn.modules.conv._ConvTransposeNd


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear layer of transformers' GPT-2, whose weight is (fan_in, fan_out)."""
    return type(module).__name__.removeprefix("Parametrized") == "Conv1D" and hasattr(module, "nf")


def is_linear(module: nn.Module) -> bool:
    """Whether the module multiplies its first argument by its parameter `weight`."""
    return isinstance(module, nn.Linear | Convolution) or is_conv1d(module)


def is_embedding(module: nn.Module) -> bool:
    """Whether its parameter `weight` is a table with one row for each input."""
    return isinstance(module, nn.Embedding | nn.EmbeddingBag)


def local_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's own parameters by their name in it, also those that torch's parametrize moved."""
    found = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    for local, chain in getattr(module, "parametrizations", {}).items():
        if isinstance(original := getattr(chain, "original", None), nn.Parameter):
            found[local] = original
    return found


def own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Name, module, name in the module, and parameter; a tied one comes once for each module."""
    for prefix, module in model.named_modules():
        if isinstance(module, ParametrizationList) and hasattr(module, "original"):
            continue  # its host has it
        for local, p in local_parameters(module).items():
            yield (f"{prefix}.{local}" if prefix else local), module, local, p


def embeddings(model: nn.Module) -> set[int]:
    """The ids of the parameters that are embedding tables."""
    return {id(p) for _, module, _, p in own_parameters(model) if is_embedding(module)}


def transposed_parameters(model: nn.Module, layout: Layout) -> set[int]:
    """The ids of the parameters that are stored (fan_in, fan_out), as far as modules tell."""
    found = {id(p) for name, _, _, p in own_parameters(model) if layout.get(name) == "in_out"}
    for _, module, local, p in own_parameters(model):
        stored = isinstance(module, TransposedConvolution) or is_conv1d(module)
        if local == "weight" and (stored or is_embedding(module)):
            found.add(id(p))
    return found


def free_parameters(model: nn.Module, layout: Layout) -> set[int]:
    """The ids of the parameters of which no module and no layout tells how they are used.

    One with a single width is then taken for an input weight (a position, a class token), whichever
    of its dimensions that is.
    """
    told = {id(p) for name, _, _, p in own_parameters(model) if name in layout}
    told |= {id(p) for _, module, _, p in own_parameters(model) if is_linear(module)}
    return {id(p) for p in model.parameters()} - told


def default_std(module: nn.Module, local: str, weight: InfShape, infshape: InfShape) -> float:
    """How the std of PyTorch's default initialization depends on width, 1 at base width.

    Args:
        module, local: owner and name of the parameter.
        weight: shape of the module's `weight`, or of the parameter itself if there is none.
        infshape: shape of the parameter.
    """
    if isinstance(module, nn.Linear | Convolution):
        # Biases too. Torch reads transposed convolutions, (in, out), as (out, in).
        return float(weight[1].width_mult() ** -0.5)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return float(
            infshape.fanin_fanout()[1].width_mult() ** -0.5
        )  # all of them, by the hidden size
    if infshape.ninf() == 2 and not is_conv1d(module):
        return float(infshape.fanin_fanout()[0].width_mult() ** -0.5)
    return 1.0
