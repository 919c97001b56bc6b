"""What the sizes of activations over a training say of its instability, and their picture.

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
FROM_ZERO = 1.0  # stands for the median of what was 0 so far
SOFTMAX = ".softmax"  # ends the name of what softmax reads
NAMED_COLOR = ("#c44e52", "#dd8452", "#4c72b0")  # of the first activations that blew up
EXPLODED = 3.0  # times the first loss: the picture has a log axis for it


def jump(losses: Sequence[float]) -> int | None:
    """The first step whose loss is more than `JUMP` above the lowest one before, or NaN."""
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
    """When each activation blew up, and how far: the first to do so on top.

    An activation has blown up at the first recorded step at which its size exceeds `BLOW_UP` times
    its median over the recorded steps before, or is not finite. Sizes of 0, as of a readout that
    starts at zero, count in no median; where all were 0, it stands at `FROM_ZERO`, since in µP
    coordinates are of the order of 1. The first `SETTLING` recorded steps are judged only if the
    loss jumps among them: small activations may grow a hundredfold there in a healthy run.

    Args:
        trace: columns step, tensor, size, loss.

    Returns:
        Columns tensor, step (NaN if it never blew up) and growth (the largest size over that
        median, or over the median of all where it never blew up; sizes of NaN are left out),
        sorted by step, then by growth, then as the model computes. What only hands on another
        activation, with the same size at all steps, has no row.
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
    """Recorded steps by activations, in the model's order; those that are equal once."""
    recorded = trace.dropna(subset="tensor")
    sizes = recorded.pivot(index="step", columns="tensor", values="size")
    return sizes[recorded["tensor"].unique()].T.drop_duplicates().T


def _judged_from(trace: pd.DataFrame) -> float:
    """The first step at which a size that is finite may be a blow-up."""
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
    """A tensor's name for readers: what softmax reads are attention logits."""
    return tensor.replace(SOFTMAX, " logits")


def draw(trace: pd.DataFrame, diverged_step: int | None = None) -> Figure:
    """Loss over steps, and beside it the sizes of all activations, the first blown up in colour.

    Args:
        trace: columns step, tensor, size, loss.
        diverged_step: at which the run ended because it diverged, or None.
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
    """The curve, a line at its jump, a cross above its end."""
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
    """A curve for each activation; the first that blew up are named, with a dot where they did."""
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
