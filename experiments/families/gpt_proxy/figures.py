"""Pictures and claims of the GPT-3-like models. Pure functions of the tidy table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from scipy import stats

from experiments.analysis import (
    conventions,
    importance,
    landscapes,
    style,
    training_curves,
    transfer,
)
from experiments.declare.claims import Measured
from experiments.declare.config import RunConfig
from experiments.declare.scales import Scale
from experiments.families.gpt_proxy.spec import SPACE, TARGET_SEEDS, target

KEYS = tuple(SPACE)
LABELS = {
    "log2lr": "learning rate",
    "init_scale": "initialization scale",
    "attn_temperature": "attention temperature",
    "output_temperature": "output temperature",
    "embed_mult": "embedding multiplier",
    "relative_mult": "relative position\nmultiplier",
}
BEST = 0.1  # share of the samples that is highlighted
RESAMPLES = 60
SETTINGS = {
    "mup": ("µTransfer, relative positions", conventions.COLOR["mup"], "-"),
    "absolute": ("original recipe, absolute positions", conventions.COLOR["sp"], "-"),
    "relative": ("original recipe, relative positions", conventions.COLOR["sp"], "--"),
}

# Wider is better: Fig. 8


def draw_fig8(steps: pd.DataFrame) -> Figure:
    """Loss over tokens by width; violations of the order below."""
    fig, (panel, strip) = style.subplots(
        2, 1, figsize=(5.6, 4.6), sharex=True, height_ratios=(1, 0.07)
    )
    first = steps.iloc[0]
    tokens = int(first["batch_size"] * first["seq_len"])
    drawn = training_curves.by_width(panel, strip, steps, tokens)
    panel.set_ylim(*training_curves.limits([drawn]))
    panel.set_ylabel("training loss (nats)")
    strip.set_xlabel("training tokens")
    strip.xaxis.set_major_formatter(EngFormatter(sep=""))
    style.legend(fig, panel, "width\n(d_model)")
    return fig


# The random search: Fig. 14


def horizons(runs: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The samples by number of steps, ascending; the loss of a diverged one is infinity."""
    runs = runs[runs["width"] == runs["width"].min()]
    loss = runs["final_loss"].where(~runs["diverged"], np.inf)
    return dict(iter(runs.assign(final_loss=loss).groupby("steps", sort=True)))


def draw_fig14(runs: pd.DataFrame) -> Figure:
    """Loss against each hyperparameter, the short horizon above the long one."""
    found = horizons(runs)
    fig, axes = style.subplots(
        len(found), len(KEYS), figsize=(14.4, 5.0), sharex="col", sharey="row", squeeze=False
    )
    for row, (steps, samples) in zip(axes, found.items(), strict=True):
        losses = samples["final_loss"].to_numpy()
        lost, green = np.isinf(losses), conventions.COLOR["mup"]
        best = np.argsort(losses, kind="stable")[: max(1, round(BEST * len(losses)))]
        for ax, key in zip(row, KEYS, strict=True):
            values = samples[key].to_numpy(float)
            values = 2.0**values if key == "log2lr" else values
            for chosen, label, look in (
                (~lost, "other samples", {"ms": 3, "color": "#b9bfbd", "mec": "none"}),
                (best, "best tenth\nof a row", {"ms": 4.5, "color": green, "mec": "white"}),
            ):
                ax.plot(values[chosen], losses[chosen], "o", label=label, **look)
            if lost.any():
                style.strip(ax, [(conventions.COLOR["sp"], values[lost], np.empty(0))])
        if (~lost).any():
            low, high = losses[~lost].min(), losses[~lost].max()
            row[0].set_ylim(low - 0.06 * (high - low) - 0.02, high + 0.06 * (high - low) + 0.02)
        row[0].set_ylabel(
            f"training loss (nats)\nafter {steps} steps,\n{lost.sum()} of {len(lost)} diverged"
        )
    for ax, (key, (low, high)) in zip(axes[-1], SPACE.items(), strict=True):
        decades = high / low >= 100
        ax.set_xscale("log", base=10 if decades else 2)
        ax.set(xlabel=LABELS[key], xlim=(low / 1.15, high * 1.15))
        ax.minorticks_off()
    style.legend(fig, axes[0, 0], "")
    return fig


def common(runs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The losses (N,) at both horizons of the samples that both have."""
    short, long = (
        samples.set_index(list(KEYS))["final_loss"] for samples in horizons(runs).values()
    )
    return short.reindex(long.index).to_numpy(), long.to_numpy()


def horizon_correlation(runs: pd.DataFrame) -> Measured:
    """Spearman's correlation of the losses at both horizons, over the samples that both have."""
    losses = np.stack(common(runs))

    def correlation(index: np.ndarray) -> float:
        ranks = [stats.rankdata(row[index]) for row in losses]
        if min(map(np.ptp, ranks)) == 0:
            return float("nan")
        return float(np.corrcoef(*ranks)[0, 1])

    size = losses.shape[1]
    shuffle = np.random.default_rng(0)
    ranks = [stats.rankdata(row) for row in losses]
    picks = [
        float(np.corrcoef(shuffle.permutation(ranks[0]), ranks[1])[0, 1])
        for _ in range(1000)
        if min(map(np.ptp, ranks)) > 0
    ]
    kept = np.isfinite(losses).all(axis=0)
    alone = correlation(np.flatnonzero(kept)) if kept.sum() > 2 else float("nan")
    note = f"{size} samples; {alone:.2f} over the {kept.sum()} that diverged at neither"
    return landscapes.over_seeds(correlation, size, note, picks)


def importance_margin(runs: pd.DataFrame) -> Measured:
    """The lesser main effect of rate and initialization scale, minus the largest of the others."""
    samples = next(iter(horizons(runs).values()))
    points = np.column_stack(
        [samples[k] if k == "log2lr" else np.log2(samples[k].astype(float)) for k in KEYS]
    )
    losses = samples["final_loss"].to_numpy()

    def effects(index: np.ndarray) -> np.ndarray:
        return importance.main_effects(points[index], losses[index])

    found = effects(np.arange(len(losses)))
    draw = np.random.default_rng(0)
    again = [
        _margin(effects(draw.integers(len(losses), size=len(losses)))) for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(again, [2.5, 97.5])
    shares = ", ".join(
        f"{LABELS[key].replace(chr(10), ' ')} {effect:.2f}"
        for key, effect in zip(KEYS, found, strict=True)
    )
    guesses = [_margin(draw.permutation(found)) for _ in range(1000)]
    return Measured(_margin(found), float(low), float(high), f"main effects: {shares}", guesses)


def _margin(effects: np.ndarray) -> float:
    return float(effects[:2].min() - effects[2:].max())


# The target: Fig. 15


def winner(runs: pd.DataFrame) -> pd.Series:
    """The best sample of the long horizon."""
    samples = list(horizons(runs[runs["parametrization"] == "mup"]).values())[-1]
    best: pd.Series = samples.loc[samples["final_loss"].idxmin()]
    return best


def carry(runs: Sequence[RunConfig], table: pd.DataFrame, scale: Scale) -> list[RunConfig]:
    """The target with the hyperparameters of the best sample of the long horizon."""
    best = winner(table)
    point = {key: float(best[key]) for key in KEYS}
    proxy = next(run for run in runs if run.parametrization == "mup")
    return [
        proxy.replace(**target(scale), **point, seed=seed) for seed in range(TARGET_SEEDS[scale])
    ]


def targets(steps: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of the target's runs by setting."""
    wide = steps[steps["width"] == steps["width"].max()]
    original = wide[wide["parametrization"] == "sp"]
    return {
        "mup": wide[wide["parametrization"] == "mup"],
        "absolute": original[original["attention"] == "absolute"],
        "relative": original[original["attention"] == "relative"],
    }


def draw_fig15(steps: pd.DataFrame) -> Figure:
    """Loss over steps of the target: µTransferred, and with the original recipe."""
    fig, ax = style.subplots(figsize=(6.4, 4.2))
    drawn = []
    for name, part in targets(steps).items():
        curves, _, ends = training_curves.windows(part)
        label, color, line = SETTINGS[name]
        ax.plot(ends, curves[:, 0].mean(axis=0), line, color=color, label=label)
        ax.fill_between(
            ends, curves[:, 0].min(axis=0), curves[:, 0].max(axis=0), color=color, alpha=0.2, lw=0
        )
        drawn.append(curves)
    ax.set_ylim(*training_curves.limits(drawn))
    ax.set(xlabel="step", ylabel="training loss (nats)")
    ax.legend()
    return fig


def mup_minus_original(steps: pd.DataFrame) -> Measured:
    """Validation loss of the µTransferred target minus that of the original recipe."""
    return _difference(steps, "absolute")


def mup_minus_relative(steps: pd.DataFrame) -> Measured:
    """Validation loss of the µTransferred target minus the original recipe's, both relative."""
    return _difference(steps, "relative")


def _difference(steps: pd.DataFrame, other: str) -> Measured:
    parts = targets(steps)
    left, right = (valid_losses(parts[name]) for name in ("mup", other))
    note = f"{left.mean():.3f} and {right.mean():.3f} nats"
    return landscapes.over_seeds(
        lambda index: transfer.best_difference(
            left[index].reshape(-1, 1, 1), right[index].reshape(-1, 1, 1)
        ),
        len(left),
        note,
    )


def valid_losses(steps: pd.DataFrame) -> np.ndarray:
    """Validation losses (S,) at the end, by seed; infinity for a run that diverged."""
    runs = steps.groupby("seed").first()
    losses: np.ndarray = runs["valid_loss"].where(~runs["diverged"], np.inf).to_numpy(float)
    return losses
