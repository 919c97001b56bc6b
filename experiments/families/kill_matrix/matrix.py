"""Which check notices which planted bug: the matrix, measured."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

from experiments.families.kill_matrix.bugs import BASE, Case, adam, cases
from experiments.messages import note
from mupkit.base_shapes import is_parametrized
from mupkit.coord_check import Report, capture, coord_check, wider_is_better
from mupkit.coord_check.record import train_step
from mupkit.explain import findings

MUP_RATIO = 1.25
"""In the `mup` package's check a reader looks at curves of mean |x| over widths. Read here as: at
the last step no tensor grows by more than this from the narrowest to the widest model, and none
whose width grows shrinks by more. (With a small rate a right model reaches 1.16.)"""


def measure(settings: Mapping[str, Any], data: str | None) -> pd.DataFrame:
    """One row a (case, check): whether the check found something, and what it found first.

    Args:
        settings: seeds, steps, wider_steps and, to be quick, the `names` of the cases.
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = coord_check(
            case.build,
            case.kind.widths,
            make_optimizer=lambda model: case.make_optimizer(model, case.lr),
            loss=case.kind.loss,
            steps=settings["steps"],
            seeds=seeds,
        )
        wider = wider_is_better(
            case.build,
            case.kind.widths,
            make_optimizer=lambda model: case.make_optimizer(model, case.lr / 2),
            loss=case.kind.loss,
            steps=settings["wider_steps"],
            seeds=seeds,
        )
        mup_check = _mup(case, settings["steps"], seeds)
    first = next(iter(wider.failures), None)
    worse = "" if first is None else f"width {first.wide} is worse than {first.narrow}"
    return {
        "explain": _explain(case),
        **{kind: _failed(report, kind) for kind in ("activation", "change", "update")},
        "wider": (not wider.passed, worse),
        "mup": mup_check,
    }


def _failed(report: Report, kind: str) -> tuple[bool, str]:
    failures = [v for v in report.failures if v.fit.kind == kind]
    if not failures:
        return False, ""
    worst = failures[0].fit
    return True, f"{worst.tensor} {worst.exponent:+.2f}"


def _explain(case: Case) -> tuple[bool, str]:
    """What `python -m mupkit explain` warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(0)
        model, base = case.build(4 * BASE), case.build(BASE)
        if not is_parametrized(model):
            return True, "has no base shapes"
        make = adam if case.scheduler else case.make_optimizer
        found = findings(model, base, make(model, case.lr), case.scheduler)
    if any(w.category is UserWarning for w in caught):
        return True, "a dimension that the delta model keeps"
    alarms = [f for f in found if f.level == "warning"]
    return bool(alarms), alarms[0].where if alarms else ""


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
