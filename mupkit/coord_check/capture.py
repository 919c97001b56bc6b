"""Every activation of one forward pass, attention logits included; the model stays as it was.

Module outputs come from forward hooks. Attention logits are seldom a module's output, so they are
taken from the input of softmax: below Python, from the operators in which every form of softmax and
of `scaled_dot_product_attention` ends, so that each counts once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Loss = Callable[[Any], Tensor]
OUTPUT = "(output)"
_SOFTMAX = ("aten::_softmax", "aten::_safe_softmax")
_FUSED = "aten::_scaled_dot_product"


def capture(
    model: nn.Module, loss: Loss, seed: int = 0, sources: dict[str, float] | None = None
) -> dict[str, Tensor]:
    """The activations of the forward pass in `loss(model)`, by name, as float64 copies.

    A module's output has the module's path as its name, the model's own has `OUTPUT`; the input of
    softmax inside a module has the path and ".softmax". Tensors in a tuple or a dictionary get
    their index or key in brackets, a second call of the same module gets "#2". Only floating-point
    tensors are kept.

    Args:
        model: stays as it was, including its buffers (running statistics) and its mode.
        loss: calls `model` on a batch that is always the same.
        seed: for what is random in the pass, such as dropout; the generators' states are restored.
        sources: gets the root mean square of the largest tensor that each module was called with,
            by the name of its output.
    """
    found: dict[str, Tensor] = {}
    path: list[str] = []

    def keep(name: str, x: Any, inputs: Iterable[Any] = ()) -> None:
        if isinstance(x, Tensor) and x.is_floating_point():
            calls = 1
            unique = name
            while unique in found:
                calls += 1
                unique = f"{name}#{calls}"
            found[unique] = x.detach().to(torch.float64, copy=True)
            if sources is not None and (sizes := list(_sizes(inputs))):
                sources[unique] = max(sizes)

    def keep_softmax(x: Tensor) -> None:
        if path:
            keep(".".join(filter(None, (path[-1], "softmax"))), x)

    with ExitStack() as stack:
        stack.enter_context(_undisturbed(model, seed))
        for name, module in model.named_modules():
            if "parametrizations" in name.split("."):
                continue  # these compute weights, not activations
            enter, leave = _hooks(name, path, keep)
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(_Softmax(keep_softmax))
        loss(model)
    return found


def _hooks(
    name: str, path: list[str], keep: Callable[[str, Any, Iterable[Any]], None]
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Hooks that keep track of `path`, the modules being called, and keep the module's output."""

    def enter(module: nn.Module, args: Any) -> None:
        path.append(name)

    def leave(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        path.pop()
        label, inputs = name or OUTPUT, [*args, *kwargs.values()]
        if isinstance(output, Mapping):
            for key, x in output.items():
                keep(f"{label}[{key}]", x, inputs)
        elif isinstance(output, Sequence):
            for i, x in enumerate(output):
                keep(f"{label}[{i}]", x, inputs)
        else:
            keep(label, output, inputs)

    return enter, leave


def _sizes(inputs: Iterable[Any]) -> Iterator[float]:
    for x in inputs:
        if isinstance(x, Tensor) and x.is_floating_point() and x.numel():
            yield float(x.detach().double().norm()) / math.sqrt(x.numel())


@contextmanager
def _undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """Restore buffers, random generators and settings; every pass draws the same numbers."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = {p.device.index for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices=sorted(d for d in devices if d is not None)):
        torch.manual_seed(seed)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it would skip the modules inside
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


class _Softmax(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls `see` with the input of each softmax."""

    def __init__(self, see: Callable[[Tensor], None]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.see = see

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = func._schema.name
        if operator in _SOFTMAX:
            self.see(args[0])
        elif operator.startswith(_FUSED) and "backward" not in operator:
            names = [argument.name for argument in func._schema.arguments]
            self.see(fused_logits(**{**dict(zip(names, args, strict=False)), **kwargs}))
        return func(*args, **kwargs)


def fused_logits(
    query: Tensor,
    key: Tensor,
    *,
    is_causal: bool = False,
    attn_mask: Tensor | None = None,
    attn_bias: Tensor | None = None,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """The logits that fused attention never stores: scale * q kᵀ + mask, -inf where masked.

    Args:
        query: (..., heads, L, d_head).
        key: (..., key heads, S, d_head); if there are fewer key heads, each serves several heads.
        is_causal: each query sees the keys up to its own position.
        attn_mask, attn_bias: broadcast to (..., heads, L, S), and added; a boolean mask is True
            where a query sees a key.
        scale: 1/sqrt(d_head) if None.
    """
    if key.shape[-3] != query.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    logits = (1 / math.sqrt(query.shape[-1]) if scale is None else scale) * query @ key.mT
    mask = attn_bias if attn_mask is None else attn_mask
    if is_causal:
        future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(future, -math.inf)
    if mask is None:
        return logits
    return logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
