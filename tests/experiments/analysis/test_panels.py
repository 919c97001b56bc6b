"""Panels of hyperparameters by dimensions on synthetic losses."""

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from experiments.analysis import panels, transfer
from experiments.declare.layout import Layout
from experiments.declare.schedules import SCHEDULES, TITLES

USUAL = {"log2lr": -7.0, "schedule": "constant", "width": 64, "n_layer": 2}
VALUES = {"log2lr": (-8.0, -7.0, -6.0), "schedule": SCHEDULES}
SIZES = {"width": (32, 64, 128), "n_layer": (2, 4)}
LAYOUT = Layout(("log2lr", "schedule"), (("mup", "width"), ("mup", "n_layer")))
WIDTH, DEPTH = LAYOUT.rows


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def smooth(point) -> float:
    """Best at the usual values, whatever the size."""
    return (
        4
        - 0.1 * math.log2(point["width"])
        + 0.1 * (point["log2lr"] + 7) ** 2
        + 0.1 * (point["schedule"] != "constant")
    )


def table(loss=smooth) -> pd.DataFrame:
    """The runs of all panels, each once, with two seeds."""
    points = {}
    for (key, values), (along, sizes) in itertools.product(VALUES.items(), SIZES.items()):
        for value, size, seed in itertools.product(values, sizes, (0, 1)):
            point = {**USUAL, key: value, along: size, "seed": seed}
            points[tuple(point.values())] = point
    rows = [
        {**p, "parametrization": "mup", "final_loss": loss(p) + p["seed"] / 50, "diverged": False}
        for p in points.values()
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("row", LAYOUT.rows)
@pytest.mark.parametrize("key", LAYOUT.keys)
def test_a_panel_varies_its_key_and_its_dimension_alone(key, row) -> None:
    scape = panels.landscape(table().sample(frac=1, random_state=0), LAYOUT, key, row)
    assert tuple(scape.sizes) == SIZES[row[1]]
    assert scape.losses.shape == (2, len(SIZES[row[1]]), len(VALUES[key]))
    for (seed, i, j), loss in np.ndenumerate(scape.losses):
        point = {**USUAL, row[1]: SIZES[row[1]][i], key: VALUES[key][j]}
        assert loss == pytest.approx(smooth(point) + seed / 50)


def test_a_missing_run_is_not_passed_over() -> None:
    runs = table()
    with pytest.raises(ValueError, match="not one run for each seed, width and log2lr"):
        panels.landscape(
            runs[(runs["width"] != 32) | (runs["log2lr"] != -8)], LAYOUT, "log2lr", WIDTH
        )


def test_regret_is_the_worst_of_the_row() -> None:
    def shifted(point) -> float:  # at depth 4 another schedule is better by 0.3
        return smooth(point) - 0.4 * (point["n_layer"] == 4 and point["schedule"] == "linear")

    runs = table(shifted)
    assert panels.worst_regret(runs, LAYOUT, WIDTH).value == pytest.approx(0)
    depth = panels.worst_regret(runs, LAYOUT, DEPTH)
    assert (depth.value, depth.low, depth.high) == pytest.approx((0.3, 0.3, 0.3))
    assert "schedule: best at constant to linear, regret 0.300" in depth.note
    assert panels.worst_regret(runs, LAYOUT, DEPTH, keys=("log2lr",)).value == pytest.approx(0)


def test_kept_gain_is_the_least_of_the_row_and_blind_guesses_pick_in_every_panel() -> None:
    def falling(point) -> float:  # depth 4 is better by 0.5, and linear by 0.2 more
        deep = point["n_layer"] == 4
        return smooth(point) - deep * (0.5 + 0.6 * (point["schedule"] == "linear"))

    runs = table(falling)
    found = panels.least_kept_gain(runs, LAYOUT, DEPTH)
    panel = panels.landscape(runs, LAYOUT, "schedule", DEPTH)
    assert found.value == pytest.approx(transfer.kept_gain(panel)) and found.value < 1
    assert "schedule: best at constant to linear, kept" in found.note and "by seed" in found.note
    sizes = [len(panels.landscape(runs, LAYOUT, key, DEPTH).grid) for key in LAYOUT.keys]
    assert len(found.picks) == np.prod(sizes)
    picks = [
        transfer.pick_kept_gains(panels.landscape(runs, LAYOUT, key, DEPTH)) for key in LAYOUT.keys
    ]
    expected = [min(a, b) for a in picks[0] for b in picks[1]]
    assert sorted(found.picks) == pytest.approx(sorted(expected))


def test_an_optimum_at_the_edge_is_called_so() -> None:
    runs = table(lambda point: smooth(point) - point["log2lr"] * (point["width"] == 128))
    assert "log2lr: best at -7 to -6 (edge)," in panels.worst_regret(runs, LAYOUT, WIDTH).note


def test_a_divergence_at_the_transferred_value_is_infinite_regret() -> None:
    runs = table()
    lost = (runs["n_layer"] == 4) & (runs["log2lr"] == -7) & (runs["schedule"] == "constant")
    runs.loc[lost, "diverged"] = True
    found = panels.worst_regret(runs, LAYOUT, DEPTH)
    assert (found.value, found.low, found.high) == (math.inf, math.inf, math.inf)


def test_a_row_for_each_dimension_a_column_for_each_hyperparameter() -> None:
    fig = panels.draw(table(), LAYOUT)
    axes = np.array(fig.axes).reshape(2, 2)
    assert [ax.get_xlabel() for ax in axes[1]] == ["log2 learning rate", "schedule"]
    names = [label.get_text() for label in axes[1, 1].get_xticklabels()]
    assert names == [TITLES[schedule] for schedule in SCHEDULES]
    legends = [[t.get_text() for t in line[-1].get_legend().get_texts()] for line in axes]
    assert legends == [["32", "64", "128"], ["2", "4"]]
    for line in axes:
        assert line[0].get_ylabel() == "training loss (nats)"
        assert all(ax.get_lines() for ax in line)


def test_rows_with_heads_are_compared_on_one_axis() -> None:
    runs = table()
    both = pd.concat([runs, runs.assign(parametrization="sp", final_loss=9 * runs["final_loss"])])
    layout = Layout(LAYOUT.keys, (("sp", "width"), WIDTH))
    fig = panels.draw(both[both["n_layer"] == 2], layout, ("SP", "µP"))
    assert len({ax.get_ylim() for ax in fig.axes}) == 1
    assert fig.axes[0].get_ylabel() == "SP\ntraining loss (nats)"
