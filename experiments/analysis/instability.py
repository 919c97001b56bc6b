"""When the activations of an unstable training blew up, from their sizes, and their picture.

Pure functions of the table that `experiments.runs.reverse` records (`Replay.trace`). No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.analysis import style

JUMP = 1.0  # nats above the lowest loss so far
BLOW_UP = 10.0  # times the median of the sizes so far
SETTLING = 10  # recorded steps at the start, in which activations find their size
FROM_ZERO = 1.0  # in place of a median where all sizes so far were 0
SOFTMAX = ".softmax"  # ending of the name of a softmax's input
NAMED_COLOR = ("#c44e52", "#dd8452", "#4c72b0")  # of the first activations that blew up
EXPLODED = 3.0  # times the first loss: beyond it the loss axis is logarithmic


def jump(losses: Sequence[float]) -> int | None:
    """The first step whose loss is more than `JUMP` above the lowest one before, or is NaN."""
    lowest = math.inf
    for step, loss in enumerate(losses):
        if not loss <= lowest + JUMP:
            return step
        lowest = min(lowest, loss)
    return None


def outcome(losses: Sequence[float], diverged_step: int | None) -> str:
    """Whether and when the loss jumped and the run diverged, as a sentence without its full stop.

    Args:
        losses: of every step, in nats.
        diverged_step: as the engine has it (`experiments.train.engine.diverged`), or None.
    """
    jumped = jump(losses)
    if jumped is None:
        said = f"the loss never jumped (by more than {JUMP:g} nat above its lowest)"
    else:
        lowest = min(losses[:jumped], default=math.nan)
        said = f"the loss jumped at step {jumped}, from {lowest:.3g} to {losses[jumped]:.3g} nats"
    if diverged_step is None:
        return f"{said}; the run did not diverge"
    return f"{said}; the run diverged at step {diverged_step}"


def blow_ups(trace: pd.DataFrame) -> pd.DataFrame:
    """When each activation blew up and by how much, the first one on top.

    An activation has blown up at the first recorded step at which its size exceeds `BLOW_UP` times
    its median over the recorded steps before, or is not finite. No median counts sizes of 0, such
    as those of a readout that starts at zero; where all were 0, `FROM_ZERO` takes its place, since
    coordinates in µP are of the order of 1. The first `SETTLING` recorded steps are judged only if
    the loss jumps among them: small activations may grow a hundredfold there in a healthy run.

    Args:
        trace: columns step, tensor, size, loss.

    Returns:
        Columns tensor, step (NaN if it never blew up) and growth: the largest size, without NaN,
        over that median, or over the median of all sizes if it never blew up. Rows are sorted by
        step, then by growth, then in the model's order. An activation that has the sizes of an
        earlier one at all steps has no row.
    """
    rows, start = [], _judged_from(trace)
    for tensor, sizes in _sizes(trace).items():
        step, growth = _blow_up(sizes, start)
        rows.append({"tensor": tensor, "step": step, "growth": growth})
    found = pd.DataFrame(rows, columns=["tensor", "step", "growth"])
    order = found.assign(growth=-found["growth"]).sort_values(["step", "growth"], kind="stable")
    return found.loc[order.index].reset_index(drop=True)


def _losses(trace: pd.DataFrame) -> pd.Series:
    return trace.groupby("step")["loss"].first()


def _sizes(trace: pd.DataFrame) -> pd.DataFrame:
    """Recorded steps by activations, in the model's order; of equal ones the first."""
    recorded = trace.dropna(subset="tensor")
    sizes = recorded.pivot(index="step", columns="tensor", values="size")
    return sizes[recorded["tensor"].unique()].T.drop_duplicates().T


def _judged_from(trace: pd.DataFrame) -> float:
    """The first step at which a finite size may count as a blow-up."""
    recorded = trace.dropna(subset="tensor")["step"].unique()
    settled = recorded[SETTLING] if len(recorded) > SETTLING else math.inf
    jumped = jump(_losses(trace).tolist())
    return settled if jumped is None or jumped > settled else 0


def _blow_up(sizes: pd.Series, start: float) -> tuple[float, float]:
    """The step at which one activation blew up, and its growth."""
    medians = sizes.where(sizes > 0).expanding().median().fillna(FROM_ZERO)
    before = medians.shift()
    blown = ~np.isfinite(sizes) | ((sizes > BLOW_UP * before) & (sizes.index >= start))
    if not blown.any():
        return math.nan, sizes.max() / medians.iloc[-1]
    step = blown.idxmax()
    return step, sizes.max() / before.fillna(FROM_ZERO)[step]


def label(tensor: str) -> str:
    """A tensor's name for readers: a softmax reads attention logits."""
    return tensor.replace(SOFTMAX, " logits")


def draw(trace: pd.DataFrame, diverged_step: int | None = None) -> Figure:
    """Loss over steps beside the sizes of all activations; the first to blow up are in colour.

    Args:
        trace: columns step, tensor, size, loss.
        diverged_step: the step at which the run diverged and ended, or None.
    """
    fig, (left, right) = style.subplots(1, 2, figsize=(9.2, 3.9))
    _loss_panel(left, _losses(trace), diverged_step)
    _size_panel(right, trace)
    for ax in (left, right):
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = right.get_legend_handles_labels()
    if handles:
        fig.legend(handles, labels, ncols=len(handles), loc="outside upper right", fontsize=8)
    return fig


def _loss_panel(ax: Axes, losses: pd.Series, diverged_step: int | None) -> None:
    """The loss curve, with a line at its jump and a cross above the end of a diverged run."""
    finite = losses[np.isfinite(losses)]
    ax.plot(finite.index, finite, color="#444444", lw=1.2)
    if not finite.empty and finite.max() > EXPLODED * finite.iloc[0]:
        ax.set_yscale("log")
    jumped = jump(losses.tolist())
    if jumped is not None:
        ax.axvline(jumped, color="#888888", ls="--", lw=1, label=f"jump at step {jumped}")
    if diverged_step is not None:
        name = f"diverged at step {diverged_step}"
        ax.plot(
            diverged_step,
            1.0,
            "x",
            color=NAMED_COLOR[0],
            label=name,
            transform=ax.get_xaxis_transform(),  # at the top, whatever the losses are
            clip_on=False,
        )
    if jumped is not None or diverged_step is not None:
        ax.legend(fontsize=8)
    ax.set_ylabel("training loss (nats)")


def _size_panel(ax: Axes, trace: pd.DataFrame) -> None:
    """One curve per activation; the first that blew up are named, and a dot marks the step."""
    sizes = _sizes(trace)
    sizes = sizes.where(np.isfinite(sizes) & (sizes > 0))  # the rest has no place on a log axis
    ax.set_yscale("log")
    ax.plot(sizes.index, sizes, color="#c3c8c6", lw=0.8, zorder=2)
    first = blow_ups(trace).dropna(subset="step").head(len(NAMED_COLOR))
    for tensor, step, color in zip(first["tensor"], first["step"], NAMED_COLOR, strict=False):
        name = f"{label(tensor)}, step {step:.0f}"
        ax.plot(sizes.index, sizes[tensor], color=color, zorder=3, label=name)
        ax.plot(step, sizes[tensor][step], "o", color=color, ms=5, zorder=4)
    ax.set_ylabel("root mean square of activations")
    ax.set_title("the first to blow up in colour" if len(first) else "none blew up")
