"""Kill -9 at random moments, resume, compare: nothing is lost, nothing is half, bits are the same.

    python benchmarks/kills.py                    # 100 kills, a few minutes on one core
    python benchmarks/kills.py --kills 5 --workflow-kills 0

In a copy of the checkout the runs of Fig. 1 at the scale smoke are trained on a small random text,
again and again. Most kills hit one process that trains a group (forked from a process that has
torch imported, so that the moments lie in the training and not in the imports), a third of these
while a file is being written; the other kills hit a whole workflow. After every kill each stored
run has to be whole. At the end of each round the tables have to be those of an undisturbed round,
byte for byte, and no temporary file may be left.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "workflow", "profiles", "mupkit", "experiments", "environment.yml")
SCALE, FIGURE = "smoke", "fig1"
TABLES = ("runs", "curves")


def copy_of_the_project(folder: Path, *scripts: Path) -> Path:
    """The checkout in a folder of its own, with some of the scripts of this folder."""
    project = folder / "project"
    project.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, project / part)
    (project / "benchmarks").mkdir()
    for script in scripts:
        shutil.copy(script, project / "benchmarks")
    return project


def write_text(folder: Path) -> None:
    """A random text laid out like WikiText-2."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    place = folder / "wikitext" / "wikitext-2-v1"
    place.mkdir(parents=True)
    for split, lines in (("train", 400), ("validation", 40), ("test", 40)):
        words = (rng.zipf(1.3, size=(lines, 25)) % 400).tolist()
        text = [" ".join(f"w{i}" for i in line) + " <unk>" for line in words]
        pq.write_table(pa.table({"text": text}), place / f"{split}-00000-of-00001.parquet")


class Round:
    """The copy's results: train, kill, look, compare."""

    def __init__(self, seed: int):
        from experiments.declare import data_sources, registry
        from experiments.runs import grouping, places
        from experiments.runs.store import Store

        self.product = registry.product(FIGURE)
        self.data = data_sources.resolve_all()
        self.groups, needed = grouping.groups(SCALE, self.data)
        self.todo = needed[FIGURE]
        self.runs = [run.id for group in self.todo for run in self.groups[group].runs]
        self.results = places.results_dir(SCALE)
        self.store = Store(self.results)
        self.random = random.Random(seed)
        self.seconds = 1.0
        self.expected: dict[str, bytes] = {}
        self.orphans = 0

    def train(self) -> None:
        """What the jobs of a workflow do, in this process."""
        from experiments.cli import train

        for group in self.todo:
            done = self.results / "groups" / f"{group}.done"
            train.train(group, [FIGURE], SCALE, done=done)

    def forked(self) -> int:
        """A process of its own that trains; its id."""
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setsid()
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                self.train()
                code = 0
            finally:
                os._exit(code)
        return child

    def undisturbed(self) -> None:
        """Train once without a kill: what every other round is held against."""
        start = time.perf_counter()
        _, status = os.waitpid(self.forked(), 0)
        assert status == 0, status
        self.seconds = time.perf_counter() - start
        self.expected = self.tables()
        shutil.rmtree(self.results)

    def tables(self) -> dict[str, bytes]:
        """The collected tables; they are made anew."""
        from experiments.products import collect

        collect.collect(self.product, SCALE, self.data[self.product.exhibit])
        folder = self.results / FIGURE
        return {name: (folder / f"{name}.parquet").read_bytes() for name in TABLES}

    def kill_once(self) -> str | None:
        """Train and kill: where the kill hit, or None if the training ended before."""
        before = set(self.temporaries())
        from experiments.train import checkpoint

        # After every step, as far as their share of the time allows; or none at all.
        checkpoint.SECONDS = self.random.choice((0.0, 60.0))
        child, start = self.forked(), time.perf_counter()
        at_write = self.random.random() < 1 / 3
        moment = self.random.random() * self.seconds * (0.5 if at_write else 1.0)
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert status == 0, status
                return None
            late = time.perf_counter() - start >= moment
            writing = late and set(self.temporaries()) - before
            if late and (writing or not at_write):
                break
            time.sleep(0.0002)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.check_stored()
        return "a write" if set(self.temporaries()) - before else "elsewhere"

    def kill_workflow(self) -> str | None:
        """The same with a whole workflow."""
        command = [sys.executable, "-m", "snakemake", FIGURE, "--cores", "1"]
        running = subprocess.Popen(
            [*command, "--config", f"scale={SCALE}"], start_new_session=True, stderr=-3, stdout=-3
        )
        moment = self.random.uniform(1.0, 10.0 + self.seconds)
        try:
            assert running.wait(moment) == 0
            return None
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            time.sleep(0.3)
        self.check_stored()
        return "a workflow"

    def temporaries(self) -> list[Path]:
        """Temporary files anywhere in the results."""
        from experiments.files import temporaries

        folders = [self.results, *(p for p in self.results.glob("*") if p.is_dir())]
        return [path for folder in folders for path in temporaries(folder)]

    def check_stored(self) -> None:
        """Each run is whole or not there."""
        states = Counter(self.store.look(run).state for run in self.runs)
        assert states.keys() <= {"done", "missing"}, states

    def finish(self) -> None:
        """Resume without a kill; compare, and look for what is left."""
        _, status = os.waitpid(self.forked(), 0)
        assert status == 0, status
        assert self.tables() == self.expected, "other bytes than an undisturbed round"
        # A kill right after a run was stored leaves its lock file and checkpoint to the doctor.
        self.orphans += len([*self.results.glob("checkpoints/*"), *self.results.glob("locks/*")])
        assert not self.temporaries(), self.temporaries()
        shutil.rmtree(self.results)
        shutil.rmtree("figures", ignore_errors=True)


def inside(kills: int, workflow_kills: int, seed: int) -> None:
    """What runs in the copy."""
    sys.path.insert(0, str(Path.cwd()))
    import torch

    from experiments.analysis import transfer  # noqa: F401
    from experiments.families.transformer_wikitext2 import task  # noqa: F401

    torch.set_num_threads(1)
    one, counts, rounds = Round(seed), Counter[str](), 0
    one.undisturbed()
    print(f"undisturbed: {len(one.runs)} runs in {one.seconds:.1f} s", flush=True)
    for kind, total in ((one.kill_once, kills), (one.kill_workflow, workflow_kills)):
        done = 0
        while done < total:
            where = kind()
            if where:
                done += 1
                counts[where] += 1
            if where is None or done == total:
                one.finish()
                rounds += 1
    hits = ", ".join(f"{n} hit {where}" for where, n in counts.items())
    print(f"{sum(counts.values())} kills ({hits}); {rounds} rounds compared: no difference")
    print(f"{one.orphans} lock files and checkpoints of finished runs left for the doctor")


def main() -> None:
    """Make the copy and run in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=90, help="of a process that trains a group")
    parser.add_argument("--workflow-kills", type=int, default=10, help="of a whole workflow")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.kills, options.workflow_kills, options.seed)
        return
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        project = copy_of_the_project(folder, Path(__file__))
        write_text(folder / "data")
        env = {k: v for k, v in os.environ.items() if not k.startswith("MUPKIT")}
        env |= {"MUPKIT_DATA": str(folder / "data"), "MUPKIT_CACHE": str(folder / "cache")}
        env["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "benchmarks/kills.py", "--inside", *sys.argv[1:]]
        sys.exit(subprocess.run(command, cwd=project, env=env).returncode)


if __name__ == "__main__":
    main()
