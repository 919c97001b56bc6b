"""python -m mupkit explain | check | transfer: examine and tune any model from the shell."""

from __future__ import annotations

import argparse
import ast
import csv
import importlib
import io
import json
import math
import os
import shutil
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import mupkit
from mupkit.base_shapes import is_parametrized, read_shapes
from mupkit.coord_check import Report, coord_check
from mupkit.explain import Finding, Row, explain, findings
from mupkit.messages import MupWarning

EXPLAIN = """\
Show what happens to each parameter, and what looks wrong.

  python -m mupkit explain my_model:build --base width=64 --target width=1024
  python -m mupkit explain my_model:build --base width=64 --target width=1024 --delta width=96 \\
      --optimizer adamw --lr 3e-4 --weight-decay 0.1 --scheduler my_model:schedule \\
      --loss my_model:loss
  python -m mupkit explain my_model:build --base width=64 --target width=8192 --meta --csv > a.csv

build(**arguments) returns the model. A plain model is then parametrized by --rules; one on which
you called mupkit.set_base_shapes or mupkit.parametrize yourself is taken as it is. With --loss, a
forward pass is looked at, too: the factor of attention logits, and numbers that go with width.

Exit status: 0 all is well, 1 something looks wrong, 2 the request cannot be carried out, 4 your own
code raised an error.
"""
CHECK = """\
Train the model a few steps at several widths and see how activations, their changes and the
parameters' updates scale.

  python -m mupkit check my_model:build --loss my_model:loss --base width=64 \\
      --widths width=64,128,256,512 --optimizer adam --lr 0.01 --picture check.png
  python -m mupkit check my_model:build --loss my_model:loss --base d=64 ffn=256 \\
      --widths d=64,128,256 ffn=256,512,1024 --optimizer my_model:make_optimizer

loss(model) returns the loss on one fixed batch. A large learning rate shows more than a small one.
While something is undecided, seeds are added.

Exit status: 0 passed, 1 something scales differently from theory, 2 the request cannot be carried
out, 3 something is undecided, 4 your own code raised an error.
"""
TRANSFER = """\
Tune a small proxy in µP and say what to train the target with: Algorithm 1 of the paper.

  python -m mupkit transfer my_model:build --loss my_model:loss --space space.toml \\
      --proxy width=64 --target width=1024 --trials 40
  python -m mupkit transfer my_model:build --loss my_model:loss --validate my_model:validate \\
      --space space.toml --proxy width=64 --target width=1024 --trials 200 --steps 1000 \\
      --storage sqlite:///search.db --target-runs 3

loss(model, step) returns the training loss of a step. space.toml has a table for each
hyperparameter: lr and weight_decay go to the optimizer, all others to build.

  [lr]
  low = 1e-4
  high = 1e-1
  log = true

  [output_mult]
  values = [0.5, 1, 2, 4]

With --storage, processes on several machines work at one search: start the same command on each.
It goes on where it was when it is started again, and optuna-dashboard shows it. The coordinate
check comes first. --target-runs trains the target with the best points and says what the first one
loses.

Exit status: 0 done, 1 the coordinate check fails, 2 the request cannot be carried out, 4 your own
code raised an error.
"""
PACKAGE = Path(__file__).parent
NOT_OWN = (PACKAGE, *(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")))
"""Where code is that is not the user's."""
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": mupkit.MuAdam,
    "adamw": mupkit.MuAdamW,
    "sgd": mupkit.MuSGD,
    "adafactor": mupkit.MuFrobenius,
}
PLOT = "experiments.analysis.coordinate_pictures:coordinate_check"


DTYPES = {"float64": torch.float64, "float32": torch.float32, "own": None}
OK, WRONG, REFUSED, UNDECIDED, USER_CODE = range(5)
"""Exit statuses."""
ENDED_BY_READER = 128 + 13
"""Exit status that a shell gives to other commands whose output is closed (SIGPIPE)."""
VERDICTS = {OK: "passed", WRONG: "fails", UNDECIDED: "undecided"}


class UsageError(Exception):
    """The request cannot be carried out; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status, as the command's help says it."""
    _prepare_streams()
    arguments = _parser().parse_args(argv)
    sys.path.insert(0, "")
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except Exception as error:
        if place := _user_code(error):
            notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
            print(f"error: {place}: {type(error).__name__}: {error}{notes}", file=sys.stderr)
            return USER_CODE
        if isinstance(error, BrokenPipeError):  # whoever reads has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ENDED_BY_READER
        if not isinstance(error, ValueError | TypeError | OSError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return REFUSED


def _prepare_streams() -> None:
    """Let no message be an error: of a closed stream, or of a character that an encoding lacks."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # print would take stdout for a closed stderr
            setattr(sys, name, io.StringIO())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _user_code(error: Exception) -> str:
    """File and line of the user's code that raised an error; "" if mupkit or its call did."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    if Path(frames[-1].filename).is_relative_to(PACKAGE):
        return ""
    own = [f for f in frames if not any(Path(f.filename).is_relative_to(x) for x in NOT_OWN)]
    own = [f for f in own if not f.filename.startswith("<")]  # frozen modules of Python
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mupkit", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="explain | check | transfer")
    raw = argparse.RawDescriptionHelpFormatter
    one = commands.add_parser("explain", description=EXPLAIN, formatter_class=raw)
    two = commands.add_parser("check", description=CHECK, formatter_class=raw)
    for command in (one, two):
        command.add_argument("build", help="module:function that builds the model")
        command.add_argument("--base", nargs="+", required=True, metavar="KEY=VALUE")
        command.add_argument("--delta", nargs="+", metavar="KEY=VALUE", help="every width changed")
        command.add_argument(
            "--rules", default="3", choices=sorted(mupkit.RULES), help="to scale by"
        )
        command.add_argument("--init", default="torch", choices=("torch", "constant"))
        command.add_argument(
            "--optimizer",
            default="adam",
            help=f"{', '.join(OPTIMIZERS)}, or module:function of the model",
        )
        command.add_argument("--weight-decay", type=float, default=0.0)
        command.add_argument("--json", action="store_true", help="print JSON")
    one.add_argument("--lr", type=float, default=1e-3, help="at base width")
    one.add_argument("--target", nargs="+", required=True, metavar="KEY=VALUE")
    one.add_argument("--scheduler", help="module:function of the optimizer")
    one.add_argument("--loss", help="module:function of the model, on a fixed batch")
    one.add_argument(
        "--meta", action="store_true", help="allocate nothing, and show no initial stds"
    )
    one.add_argument("--csv", action="store_true", help="print CSV, and warnings on stderr")
    one.set_defaults(run=_explain)
    two.add_argument("--lr", type=float, default=1e-2, help="at base width; large on purpose")
    two.add_argument("--loss", required=True, help="module:function of the model, on a fixed batch")
    two.add_argument("--widths", nargs="+", required=True, metavar="KEY=VALUE,VALUE,...")
    two.add_argument("--steps", type=int, default=4)
    two.add_argument("--seeds", type=int, default=3, help="to begin with")
    two.add_argument("--most-seeds", type=int, default=12, help="while something is undecided")
    two.add_argument("--clip", type=float, help="norm of all gradients, as your training clips it")
    two.add_argument(
        "--dtype",
        default="float64",
        choices=DTYPES,
        help="of the models and their floating-point inputs; own converts nothing",
    )
    two.add_argument("--picture", help="file to draw to (needs the experiments package)")
    two.set_defaults(run=_check)
    three = commands.add_parser("transfer", description=TRANSFER, formatter_class=raw)
    three.add_argument("build", help="module:function that builds the model")
    three.add_argument("--loss", required=True, help="module:function of the model and the step")
    three.add_argument("--validate", help="module:function of the model: what is minimized")
    three.add_argument("--space", required=True, help="TOML file of hyperparameters")
    three.add_argument("--proxy", nargs="+", required=True, metavar="KEY=VALUE", help="base sizes")
    three.add_argument("--target", nargs="+", required=True, metavar="KEY=VALUE")
    three.add_argument("--trials", type=int, default=40, help="in all; more than once is no error")
    three.add_argument("--steps", type=int, default=200, help="of each training")
    three.add_argument("--rules", default="3", choices=sorted(mupkit.RULES), help="to scale by")
    three.add_argument(
        "--optimizer",
        default="adam",
        help=f"{', '.join(OPTIMIZERS)}, or module:function of the model, lr and weight_decay",
    )
    three.add_argument("--storage", help="of Optuna, such as sqlite:///search.db")
    three.add_argument("--study", default="mupkit", help="name in the storage")
    three.add_argument("--seed", type=int, help="of the search")
    three.add_argument("--target-runs", type=int, default=0, help="trainings of the target")
    three.add_argument("--no-check", action="store_true", help="leave the coordinate check out")
    three.add_argument("--json", action="store_true", help="print JSON")
    three.set_defaults(run=_transfer)
    return parser


def _explain(arguments: argparse.Namespace) -> int:
    build = _load(arguments.build)
    base = _keywords(arguments.base)
    found: list[Finding] = []
    with warnings.catch_warnings(record=True) as caught, torch.random.fork_rng():
        warnings.simplefilter("always")
        torch.manual_seed(0)
        with torch.device("meta" if arguments.meta else "cpu"):
            model = build(**_keywords(arguments.target))
            # One that parametrizes itself is in SP at base width, where nothing is rescaled.
            at_base = build(**base)
        if not is_parametrized(model):
            _parametrize(model, arguments, build)
        optimizer = _optimizer(arguments)(model)
        schedule = _load(arguments.scheduler) if arguments.scheduler else None
        loss = _load(arguments.loss) if arguments.loss else None
        if loss and arguments.meta:
            raise UsageError("--loss needs data, which --meta leaves out")
        found += findings(model, at_base, optimizer, schedule, loss)
        rows = explain(model, _optimizer(arguments)(model))
    found += [_caught(w) for w in caught if issubclass(w.category, UserWarning)]
    if arguments.json:
        print(_json({"parameters": [*map(asdict, rows)], "findings": [*map(asdict, found)]}))
    elif arguments.csv:
        _print_csv(rows)
    else:
        _print_table(rows)
    if not arguments.json:
        for finding in found:
            print(finding, file=sys.stderr if arguments.csv else sys.stdout)
    return WRONG if any(f.level == "warning" for f in found) else OK


def _check(arguments: argparse.Namespace) -> int:
    draw = _picture(arguments.picture) if arguments.picture else None
    build, loss = _load(arguments.build), _load(arguments.loss)
    widths = _sweep(arguments.widths)

    def at(width: int) -> nn.Module:
        model: nn.Module = build(**widths[width])
        return model if is_parametrized(model) else _parametrize(model, arguments, build)

    report = coord_check(
        at,
        list(widths),
        make_optimizer=_optimizer(arguments),
        loss=loss,
        steps=arguments.steps,
        seeds=range(arguments.seeds),
        most_seeds=arguments.most_seeds,
        clip=arguments.clip,
        dtype=DTYPES[arguments.dtype],
    )
    status = _status(report)
    if arguments.json:
        print(_json({"verdict": VERDICTS[status], "tensors": report.table()}))
    else:
        print(report)
    if draw is not None:
        draw(report).savefig(arguments.picture)
        print(f"drawn to {arguments.picture}", file=sys.stderr if arguments.json else sys.stdout)
    return status


def _picture(path: str) -> Callable[[Report], Any]:
    """The function that draws a check; it refuses before anything is trained."""
    try:
        draw: Callable[[Report], Any] = _load(PLOT)
    except UsageError as error:
        raise UsageError(
            f"--picture needs the experiments package and matplotlib: {error}"
        ) from None
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"--picture {path}: its folder does not exist")
    return draw


def _status(report: Report) -> int:
    return WRONG if report.failures else OK if report.passed else UNDECIDED


def _transfer(arguments: argparse.Namespace) -> int:
    try:
        from mupkit import transfer
    except ModuleNotFoundError as error:
        raise UsageError(f"{error}; it comes with pip install 'mupkit[transfer]'") from None
    space = transfer.read_space(arguments.space)
    name = arguments.optimizer
    if ":" not in name and name not in OPTIMIZERS:
        raise UsageError(f"--optimizer is {name}, allowed are {', '.join(OPTIMIZERS)}, or a:b")
    problem = transfer.Problem(
        build=_load(arguments.build),
        loss=_load(arguments.loss),
        proxy=_keywords(arguments.proxy),
        target=_keywords(arguments.target),
        steps=arguments.steps,
        validate=_load(arguments.validate) if arguments.validate else None,
        make_optimizer=_load(name) if ":" in name else OPTIMIZERS[name],
        rules=mupkit.RULES[arguments.rules],
    )
    if problem.proxy.keys() != problem.target.keys():
        raise UsageError("--proxy and --target need the same keys")
    say = print if not arguments.json else partial(print, file=sys.stderr)
    if not arguments.no_check:
        report = transfer.check(problem, space)
        status = _status(report)
        say(f"coordinate check of the proxy and two wider models: {VERDICTS[status]}")
        if status == WRONG:
            say(report)
            return WRONG
    transfer.quiet()
    study = transfer.search(
        problem,
        space,
        arguments.trials,
        storage=arguments.storage,
        study=arguments.study,
        seed=arguments.seed,
        progress=sys.stderr.isatty(),
    )
    found = transfer.summary(problem, study)
    say(found)
    runs = transfer.at_target(problem, found.best[: arguments.target_runs])
    for run in runs:
        say(f"target with {transfer.words(run.point)}: {run.loss:.4g}")
    lost = transfer.regret(runs) if len(runs) > 1 else None
    if lost is not None:
        say(f"regret: the first one loses {lost:.4g} to the best of these {len(runs)}")
    if arguments.json:
        at_target = [{"point": run.point, "loss": run.loss} for run in runs]
        print(_json({**asdict(found), "target_runs": at_target, "regret": lost}))
    return OK


def _parametrize(model: nn.Module, arguments: argparse.Namespace, build: Any) -> nn.Module:
    with torch.device("meta"):
        base = read_shapes(build(**_keywords(arguments.base)))
        delta = read_shapes(build(**_keywords(arguments.delta))) if arguments.delta else None
    return mupkit.parametrize(
        model, base, delta, rules=mupkit.RULES[arguments.rules], init=arguments.init
    )


def _optimizer(arguments: argparse.Namespace) -> Callable[[nn.Module], Optimizer]:
    name = arguments.optimizer
    if ":" in name:
        return _load(name)
    if name not in OPTIMIZERS:
        raise UsageError(f"--optimizer is {name}, allowed are {', '.join(OPTIMIZERS)}, or a:b")
    return partial(OPTIMIZERS[name], lr=arguments.lr, weight_decay=arguments.weight_decay)


def _load(reference: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{reference} cannot be imported: {error}; expected module:name") from None
    if not callable(found):
        raise UsageError(f"{reference} is not a function")
    return found  # type: ignore[no-any-return]


def _keywords(pairs: Sequence[str]) -> dict[str, Any]:
    """Turn ["width=64"] into {"width": 64}; a value that is no Python literal stays text."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{pair!r} is not of the form key=value")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found


def _sweep(pairs: Sequence[str]) -> dict[int, dict[str, Any]]:
    """The arguments of each width. The first key is the width; the others vary with it."""
    columns = {k: v if isinstance(v, tuple) else (v,) for k, v in _keywords(pairs).items()}
    lengths = {len(values) for values in columns.values()}
    first = next(iter(columns.values()))
    if len(lengths) != 1 or len(first) < 2 or not all(isinstance(w, int) for w in first):
        raise UsageError(
            "--widths needs two or more numbers per key, and equally many for every key"
        )
    rows = zip(*columns.values(), strict=True)
    return {row[0]: dict(zip(columns, row, strict=True)) for row in rows}


def _caught(warning: warnings.WarningMessage) -> Finding:
    message = warning.message
    if isinstance(message, MupWarning):
        return Finding("model", message.what, message.fix)
    return Finding("model", str(message).rstrip("."), fix="")


def _json(value: object) -> str:
    """JSON, without the numbers that it does not have."""
    return json.dumps(_finite(value), indent=1)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(row: Row) -> list[str]:
    return [
        "" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in astuple(row)
    ]


def _print_table(rows: Sequence[Row]) -> None:
    lines = [[f.name for f in fields(Row)], *map(_cells, rows)]
    sizes = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sum(sizes) + 2 * (len(sizes) - 1) > shutil.get_terminal_size((sys.maxsize, 0)).columns:
        _print_blocks(lines)
        return
    for line in lines:
        print("  ".join(c.ljust(s) for c, s in zip(line, sizes, strict=True)).rstrip())


def _print_blocks(lines: Sequence[Sequence[str]]) -> None:
    """A paragraph for each row, where a terminal is too narrow for a table."""
    (_, *names), *rows = lines
    size = max(map(len, names)) + 2
    for first, *rest in rows:
        print(first)
        for name, cell in zip(names, rest, strict=True):
            print(f"  {name.ljust(size)}{cell}")


def _print_csv(rows: Sequence[Row]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(f.name for f in fields(Row))
    writer.writerows(_cells(row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
