"""When an activation blew up, the loss jumped, and the picture of both."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from experiments.analysis import instability, style
from experiments.analysis.instability import BLOW_UP, SETTLING, blow_ups


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def trace(sizes, losses=None) -> pd.DataFrame:
    """A recording of every step; sizes by tensor."""
    steps = range(len(next(iter(sizes.values()))))
    losses = losses or [2.0] * len(steps)
    return pd.DataFrame(
        {"step": step, "tensor": tensor, "size": values[step], "loss": losses[step]}
        for step in steps
        for tensor, values in sizes.items()
    )


def found(sizes, losses=None) -> list[tuple]:
    """(tensor, step) from the top."""
    rows = blow_ups(trace(sizes, losses)).itertuples(index=False)
    return [(row.tensor, None if math.isnan(row.step) else row.step) for row in rows]


CALM = [1.0, 1.2, 0.9, 1.1] * 8
N = len(CALM)


def planted(at, factor=2 * BLOW_UP, scale=1.0) -> list[float]:
    return [scale * (x if i < at else x * factor) for i, x in enumerate(CALM)]


def test_the_first_to_grow_is_on_top() -> None:
    sizes = {"calm": CALM, "late": planted(25, 900.0), "early": planted(20)}
    assert found(sizes) == [("early", 20), ("late", 25), ("calm", None)]


def test_at_one_step_the_larger_growth_is_on_top_whatever_the_scale() -> None:
    sizes = {"a": planted(20, 30.0, scale=1e3), "b": planted(20, 60.0, scale=1e-3)}
    result = blow_ups(trace(sizes))
    assert list(result["tensor"]) == ["b", "a"]
    assert list(result["growth"]) == pytest.approx([1.2 * 60 / 1.05, 1.2 * 30 / 1.05])


def test_nothing_grows() -> None:
    slow = [1.1**i for i in range(N)]  # an activation that grows, but steadily
    small = planted(20, 0.8 * BLOW_UP)
    assert {step for _, step in found({"calm": CALM, "slow": slow, "small": small})} == {None}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_has_blown_up(value) -> None:
    broken = [*CALM[:20], *[value] * (N - 20)]
    sizes = {"calm": CALM, "broken": broken, "later": planted(21)}
    assert found(sizes) == [("broken", 20), ("later", 21), ("calm", None)]
    growth = blow_ups(trace(sizes)).set_index("tensor")["growth"]["broken"]
    assert growth == (math.inf if value == math.inf else pytest.approx(1.2 / 1.05))
    assert found({"only": [value, value]}) == [("only", 0)]


def test_a_readout_that_starts_at_zero_is_measured_by_one() -> None:
    jumps = [2.0, 5.0, *[2.0] * (N - 2)]
    moves, explodes = [0.0, *[0.9 * BLOW_UP] * (N - 1)], [0.0, *[1.1 * BLOW_UP] * (N - 1)]
    assert found({"moves": moves, "explodes": explodes}, jumps)[0] == ("explodes", 1)
    assert ("moves", None) in found({"moves": moves, "explodes": explodes}, jumps)
    assert found({"zero": [0.0] * N}) == [("zero", None)]


def test_the_start_is_judged_only_where_the_loss_jumps() -> None:
    starts = [0.01, 0.01, *[1.0] * (N - 2)]  # a residual branch of a healthy run
    sizes = {"starts": starts, "culprit": planted(20)}
    assert found(sizes) == [("culprit", 20), ("starts", None)]
    late = [*[2.0] * 21, *[4.0] * (N - 21)]
    assert found(sizes, late)[0] == ("culprit", 20)
    early = [2.0, 2.0, 2.0, *[4.0] * (N - 3)]
    assert found(sizes, early)[0] == ("starts", 2)
    short = {"starts": starts[:SETTLING]}
    assert found(short) == [("starts", None)]
    assert found(short, early[:SETTLING]) == [("starts", 2)]


def test_what_hands_on_another_activation_has_no_row() -> None:
    sizes = {"inner": planted(20), "outer": planted(20), "other": CALM}
    assert found(sizes) == [("inner", 20), ("other", None)]


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([5.0, 4.0, 3.0, 4.0, 4.1], 4),
        ([5.0, 4.0, 4.9, 5.0], None),
        ([5.0, 6.5, 3.0], 1),
        ([5.0, math.nan], 1),
        ([math.nan], 0),
        ([5.0, math.inf], 1),
    ],
)
def test_a_jump_is_measured_from_the_lowest_loss(losses, step) -> None:
    assert instability.jump(losses) == step


def test_the_outcome_in_words() -> None:
    calm = instability.outcome([5.0, 4.0], None)
    assert "never jumped" in calm and "did not diverge" in calm
    bad = instability.outcome([5.0, 4.0, 7.0, 60.0], 3)
    assert "jumped at step 2, from 4 to 7 nats" in bad and "diverged at step 3" in bad
    assert "jumped at step 0" in instability.outcome([math.nan], 0)


def test_picture_names_the_first_and_greys_the_rest(tmp_path) -> None:
    broken = [*CALM[:28], *[math.nan] * (N - 28)]
    sizes = {
        "calm": CALM,
        "blocks.0.attention.softmax": planted(20),
        "broken": broken,
        "zero": [0.0, *CALM[1:]],
    }
    table = trace(sizes, [2.0] * (N - 2) + [50.0, math.nan])
    fig = instability.draw(table, N - 1)
    left, right = fig.axes
    assert (left.get_yscale(), right.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        f"jump at step {N - 2}",
        f"diverged at step {N - 1}",
    ]
    named = ["blocks.0.attention logits, step 20", "broken, step 28"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == named
    coloured = [line for line in right.lines if not line.get_label().startswith("_")]
    assert list(coloured[0].get_ydata()) == planted(20)
    assert not any((line.get_ydata() <= 0).any() for line in right.lines[:4])
    style.save(fig, tmp_path / "picture.png")


def test_picture_of_a_calm_run_and_of_a_single_step(tmp_path) -> None:
    for table in (trace({"calm": CALM}), trace({"calm": [1.0]})):
        fig = instability.draw(table)
        assert fig.axes[1].get_title() == "none blew up"
        assert not fig.legends
        assert fig.axes[0].get_legend() is None
        style.save(fig, tmp_path / "picture.png")
