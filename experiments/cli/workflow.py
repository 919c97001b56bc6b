"""What the Snakefile asks beside the rules: its options, its targets, and what it says at its end.

Neither torch nor pandas is imported until the workflow ends.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock

from experiments.analysis.verdicts import damage, read
from experiments.cli.options import check_stack, stack_size
from experiments.declare import registry
from experiments.declare.family import Family
from experiments.declare.scales import Scale, check_scale
from experiments.errors import UserError, unknown
from experiments.files import irregular, read_regular, take_lock
from experiments.messages import duration, note
from experiments.products.tidy_tables import claims_file
from experiments.runs import stopping, tuning
from experiments.runs.places import figures_dir, results_dir
from experiments.runs.planning import known as known_times
from experiments.runs.planning import known_best, left
from experiments.runs.store import Store
from experiments.runs.training import missing

OPTIONS = ("scale", "data", "data_dir", "stack")
CLOCK_SKEW = 60.0  # seconds that the clock of a file server may be ahead
SECONDS_BETWEEN_LINES = 30.0  # on the runs of a cluster's jobs
NUMBERED = re.compile(r"(fig|table)[0-9]+")


@dataclass(frozen=True)
class Options:
    """What `--config` says.

    Attributes:
        scale: of the runs.
        data: requested data source, or None.
        data_dir: what stands for `MUPKIT_DATA`, or None.
        stack: how many runs of one shape are trained together at most, or "auto".
    """

    scale: Scale
    data: str | None
    data_dir: Path | None
    stack: str


def options(config: Mapping[str, Any]) -> Options:
    """What `--config` says, as Snakemake hands it on.

    Raises:
        UserError: an unknown key, or a value that is no text or no scale.
    """
    for key, value in config.items():
        if key not in OPTIONS:
            raise unknown(f"key of --config in {key}={value}:", key, OPTIONS)
    data_dir = _text(config, "data_dir")
    return Options(
        scale=check_scale(_text(config, "scale") or "small"),
        data=_text(config, "data"),
        data_dir=None if data_dir is None else _folder(data_dir),
        stack=check_stack(str(config.get("stack", "1"))),
    )


def _text(config: Mapping[str, Any], key: str) -> str | None:
    """A value of `--config`; Snakemake reads some words as numbers, truth values or lists."""
    if key not in config:
        return None
    value = config[key]
    if value is None or value == "":
        raise UserError(f"--config {key}= has no value; write {key}=VALUE or leave it out")
    if not isinstance(value, str):
        fix = f"write {key}=./NAME" if key == "data_dir" else "it has to be a name"
        raise UserError(
            f"--config {key}={value}: Snakemake reads the value as {type(value).__name__}, not as "
            f"text; {fix}"
        )
    return value


def _folder(given: str) -> Path:
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError:
        raise UserError(
            f"--config data_dir={given}: no home folder for {given.split('/')[0]!r}; write the "
            "whole path"
        ) from None


def prepare_jobs(chosen: Options, home: Path) -> None:
    """Set what this process and its jobs find in their environment.

    Args:
        chosen: a `data_dir` stands for `MUPKIT_DATA`.
        home: the checkout, which jobs find also where Python (`PYTHONSAFEPATH`) does not look for
            modules in the working directory.
    """
    if chosen.data_dir is not None:
        os.environ["MUPKIT_DATA"] = str(chosen.data_dir)
    given = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(home), given)))


def check_folder(home: Path) -> None:
    """Refuse to work elsewhere: code and results are beside the Snakefile.

    Raises:
        UserError: if the working directory is not `home`, or if Snakemake takes a part of its name
            for a wildcard.
    """
    if {*"{}"} & {*str(home)}:
        raise UserError(
            f"Snakemake cannot work in {home}: it takes what is in braces for a wildcard; move the "
            "checkout to a folder without { and } in its name"
        )
    if Path.cwd().resolve() != home.resolve():
        raise UserError(
            f"the workflow works in {home}, not in {Path.cwd()}; `cd {home}` first, without "
            "--directory"
        )


def check_dates(files: Iterable[Path], now: float) -> None:
    """Refuse files dated in the future: what is made of them stays older than they are.

    Args:
        files: that the targets are made of, or made; those that are not there are left out.
        now: seconds since 1970.

    Raises:
        UserError: naming the first of them.
    """
    dates = {}
    for file in files:
        with suppress(OSError):
            dates[file] = file.stat().st_mtime
    late = sorted(file for file, date in dates.items() if date > now + CLOCK_SKEW)
    if late:
        date = datetime.fromtimestamp(dates[late[0]]).isoformat(" ", "minutes")
        more = f" and {len(late) - 1} more are" if len(late) > 1 else " is"
        raise UserError(
            f"{late[0]}{more} dated in the future ({date}), so that Snakemake cannot tell what is "
            "newer; set the clock, or give them today's date: `find experiments mupkit results "
            "figures -newermt now -exec touch {} +`"
        )


def check_targets(targets: Iterable[str], known: Iterable[str]) -> None:
    """Refuse what no rule makes, before Snakemake does with a name of its own for it.

    Args:
        targets: what was asked for.
        known: names of rules, and files that they make.

    Raises:
        UserError: it names the nearest target that there is.
    """
    known = {*known}
    for target in targets:
        path = target.removeprefix("./")
        if path in known or Path(target).exists():
            continue
        near = difflib.get_close_matches(path, sorted(known), n=1)
        if NUMBERED.fullmatch(target):
            kind = "figure" if target.startswith("fig") else "table"
            what = f"{target} is not there: the paper has no such {kind}, or it is not made yet"
        else:
            what = f"unknown target {target!r}"
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{what}{hint} (`python -m experiments list` lists all)")


def check_markers(paths: Iterable[Path]) -> None:
    """Refuse what is no regular file where Snakemake would take it for the marker of a group.

    Raises:
        UserError: it names the first.
    """
    for path in paths:
        if os.path.lexists(path) and (kind := irregular(path)):
            raise UserError(f"{path}: {kind} where the marker of a group belongs; move it away")


def check_groups(asked: Iterable[str], known: Iterable[str], data: Mapping[str, str]) -> None:
    """Refuse groups that this process does not find in the declarations, in a job of a cluster.

    Args:
        asked: ids of groups that the job trains.
        known: ids of all groups here.
        data: data source by exhibit here.

    Raises:
        UserError: it says which data this node finds.
    """
    lost = sorted({*asked} - {*known})
    if lost:
        found = ", ".join(sorted({*data.values()} - {""})) or "none"
        raise UserError(
            f"group {lost[0]} is none of this node's, which finds other data than the workflow "
            f"({found}), or other code; set MUPKIT_DATA to a folder that all nodes see, or "
            "HF_HUB_OFFLINE=1"
        )


def number_in(marker: Path) -> int | None:
    """The number at the end of a file that a job wrote it to; None if there is no file.

    0 if it ends otherwise: a job that was killed wrote no number.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        words = read_regular(marker).decode(errors="replace").split()
    except FileNotFoundError:
        return None
    return int(words[-1]) if words and re.fullmatch("[0-9]{1,9}", words[-1]) else 0


class Workflow:
    """A workflow that trains: one at a time in a results folder, and signals end it soon.

    A signal lets the jobs end after the runs that they are training. Ctrl-C in a terminal reaches
    the jobs themselves, which end at once. Jobs of a cluster are cancelled by any signal: some may
    still wait in its queue.

    Args:
        folder: of the results. The lock dies with its process, so nobody ever has to unlock it.
    """

    def __init__(self, folder: Path):
        self.cluster = False
        self.lock = FileLock(folder / ".workflow.lock")
        self.folder = folder
        self.goes_on: Path | None = None
        self.watch: Watch | None = None
        self.stopped = False
        self._before: dict[int, Any] = {}

    def start(self, cluster: bool = False) -> None:
        """Wait for another workflow to end, then take its place.

        Args:
            cluster: whether its jobs are those of a cluster.

        Raises:
            UserError: if the folder cannot be written.
            Interrupted: by a signal while it waits.
        """
        self.cluster = cluster
        self._before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
        stopping.heed_signals()
        take_lock(self.lock, f"another workflow runs in {self.folder}")
        self.goes_on = stopping.goes_on(self.folder)
        for number, before in self._before.items():
            if before != signal.SIG_IGN:
                signal.signal(number, self._stop)

    def follow(self, watch: Watch) -> None:
        """Let something look for runs until the end."""
        self.watch = watch
        watch.start()

    def end(self) -> None:
        """Say that no job is needed any more."""
        if self.watch is not None and not self.stopped:
            self.watch.end()
        if self.goes_on is not None:
            with suppress(OSError):
                self.goes_on.unlink(missing_ok=True)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        self.end()
        ending = b"at most the runs that are being trained end first"
        if self.cluster:
            ending = b"the jobs are cancelled, which may take a few minutes"
        with suppress(OSError):
            os.write(2, b"stopping: " + ending + b"\n")
        # A closed terminal is treated as a wish to end: Snakemake itself knows the other two.
        handler = self._before[signal.SIGTERM if number == signal.SIGHUP else number]
        if self.cluster:
            handler = signal.default_int_handler
        if callable(handler):
            handler(number, frame)

    def quiet(self, record: logging.LogRecord) -> bool:
        """Which of Snakemake's log records people see while it runs: no news, no stopped jobs."""
        return bool(record.levelno > logging.INFO) and not self.stopped


class Watch:
    """Lines such as "fig1: 37 of 128 runs" while jobs of a cluster train, which nobody sees.

    Args:
        name: what is made.
        runs: ids of all that it needs.
        store: where they will be.
        to_follow: how many runs will follow from these, an estimate.
    """

    def __init__(self, name: str, runs: Iterable[str], store: Store, to_follow: int = 0):
        self.name, self.store, self.to_follow = name, store, to_follow
        self.left = {*runs}
        self.count = len(self.left)
        self.said = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def end(self) -> None:
        """Look for the last time."""
        self._ended.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        """Write a line if there are more runs than before."""
        self.left = {run for run in self.left if not self.store.looks_finished(run)}
        done = self.count - len(self.left)
        if done > self.said:
            follow = f", and {self.to_follow} that follow" if self.to_follow else ""
            note(f"{self.name}: {done} of {self.count} runs{follow}")
        self.said = done

    def _go_on(self) -> None:
        pause = SECONDS_BETWEEN_LINES
        while not self._ended.wait(pause):
            start = time.monotonic()
            self.look()
            # A file server has better things to do than to look for many runs all the time.
            pause = max(SECONDS_BETWEEN_LINES, 20 * (time.monotonic() - start))


def watch(names: Sequence[str], scale: Scale, data: Mapping[str, str]) -> Watch:
    """What looks for the runs of these figures and tables, which may share some."""
    found = [registry.product(name) for name in names]
    runs = {run.id for p in found if p.exhibit in data for run in p.runs(scale, data[p.exhibit])}
    name = names[0] if len(names) == 1 else f"{len(names)} figures and tables"
    store, to_follow = Store(results_dir(scale)), 0
    if any(product.follow_up for product in found):
        from experiments.products.following import expected_of

        to_follow = len(missing(expected_of(names, scale, data, store), store))
    return Watch(name, runs, store, to_follow)


def to_train(
    names: Sequence[str], scale: Scale, data: Mapping[str, str], cores: int, stack: str = "1"
) -> list[str]:
    """How many runs each product lacks, and how long they take; a line each, and searches not made.

    Args:
        names: figures and tables; those that train nothing are left out.
        scale: of their runs.
        data: data source by exhibit; products of an exhibit without one are left out.
        cores: that train at once.
        stack: how many runs are trained together at most, or "auto"; where that was not timed, the
            line says so.
    """
    lines, store, size = [], Store(results_dir(scale)), stack_size(stack)
    speed = known_times(cores, size)
    for name in names:
        product = registry.product(name)
        if not product.sweeps or product.exhibit not in data:
            continue
        runs, more = product.runs(scale, data[product.exhibit]), []
        if product.follow_up:
            from experiments.products.following import expected

            more = expected(product, scale, data[product.exhibit], store)
        lacks = left(runs, store, speed, cores, more)
        again = f"`python -m experiments plan {name}{'' if size == 1 else f' --stack {stack}'}`"
        untimed = "" if lacks.timed else f" ({again} times it)"
        if size != 1 and not lacks.timed:
            lacks = left(runs, store, known_best(cores, size), cores, more)
            untimed = f" without stacks ({again} counts them)"
        text = f"{name}: {_counted(lacks.to_train)} to train"
        if lacks.to_follow:
            text += f", and {_counted(lacks.to_follow)} that follow"
        if lacks.to_train or lacks.to_follow:
            text += f", about {duration(lacks.seconds)}{untimed}"
        lines.append(text)
    exhibits = dict.fromkeys(registry.product(name).exhibit for name in names)
    for exhibit in map(registry.exhibit, exhibits):
        if isinstance(exhibit, Family) and exhibit.name in data and tuning.lacks(exhibit, scale):
            lines.append(tuning.unsearched(exhibit, scale))
    return lines


def _counted(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def damaged_claims(names: Iterable[str], scale: Scale) -> dict[str, str]:
    """What is wrong with verdicts that are there, by product; Snakemake sees their dates alone."""
    found = {name: damage(claims_file(registry.product(name), scale)) for name in names}
    return {name: wrong for name, wrong in found.items() if wrong}


def made(names: Iterable[str], scale: Scale) -> list[str]:
    """Where each product is and what came of its claims; a line each."""
    lines = []
    for name in names:
        product = registry.product(name)
        path = figures_dir(scale) / f"{name}.{product.suffixes[0]}"
        try:
            verdicts = read(claims_file(product, scale))
            holds = sum(verdict.verdict == "holds" for verdict in verdicts)
            told = f"; {holds} of {len(verdicts)} claims hold" if verdicts else ""
        except UserError as error:
            told = f"; {error}"
        lines.append(f"{name}: {path}{told}")
    return lines


def kept(names: Iterable[str], scale: Scale, data: Mapping[str, str]) -> str:
    """What a workflow that was stopped says: how many runs are there, and how to go on."""
    store = Store(results_dir(scale))
    runs = {
        run.id: run
        for product in map(registry.product, names)
        if product.exhibit in data
        for run in product.runs(scale, data[product.exhibit])
    }
    lost = len(missing(runs.values(), store))
    return (
        f"stopped: {len(runs) - lost} of {len(runs)} runs are kept; the same command goes on with "
        "the rest"
    )
