"""How a batch of CIFAR-10 becomes floats: what is done, beside what could be.

    python benchmarks/images.py                   # about a minute; takes 1.5 GB of memory

One process, one thread, processor time of a batch of 64 images in random order, in turn: median
[first, third quartile] of the rounds, whether the bits are those of what is done, and the memory or
the room in the cache that it would take. First the plain batches of the MLP, then cropped and
flipped ones, of the ResNets.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from engine import ROOT
from families import spread

BATCH, CALLS = 64, 40


def main() -> None:
    """Measure and print the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    sys.path.insert(0, str(ROOT))
    import numpy as np
    import torch
    from torch import Tensor

    from experiments.data.augment import apply, draw_crop_flip
    from experiments.data.images import load_images
    from experiments.families.resnet_cifar10.spec import PAD
    from experiments.train import process

    process.set_up()
    images = load_images("cifar10")
    floats = images.train.float().mul_(2 / 255).sub_(1)
    table = torch.arange(256).float().mul_(2 / 255).sub_(1)
    pairs = torch.arange(2**16)
    of_pairs = torch.stack([table[pairs % 256], table[pairs // 256]], 1).view(torch.float64)[:, 0]
    factor, minus_one = torch.tensor(2 / 255), torch.tensor(-1.0)
    generator = torch.Generator().manual_seed(0)
    size = images.train.shape[-1]

    def as_now(index: Tensor) -> Tensor:
        return images.batch(index).float().mul_(2 / 255).sub_(1)

    def from_table(index: Tensor) -> Tensor:
        return table.index_select(0, images.batch(index).flatten().int())

    def from_pairs(index: Tensor) -> Tensor:
        found = images.batch(index).flatten().view(torch.int16).int() & 0xFFFF
        return of_pairs.index_select(0, found).view(torch.float32)

    def fused(index: Tensor) -> Tensor:
        return torch.addcmul(minus_one, images.batch(index).float(), factor)

    def numpy(index: Tensor) -> Tensor:
        x = np.multiply(images.batch(index).numpy(), np.float32(2 / 255), dtype=np.float32)
        return torch.from_numpy(np.subtract(x, np.float32(1), out=x))

    def cropped(index: Tensor) -> Tensor:
        changes = draw_crop_flip(generator, len(index), size, PAD)
        return apply(images.batch(index), changes, images.mean, images.std)

    def cropped_floats(index: Tensor) -> Tensor:
        changes = draw_crop_flip(generator, len(index), size, PAD)
        return apply(floats.index_select(0, index), changes, images.mean, images.std)

    whole = f"{images.train.numel() * 4 / 2**20:.0f} MiB"
    variants: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
        "bytes, then three passes (ours)": (as_now, ""),
        "one array of floats": (lambda index: floats.index_select(0, index), whole),
        "one array of floats, `floats[index]` (stock)": (lambda index: floats[index], whole),
        "table of 256 floats": (from_table, ""),
        "table of 65,536 pairs": (from_pairs, "0.5 MiB"),
        "two passes, multiplied and added in one": (fused, ""),
        "NumPy, two passes": (numpy, ""),
        "cropped bytes (ours)": (cropped, ""),
        "cropped floats": (cropped_floats, whole),
    }
    order = torch.randperm(len(images.train), generator=generator).split(BATCH)[:-1]
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    turn = 0
    for _ in range(rounds):
        for name, (call, _) in variants.items():
            start = time.process_time()
            for i in range(CALLS):
                call(order[(turn + i) % len(order)])
            seconds[name].append((time.process_time() - start) / CALLS)
            turn += CALLS
    print("| batch | µs | same bits | takes |\n|---|---|---|---|")
    wanted = as_now(order[0]).flatten()
    for name, (call, room) in variants.items():
        same = "" if "cropped" in name else str(torch.equal(call(order[0]).flatten(), wanted))
        print(f"| {name} | {spread([1e6 * s for s in seconds[name]])} | {same} | {room} |")


if __name__ == "__main__":
    main()
