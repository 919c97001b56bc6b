"""Pictures of the Transformer on WikiText-2. Pure functions of the tidy table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis import landscapes, panels, style, transfer
from experiments.declare.claims import Measured
from experiments.declare.layout import Layout
from experiments.families.transformer_wikitext2.spec_across import (
    DEPTH_KEYS,
    MUP_DEPTH,
    MUP_WIDTH,
    PANELS4,
)

# One hyperparameter at a time: what Figs. 4 and depth_mup need beside `analysis.panels`

DEPTH_ROWS = {name: (name, "n_layer") for name in ("mup", "depth_mup")}


def fig4_std_depth_against_width(runs: pd.DataFrame) -> Measured:
    """Regret of the best std of initialization across depth minus that across width."""
    rows = [panels.landscape(runs, PANELS4, "init_std", row) for row in (MUP_DEPTH, MUP_WIDTH)]
    return _regret_difference(*rows)


def depth_named(runs: pd.DataFrame) -> pd.DataFrame:
    """The table with runs of depth-µP under a parametrization of their own."""
    name = runs["parametrization"].where(runs["base_n_layer"].isna(), "depth_mup")
    return runs.assign(parametrization=name)


def _depth_layout(keys: Sequence[str]) -> Layout:
    return Layout(tuple(keys), tuple(DEPTH_ROWS.values()))


def draw_depth_mup(runs: pd.DataFrame, keys: Sequence[str] = DEPTH_KEYS) -> Figure:
    """µP above, depth-µP below."""
    return panels.draw(depth_named(runs), _depth_layout(keys), ("µP", "depth-µP"))


def depth_mup_regret(
    runs: pd.DataFrame, keys: Sequence[str] = DEPTH_KEYS, parametrization: str = "depth_mup"
) -> Measured:
    """The largest regret across depth, by default with depth-µP."""
    row = DEPTH_ROWS[parametrization]
    return panels.worst_regret(depth_named(runs), _depth_layout(keys), row)


def depth_mup_kept_gain(runs: pd.DataFrame, keys: Sequence[str] = DEPTH_KEYS) -> Measured:
    """The least kept gain across depth with depth-µP."""
    row = DEPTH_ROWS["depth_mup"]
    return panels.least_kept_gain(depth_named(runs), _depth_layout(keys), row)


def depth_mup_gain(runs: pd.DataFrame, keys: Sequence[str] = DEPTH_KEYS) -> Measured:
    """Regret of the best std of initialization across depth in µP minus that in depth-µP."""
    layout, named = _depth_layout(keys), depth_named(runs)
    return _regret_difference(
        *(panels.landscape(named, layout, "init_std", row) for row in layout.rows)
    )


def _regret_difference(one: transfer.Landscape, other: transfer.Landscape) -> Measured:
    def difference(index: np.ndarray) -> float:
        left, right = (transfer.regret(s, s.losses[index]) for s in (one, other))
        return left - right

    note = f"regrets {transfer.regret(one):.3f} and {transfer.regret(other):.3f}"
    return landscapes.over_seeds(difference, len(one.losses), note)


# Wider is better at every step: Fig. 7

WINDOWS = 50  # of a training, over which losses are averaged


def settings(steps: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The losses of every step by panel: µP, SP at the lower rate, SP at the higher one."""
    sp = steps[steps["parametrization"] == "sp"]
    return {
        "mup": steps[steps["parametrization"] == "mup"],
        "sp_low": sp[sp["log2lr"] == sp["log2lr"].min()],
        "sp_high": sp[sp["log2lr"] == sp["log2lr"].max()],
    }


def windows(steps: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses (S, W, T) of seeds, widths and windows of steps; widths; the windows' last steps.

    From the step at which a run diverged on, its loss is infinite.
    """
    total = int(steps["steps"].iloc[0])
    table = steps.pivot(index=["seed", "width"], columns="step", values="loss")
    lost = steps.groupby(["seed", "width"])["diverged_step"].first().reindex(table.index)
    losses = table.reindex(columns=range(total)).to_numpy(copy=True)
    losses[np.arange(total) >= lost.fillna(total).to_numpy()[:, None]] = np.inf
    seeds, widths = (np.unique(steps[column]) for column in ("seed", "width"))
    parts = np.array_split(losses, min(WINDOWS, total), axis=1)
    means = np.stack([part.mean(axis=1) for part in parts], axis=1)
    ends = np.cumsum([part.shape[1] for part in parts])
    return means.reshape(len(seeds), len(widths), len(parts)), widths, ends


def draw_fig7(steps: pd.DataFrame) -> Figure:
    """Loss over steps by width: µP, SP at a low rate, SP at a high one; violations below."""
    parts = settings(steps)
    fig, axes = style.subplots(
        2,
        3,
        figsize=(10.4, 4.6),
        sharex=True,
        sharey="row",
        height_ratios=(1, 0.07),
    )
    for (panel, strip), part in zip(axes.T, parts.values(), strict=True):
        curves, widths, ends = windows(part)
        colors = style.width_colors(list(widths))
        for width, losses in zip(widths, np.moveaxis(curves, 1, 0), strict=True):
            panel.plot(ends, losses.mean(axis=0), color=colors[width], label=f"{width}", lw=1.2)
            band = losses.min(axis=0), losses.max(axis=0)
            panel.fill_between(ends, *band, color=colors[width], alpha=0.2, lw=0)
        worse = transfer.order_violated(curves)
        strip.pcolormesh(
            np.append(0, ends), [0, 1], worse[None].astype(float), cmap="Greys", vmin=0, vmax=1.4
        )
        strip.set(yticks=[], xlabel="step")
        strip.grid(False)
        strip.set_title(f"a wider one is worse in {100 * worse.mean():.0f} % of the steps", size=8)
        parametrization = part["parametrization"].iloc[0]
        rate = part["log2lr"].iloc[0]
        panel.set_title(
            f"{ {'sp': 'SP', 'mup': 'µP'}[parametrization] }, log2 learning rate {rate:g}",
            color=style.COLOR[parametrization],
        )
    finite = np.concatenate([c[np.isfinite(c)] for c in (windows(p)[0] for p in parts.values())])
    axes[0, 0].set_ylim(finite.min() - 0.1, np.quantile(finite, 0.97))
    axes[0, 0].set_ylabel("training loss (nats)")
    style.legend(fig, axes[0, 0], "width\n(d_model)")
    return fig


def violated(steps: pd.DataFrame, name: str) -> Measured:
    """Share of the steps in which a wider model is worse than the next narrower one.

    What seed noise allows is that of all seeds; the interval is of resampled means.
    """
    curves, widths, _ = windows(settings(steps)[name])
    if len(curves) < 2 or len(widths) < 2:
        return Measured(float("nan"), note="needs two seeds and two widths")
    bound = transfer.noise_bound(curves)
    pairs = [
        f"{a} to {b}: {transfer.order_violated(curves[:, i : i + 2], bound).mean():.2f}"
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    ]
    return landscapes.over_seeds(
        lambda index: float(transfer.order_violated(curves[index], bound).mean()),
        len(curves),
        "by pair of widths " + ", ".join(pairs),
    )


# A wide model's instability in a narrow one: Fig. 21


def replays(runs: pd.DataFrame) -> dict[str, transfer.Landscape]:
    """Landscapes over actual widths in SP, and over simulated ones in a narrow µP model."""
    return {
        "sp": transfer.landscape(runs, "sp"),
        "mup": transfer.landscape(runs, "mup", along="base_width"),
    }


def draw_fig21(runs: pd.DataFrame) -> Figure:
    """Loss against learning rate, one curve per width: actual left, simulated right."""
    found = replays(runs)
    fig, axes = style.subplots(1, 2, figsize=(8.6, 3.9), sharex=True, sharey=True)
    narrow = runs.loc[runs["parametrization"] == "mup", "width"].iloc[0]
    titles = {"sp": "Actual width (SP)", "mup": f"Simulated width (µP, width {narrow})"}
    for ax, (name, scape) in zip(axes, found.items(), strict=True):
        landscapes.curves(ax, scape)
        mean, colors = scape.losses.mean(axis=0), style.width_colors(list(scape.sizes))
        for size, row, rate in zip(scape.sizes, mean, transfer.onset(scape), strict=True):
            if np.isfinite(rate) and np.isfinite(row[scape.grid == rate]).all():
                ax.plot(rate, row[scape.grid == rate], "o", ms=7, mfc="white", mec=colors[size])
        ax.set_title(titles[name], color=style.COLOR[name])
        style.log2_axis(ax, "log2 learning rate")
    axes[0].set_ylim(*landscapes.limits(found))
    axes[0].set_ylabel("training loss (nats)")
    style.legend(fig, axes[0], "width")
    return fig


def fig21_onset_difference(runs: pd.DataFrame) -> Measured:
    """The largest difference, in grid steps, of the rates at which instability sets in."""
    found = replays(runs)
    onsets = {name: transfer.onset(scape) for name, scape in found.items()}
    step = float(np.diff(found["sp"].grid).min())
    difference = np.abs(onsets["sp"] - onsets["mup"]).max() / step
    note = "log2 rate of instability by width " + ", ".join(
        f"{size}: {actual:g} actual, {simulated:g} simulated"
        for size, actual, simulated in zip(found["sp"].sizes, *onsets.values(), strict=True)
    )
    guesses = [transfer.blind_optima(scape, seed) for seed, scape in enumerate(found.values())]
    picks = np.abs(np.subtract(*guesses)).max(axis=1)
    return Measured(float(difference), note=note, picks=picks.tolist())
