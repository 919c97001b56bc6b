"""Algorithm 1 for any model: tune a small proxy in µP, and train the target with what was found.

The random search is Optuna's, which comes with the extra `mupkit[transfer]`; any of its storages
will do, so that several processes or machines work at one search and its dashboard shows it.

Source: Tensor Programs V, Algorithm 1.
"""

from __future__ import annotations

import inspect
import math
import statistics
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mupkit.base_shapes import is_parametrized, read_shapes
from mupkit.coord_check import Report, coord_check
from mupkit.optim import MuAdam
from mupkit.parametrization import parametrize
from mupkit.rules import TABLE_3, Rules

__all__ = [
    "Distribution",
    "Problem",
    "Summary",
    "TargetRun",
    "Training",
    "at_target",
    "check",
    "read_space",
    "regret",
    "search",
    "summary",
    "train",
]

Build = Callable[..., nn.Module]
OF_OPTIMIZER = ("lr", "weight_decay")
DONE = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
FIRST, TIMED = 2, 5  # steps before any is timed, and those that are
FACTOR = 10.0  # a loss so many times the first one has diverged


@dataclass(frozen=True)
class Distribution:
    """What one hyperparameter is drawn from.

    Args:
        values: equally likely ones; empty for an interval.
        low, high: bounds of the interval.
        log: draw the logarithm uniformly.
    """

    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def middle(self) -> Any:
        """A value in the middle."""
        if self.values:
            return self.values[len(self.values) // 2]
        return math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """A value for a trial of Optuna."""
        if self.values:
            return trial.suggest_categorical(name, self.values)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


Space = Mapping[str, Distribution]


def read_space(path: str | Path) -> dict[str, Distribution]:
    """The hyperparameters of a TOML file, one table each.

        [lr]
        low = 1e-4
        high = 1e-1
        log = true

        [output_mult]
        values = [0.5, 1, 2, 4]

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no TOML or a table is not as above, naming file and key.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    if not tables:
        raise ValueError(f"{path} has no hyperparameter: write one table for each, such as [lr]")
    return {name: _distribution(f"{path}, [{name}]", table) for name, table in tables.items()}


def _distribution(where: str, table: Any) -> Distribution:
    if not isinstance(table, dict):
        raise ValueError(f"{where} is {table!r}, expected a table with values, or low and high")
    if unknown := sorted(table.keys() - {"values", "low", "high", "log"}):
        raise ValueError(f"{where}: {unknown[0]} is unknown; there are values, low, high and log")
    if ("values" in table) == ("low" in table or "high" in table or "log" in table):
        raise ValueError(f"{where} needs either values, or low and high")
    if "values" in table:
        if not isinstance(table["values"], list) or not table["values"]:
            raise ValueError(f"{where}: values is {table['values']!r}, expected a list of some")
        return Distribution(values=tuple(table["values"]))
    for key in ("low", "high"):
        if not isinstance(table.get(key), int | float) or isinstance(table[key], bool):
            raise ValueError(f"{where}: {key} is {table.get(key)!r}, expected a number")
    low, high, log = float(table["low"]), float(table["high"]), bool(table.get("log", False))
    if not low < high or (log and low <= 0):
        above = "0 < low < high with log" if log else "low < high"
        raise ValueError(f"{where}: low is {low:g} and high {high:g}, expected {above}")
    return Distribution(low=low, high=high, log=log)


@dataclass(frozen=True)
class Problem:
    """What is tuned.

    Args:
        build: build(**sizes, **hyperparameters) returns a model. A plain one is parametrized here;
            one that parametrizes itself is taken as it is.
        loss: loss(model, step) is the training loss at a step, counted from 0; loss(model), if it
            takes one argument, is that of the same batch every time.
        proxy, target: sizes, as keywords of `build`. The proxy is the base model.
        steps: of every training.
        validate: validate(model) is what is minimized, at the end; without it, the mean training
            loss of the last tenth of the steps.
        make_optimizer: make_optimizer(model, **those of lr and weight_decay that are searched).
        rules: of the parametrization.
        fixed: hyperparameters that are not searched.
    """

    build: Build
    loss: Callable[..., Tensor]
    proxy: Mapping[str, Any]
    target: Mapping[str, Any]
    steps: int = 200
    validate: Callable[[nn.Module], Any] | None = None
    make_optimizer: Callable[..., Optimizer] = MuAdam
    rules: Rules = TABLE_3
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def model(self, sizes: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> nn.Module:
        """A model of these sizes in µP, whose base is the proxy."""
        own = _of_build(hyperparameters)
        model = self.build(**sizes, **own)
        if is_parametrized(model):
            return model
        with torch.device("meta"):
            base = read_shapes(self.build(**self.proxy, **own))
            wider = {k: 2 * v for k, v in self.proxy.items() if v != self.target.get(k)}
            delta = read_shapes(self.build(**{**self.proxy, **wider}, **own))
        return parametrize(model, base, delta, rules=self.rules)

    def optimizer(self, model: nn.Module, hyperparameters: Mapping[str, Any]) -> Optimizer:
        """The optimizer of a model, with what is searched of it."""
        own = {k: v for k, v in hyperparameters.items() if k in OF_OPTIMIZER}
        return self.make_optimizer(model, **own)

    def loss_at(self, model: nn.Module, step: int) -> Tensor:
        """The training loss of a step."""
        return self.loss(model, step) if _takes_step(self.loss) else self.loss(model)


def _takes_step(loss: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = inspect.signature(loss).parameters.values()
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in own) > 1


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        loss: what is minimized; infinity if it diverged.
        step_seconds: median wall time of a step.
    """

    loss: float
    step_seconds: float


def train(
    problem: Problem,
    sizes: Mapping[str, Any],
    hyperparameters: Mapping[str, Any],
    seed: int = 0,
    steps: int | None = None,
) -> Training:
    """Train one model; the global random generator is left as it was.

    Args:
        problem: what is tuned.
        sizes: of the proxy, the target, or between.
        hyperparameters: of this training, beside the fixed ones.
        seed: of initialization and of whatever else is random.
        steps: fewer or more than the problem's.
    """
    values = {**problem.fixed, **hyperparameters}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = problem.model(sizes, values)
        optimizer = problem.optimizer(model, values)
        losses: list[float] = []
        times: list[float] = []
        for step in range(problem.steps if steps is None else steps):
            start = time.perf_counter()
            loss = problem.loss_at(model, step)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]) or losses[-1] > FACTOR * abs(losses[0]):
                return Training(math.inf, statistics.median(times or [0.0]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            times.append(time.perf_counter() - start)
        if problem.validate is None:
            found = statistics.fmean(losses[-max(1, len(losses) // 10) :])
        else:
            model.eval()
            with torch.no_grad():
                found = float(problem.validate(model))
    return Training(found if math.isfinite(found) else math.inf, statistics.median(times))


def search(
    problem: Problem,
    space: Space,
    trials: int,
    storage: str | None = None,
    study: str = "mupkit",
    seed: int | None = None,
    progress: bool = False,
) -> optuna.Study:
    """Random search at the proxy.

    Args:
        problem: what is tuned.
        space: what is drawn, by name: lr and weight_decay go to the optimizer, all else to `build`.
        trials: of the study in all, those that other processes and earlier calls have done among
            them. One that diverges counts, as pruned.
        storage: of Optuna, such as "sqlite:///search.db"; without it nothing is kept.
        study: its name there.
        seed: of the search; None draws other points in every process, which several at one study
            need.
        progress: show a bar.

    Returns:
        Optuna's study; the proxy's step time is among each trial's user attributes.

    Raises:
        ValueError: if nothing is searched, or if all trials diverged.
    """
    if not space:
        raise ValueError("nothing is searched: the space is empty")

    def objective(trial: optuna.Trial) -> float:
        point = {name: own.suggest(trial, name) for name, own in space.items()}
        found = train(problem, problem.proxy, point)
        trial.set_user_attr("step_seconds", found.step_seconds)
        if not math.isfinite(found.loss):
            raise optuna.TrialPruned("diverged")
        return found.loss

    made = optuna.create_study(
        storage=storage,
        study_name=study,
        sampler=optuna.samplers.RandomSampler(seed=seed),
        load_if_exists=True,
    )
    left = trials - len(made.get_trials(deepcopy=False, states=DONE))
    if left > 0:
        enough = optuna.study.MaxTrialsCallback(trials, states=DONE)
        made.optimize(objective, n_trials=left, callbacks=[enough], show_progress_bar=progress)
    if not made.get_trials(deepcopy=False, states=DONE[:1]):
        raise ValueError(
            f"all {trials} trials diverged: lower the rates of the search, or look at the model "
            "with `python -m mupkit check`"
        )
    return made


@dataclass(frozen=True)
class Summary:
    """What a search found.

    Attributes:
        best: the hyperparameters of the best trials, best first.
        losses: of these.
        trials, diverged: how many there are, and how many of them diverged.
        tuning_seconds: of all trials, by the proxy's step time.
        target_seconds: predicted, of one training of the target, from a few timed steps.
        proxy, target: sizes.
        optimizer: the function that makes it, as code.
        parametrizes: whether `build` parametrizes its model itself.
    """

    best: list[dict[str, Any]]
    losses: list[float]
    trials: int
    diverged: int
    tuning_seconds: float
    target_seconds: float
    proxy: dict[str, Any]
    target: dict[str, Any]
    optimizer: str
    parametrizes: bool

    def __str__(self) -> str:
        shown = [f"  {x:.4g}  {words(p)}" for x, p in zip(self.losses, self.best, strict=True)]
        of_build = _of_build(self.best[0])
        own = {k: v for k, v in self.best[0].items() if k in OF_OPTIMIZER}
        ratio = self.tuning_seconds / self.target_seconds
        base, target = (f"build({words({**x, **of_build})})" for x in (self.proxy, self.target))
        made = target if self.parametrizes else f"mupkit.parametrize({target}, {base})"
        return "\n".join(
            [
                f"{self.trials} trials, {self.diverged} diverged; the best ones:",
                *shown,
                f"tuning took {self.tuning_seconds:.3g} s of training; the target's training will "
                f"take about {self.target_seconds:.3g} s, so that tuning costs {ratio:.2g} of it",
                "train the target with",
                f"  model = {made}",
                f"  optimizer = {self.optimizer}({', '.join(filter(None, ['model', words(own)]))})",
            ]
        )


def words(values: Mapping[str, Any]) -> str:
    """Values as keywords, with four digits."""
    shown = {k: f"{v:.4g}" if isinstance(v, float) else repr(v) for k, v in values.items()}
    return ", ".join(f"{k}={v}" for k, v in shown.items())


def summary(problem: Problem, study: optuna.Study, count: int = 5) -> Summary:
    """What a search found, and what it and a training of the target cost on this machine."""
    trials = study.get_trials(deepcopy=False, states=DONE)
    best = _ranked(study, count)
    points = [point for _, point in best]
    step = statistics.median(trial.user_attrs["step_seconds"] for trial in trials)
    timed = train(problem, problem.target, points[0], steps=FIRST + TIMED).step_seconds
    return Summary(
        best=points,
        losses=[loss for loss, _ in best],
        trials=len(trials),
        diverged=sum(trial.state == optuna.trial.TrialState.PRUNED for trial in trials),
        tuning_seconds=len(trials) * problem.steps * step,
        target_seconds=problem.steps * timed,
        proxy=dict(problem.proxy),
        target=dict(problem.target),
        optimizer=_code(problem.make_optimizer),
        parametrizes=is_parametrized(problem.build(**problem.proxy, **_of_build(points[0]))),
    )


def _code(function: Any) -> str:
    name = getattr(function, "__name__", repr(function))
    own = str(getattr(function, "__module__", "")).split(".")[0] == "mupkit"
    return f"mupkit.{name}" if own else name


def _of_build(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in OF_OPTIMIZER}


def quiet() -> None:
    """Keep Optuna from printing a line for every trial: the bar shows as much."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _ranked(study: optuna.Study, count: int) -> list[tuple[float, dict[str, Any]]]:
    """Losses and hyperparameters of the best trials, best first, none twice."""
    found: list[tuple[float, dict[str, Any]]] = []
    for trial in sorted(study.get_trials(states=DONE[:1]), key=lambda t: t.value or 0.0):
        if trial.value is not None and trial.params not in [point for _, point in found]:
            found.append((trial.value, dict(trial.params)))
    return found[:count]


def check(problem: Problem, space: Space) -> Report:
    """The coordinate check of the proxy and of models that are two and four times as wide.

    Hyperparameters are in the middle of the space; sizes that the target shares with the proxy are
    left as they are.
    """
    values = {**{name: own.middle() for name, own in space.items()}, **problem.fixed}
    scaled = [key for key, size in problem.proxy.items() if size != problem.target.get(key)]
    if not scaled:
        raise ValueError("the target has the proxy's sizes: there is nothing to transfer across")

    def at(factor: int) -> nn.Module:
        sizes = {key: factor * problem.proxy[key] for key in scaled}
        return problem.model({**problem.proxy, **sizes}, values)

    return coord_check(
        at,
        [1, 2, 4],
        make_optimizer=lambda model: problem.optimizer(model, values),
        loss=lambda model: problem.loss_at(model, 0),
        most_seeds=12,
    )


@dataclass(frozen=True)
class TargetRun:
    """A training of the target with the hyperparameters of one of the best trials."""

    point: dict[str, Any]
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.losses)


def at_target(
    problem: Problem, points: Sequence[dict[str, Any]], seeds: Sequence[int] = (0,)
) -> list[TargetRun]:
    """Train the target with each of some hyperparameters, in their order."""
    return [
        TargetRun(
            point, tuple(train(problem, problem.target, point, seed=seed).loss for seed in seeds)
        )
        for point in points
    ]


def regret(runs: Sequence[TargetRun]) -> float:
    """What the first of these runs, the transferred one, loses to the best of them."""
    return runs[0].loss - min(run.loss for run in runs)
