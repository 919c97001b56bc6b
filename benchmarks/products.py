"""How fast the products of a step run, by the layout of their matrices, and whether bits differ.

    python benchmarks/products.py                 # about two minutes

Each product of a layer with N rows, fan-in I and fan-out O: as torch computes it; with the weight
stored transposed, (I, O); and turned, (B^T A^T)^T for A B, with the copy that brings the result
into torch's layout. GFLOP/s in processor time with one thread and the products of this machine, in
turn; the median over rounds. A star says that the bits are not torch's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from engine import ROOT

SHAPES = {
    "MLP, first layer": [(64, 3072, width) for width in (64, 256, 1024)],
    "MLP, second layer": [(64, width, width) for width in (64, 256, 1024)],
    "Transformer, attention": [(1024, width, width) for width in (64, 256)],
    "Transformer, readout": [(1024, width, 2000) for width in (32, 64, 128, 256)],
}
PRODUCTS = [
    "forward",
    "forward, W transposed",
    "forward, turned",
    "gradient of x",
    "gradient of x, W transposed",
    "gradient of W",
    "gradient of W, turned",
]
GFLOP = 0.1  # of a turn, at least


def main() -> None:
    """Measure and print the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    sys.path.insert(0, str(ROOT))
    import torch

    from experiments.train import process

    process.set_up()
    print(f"| layer | N, I, O | {' | '.join(PRODUCTS)} |\n|{'---|' * (2 + len(PRODUCTS))}")
    for layer, shapes in SHAPES.items():
        for rows, fan_in, fan_out in shapes:
            torch.manual_seed(0)
            x, g = torch.randn(rows, fan_in), torch.randn(rows, fan_out)
            weight = torch.randn(fan_out, fan_in)
            transposed = weight.t().contiguous()
            calls: list[Callable[[], torch.Tensor]] = [
                lambda x=x, w=weight: x @ w.t(),
                lambda x=x, w=transposed: x @ w,
                lambda x=x, w=weight: (w @ x.t()).t().contiguous(),
                lambda g=g, w=weight: g @ w,
                lambda g=g, w=transposed: g @ w.t(),
                lambda g=g, x=x: g.t() @ x,
                lambda g=g, x=x: (x.t() @ g).t().contiguous(),
            ]
            gflop = 2e-9 * rows * fan_in * fan_out
            repeats = max(1, round(GFLOP / gflop))
            rates: list[list[float]] = [[] for _ in calls]
            for _ in range(rounds):
                for call, found in zip(calls, rates, strict=True):
                    start = time.process_time()
                    for _ in range(repeats):
                        call()
                    found.append(gflop * repeats / (time.process_time() - start))
            cells = []
            for (name, call), found in zip(zip(PRODUCTS, calls, strict=True), rates, strict=True):
                plain = calls[PRODUCTS.index(name.split(",")[0])]
                star = "" if torch.equal(call(), plain()) else "*"
                cells.append(f"{statistics.median(found):.0f}{star}")
            print(f"| {layer} | {rows}, {fan_in}, {fan_out} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
