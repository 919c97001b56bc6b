"""Which check notices which planted bug: the matrix, measured."""

from __future__ import annotations

import io
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from types import ModuleType
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer

from experiments.families.kill_matrix.bugs import BASE, Case, adam, cases
from experiments.messages import note
from mupkit.__main__ import OK, UNDECIDED, WRONG, main
from mupkit.coord_check import capture, wider_is_better
from mupkit.coord_check.record import train_step

MODULE = "planted"
KINDS = {"activation": ("activation",), "change": ("change",), "update": ("update", "clipping")}
MUP_RATIO = 1.25
"""In the `mup` package's check a reader looks at curves of mean |x| over widths. Read here as: at
the last step no tensor grows by more than this from the narrowest to the widest model, and none
whose width grows shrinks by more. (With a small rate a right model reaches 1.16.)"""


def measure(settings: Mapping[str, Any], data: str | None) -> pd.DataFrame:
    """One row a (case, check): whether the check found something, and what it found first.

    Args:
        settings: options of `python -m mupkit check`; seeds and steps of the checks of `wider`
            models and of `mup`; and, to be quick, the `names` of the cases.
        data: unused; the models have their own random batch.
    """
    rows = []
    for case in cases():
        if settings.get("names") and case.name not in settings["names"]:
            continue
        note(f"kill matrix: {case.name}")
        for check, (caught, detail) in _checks(case, settings).items():
            rows.append(
                {
                    "case": case.name,
                    "what": case.what,
                    "right": case.right,
                    "check": check,
                    "caught": caught,
                    "detail": detail,
                }
            )
    return pd.DataFrame(rows)


def _checks(case: Case, settings: Mapping[str, Any]) -> dict[str, tuple[bool, str]]:
    seeds = range(settings["seeds"])
    with _importable(case):
        explained = _explain(case)
        tensors = _command("check", *_check_arguments(case), *settings["check"])["tensors"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wider = wider_is_better(
            case.build,
            case.kind.widths,
            make_optimizer=lambda model: case.make_optimizer(model, case.lr / 2),
            loss=case.kind.loss,
            steps=settings["wider_steps"],
            seeds=seeds,
        )
        mup_check = _mup(case, settings["mup_steps"], seeds)
    first = next(iter(wider.failures), None)
    worse = "" if first is None else f"width {first.wide} is worse than {first.narrow}"
    return {
        "explain": explained,
        **{check: _judged(tensors, *kinds) for check, kinds in KINDS.items()},
        "wider": (not wider.passed, worse),
        "mup": mup_check,
    }


@contextmanager
def _importable(case: Case) -> Iterator[None]:
    """The case as a user's module, from which the commands import it by name."""
    module = ModuleType(MODULE)
    vars(module).update(
        build=case.build,
        loss=case.kind.loss,
        optimizer=partial(_call, case.make_optimizer, case.lr),
        adam=partial(_call, adam, case.lr),
        schedule=case.scheduler,
    )
    sys.modules[MODULE] = module
    try:
        yield
    finally:
        del sys.modules[MODULE]


def _call(make: Callable[[nn.Module, float], Optimizer], lr: float, model: nn.Module) -> Optimizer:
    return make(model, lr)


def _command(*arguments: str) -> Any:
    """What `python -m mupkit` prints as JSON."""
    printed = io.StringIO()
    with redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = main([*arguments, "--json"])
    if status not in (OK, WRONG, UNDECIDED):
        raise RuntimeError(f"python -m mupkit {' '.join(arguments)} ended with {status}")
    return json.loads(printed.getvalue())


def _check_arguments(case: Case) -> list[str]:
    widths = ",".join(map(str, case.kind.widths))
    names = [f"{MODULE}:build", "--loss", f"{MODULE}:loss", "--optimizer", f"{MODULE}:optimizer"]
    return [*names, "--base", f"width={BASE}", "--widths", f"width={widths}"]


def _judged(tensors: Sequence[Mapping[str, Any]], *kinds: str) -> tuple[bool, str]:
    """Whether a tensor of these kinds fails, and which; else one that is undecided."""
    for judgement in ("fails", "undecided"):
        for t in tensors:  # the farthest from theory first
            if t["kind"] in kinds and t["judgement"] == judgement:
                exponent = "" if t["exponent"] is None else f" {t['exponent']:+.2f}"
                return judgement == "fails", f"{t['tensor']}{exponent}"
    return False, ""


def _explain(case: Case) -> tuple[bool, str]:
    """What `python -m mupkit explain` warns of first."""
    sizes = ["--base", f"width={BASE}", "--target", f"width={4 * BASE}"]
    arguments = [f"{MODULE}:build", *sizes, "--loss", f"{MODULE}:loss"]
    if case.scheduler is None:
        arguments += ["--optimizer", f"{MODULE}:optimizer"]
    else:
        arguments += ["--optimizer", f"{MODULE}:adam", "--scheduler", f"{MODULE}:schedule"]
    found = _command("explain", *arguments)["findings"]
    alarms = [f["where"] for f in found if f["level"] == "warning"]
    return bool(alarms), alarms[0] if alarms else ""


def _mup(case: Case, steps: int, seeds: range) -> tuple[bool, str]:
    """The check of the `mup` package, at widths 128 and 512 and a small rate."""
    sizes: dict[int, dict[str, float]] = {}
    shapes: dict[str, set[tuple[int, ...]]] = {}
    narrow, wide = 128, 512
    for width in (narrow, wide):
        total: dict[str, float] = {}
        for seed in seeds:
            torch.manual_seed(seed)
            model = case.build(width)
            optimizer = case.make_optimizer(model, case.mup_lr)
            for _ in range(steps):
                train_step(model, optimizer, case.kind.loss)
            for name, x in capture(model, case.kind.loss, seed).items():
                total[name] = total.get(name, 0.0) + float(x.abs().mean())
                shapes.setdefault(name, set()).add(tuple(x.shape))
        sizes[width] = total
    for name in sizes[wide]:
        ratio = sizes[wide][name] / sizes[narrow][name] if sizes[narrow][name] else 1.0
        finite = len(shapes[name]) == 1
        if not math.isfinite(ratio) or ratio > MUP_RATIO or (ratio < 1 / MUP_RATIO and not finite):
            return True, f"{name} x {ratio:.2f}"
    return False, ""
