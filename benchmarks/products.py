"""How fast the products of a step run, by the layout of their matrices, and whether bits differ.

    python benchmarks/products.py                 # about a minute

Each product of a layer with N rows, fan-in I and fan-out O, as torch computes it, and with the
weight stored transposed, (I, O). GFLOP/s in processor time with one thread and the products of this
machine, in turn; the median over rounds, and whether the transposed weight gives the same bits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from engine import ROOT

SHAPES = {
    "MLP, first layer": [(64, 3072, width) for width in (64, 256, 1024)],
    "MLP, second layer": [(64, width, width) for width in (64, 256, 1024)],
    "Transformer, attention": [(1024, width, width) for width in (64, 256)],
    "Transformer, readout": [(1024, width, 2000) for width in (64, 256)],
}
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
    head = ["layer", "N, I, O", "forward", "gradient of x", "gradient of W"]
    head += ["forward, W transposed", "same bits", "gradient of x, W transposed", "same bits"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for layer, shapes in SHAPES.items():
        for rows, fan_in, fan_out in shapes:
            torch.manual_seed(0)
            x, g = torch.randn(rows, fan_in), torch.randn(rows, fan_out)
            weight = torch.randn(fan_out, fan_in)
            transposed = weight.t().contiguous()
            calls = [
                lambda x=x, w=weight: x @ w.t(),
                lambda g=g, w=weight: g @ w,
                lambda g=g, x=x: g.t() @ x,
                lambda x=x, w=transposed: x @ w,
                lambda g=g, w=transposed: g @ w.t(),
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
            cells = [f"{statistics.median(found):.0f}" for found in rates]
            for first, other in ((0, 3), (1, 4)):
                same = torch.equal(calls[first](), calls[other]())
                cells.insert(len(cells) if other == 4 else other + 1, "yes" if same else "no")
            print(f"| {layer} | {rows}, {fan_in}, {fan_out} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
