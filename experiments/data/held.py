"""Data sets in a GPU's own memory, and what is sent there without waiting.

A processor that waits for each batch's copy leaves the GPU idle. So a data set is copied once for a
process, and its batches are gathered there; one that is too large stays in the machine's memory,
and its batches are sent from pinned memory. On a CPU nothing is copied.
"""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.messages import note

SHARE = 0.1  # of the GPU's free memory that one array may take
GB = 1e9
_HELD: dict[str, Tensor] = {}


def held(whole: Tensor, key: str, device: str | torch.device) -> Tensor:
    """An array on a device, copied there once for a process.

    Args:
        whole: of a data set, in the machine's memory.
        key: names its content, and stands for it.
        device: of the batches.

    Returns:
        `whole` itself on a CPU, and where it is more than `SHARE` of the memory that was free.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return whole
    if key not in _HELD:
        room = SHARE * free(device)
        if whole.nbytes > room:
            note(
                f"{whole.nbytes / GB:.1f} GB of data stay in the machine's memory: more than "
                f"{SHARE:.0%} of what the GPU has free"
            )
        _HELD[key] = whole if whole.nbytes > room else sent(whole, device)
    return _HELD[key]


def sent(tensor: Tensor, device: str | torch.device) -> Tensor:
    """A tensor on a device; on its way to a GPU the processor goes on."""
    device = torch.device(device)
    if device.type == "cpu":
        return tensor.to(device)  # who reads it must not do so before it is there
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def rows(whole: Tensor, key: str, index_B: Tensor, device: str | torch.device) -> Tensor:
    """Rows (B, ...) of an array on a device; arguments as of `held`."""
    array = held(whole, key, device)
    return sent(array.index_select(0, sent(index_B, array.device)), device)


def free(device: torch.device) -> int:
    """Bytes of a GPU's memory that are free."""
    return torch.cuda.mem_get_info(device)[0]
