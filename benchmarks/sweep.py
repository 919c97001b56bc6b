"""The whole Fig. 1 sweep: what the workflow adds to the training, and stock PyTorch beside it.

    python benchmarks/sweep.py                    # about a quarter of an hour on two cores

`snakemake fig1` at the scale small, Snakemake, store and pictures included, in this checkout, which
must have no runs yet (use a fresh clone). Before and after it stock PyTorch (as in `engine.py`)
does steps of every width, one thread per process on every core or all threads in one, whichever is
faster. The time that the same sweep would take it is the number of trained steps times its step,
with nothing added for its start, its data or its results.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import engine

SCALE, FIGURE = "small", "fig1"


def stock_steps(widths: list[int]) -> dict[int, float]:
    """Seconds of a stock step on the whole machine by width, of its better variant."""
    variants = ("stock, one thread", "stock, all threads")
    return {w: min(engine.measure(v, w)["seconds"] for v in variants) for w in widths}


def main() -> None:
    """Run both and print what was measured."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    sys.path.insert(0, str(engine.ROOT))
    import pandas as pd

    from experiments.declare import data_sources, registry
    from experiments.runs import places

    folder = places.results_dir(SCALE)
    if (folder / "runs").exists():
        sys.exit(f"{folder} holds runs; run this in a fresh clone")
    product = registry.product(FIGURE)
    runs = product.runs(SCALE, data_sources.resolve_all()[product.exhibit])
    widths = sorted({run.width for run in runs})
    before = stock_steps(widths)
    command = (sys.executable, "-m", "snakemake", FIGURE, "--config", f"scale={SCALE}")
    start = time.perf_counter()
    subprocess.run(command, cwd=engine.ROOT, check=True, env=os.environ)
    wall = time.perf_counter() - start
    tables = folder / FIGURE
    training = pd.read_parquet(tables / "provenance.parquet")["seconds"].sum()
    steps = pd.read_parquet(tables / "curves.parquet").groupby("id").size()
    by_width = pd.read_parquet(tables / "runs.parquet").set_index("id")["width"]
    after = stock_steps(widths)
    done = steps.groupby(by_width).sum()
    stock = [sum(done[w] * times[w] for w in widths) for times in (before, after)]
    print(f"ours: {wall:.0f} s for {len(runs)} runs, {done.sum()} steps on {engine.CORES} cores")
    print(f"of which training {training / engine.CORES:.0f} s a core, so workflow and store add")
    print(f"{wall * engine.CORES / training - 1:.1%} of it")
    print(f"stock: {stock[0]:.0f} s before, {stock[1]:.0f} s after, for the steps alone;")
    print(f"our throughput is {statistics.mean(stock) / wall:.2f} times that")


if __name__ == "__main__":
    main()
