"""Figures 7 and 21 and depth-µP on synthetic runs, and what they declare."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from experiments.analysis import training_curves
from experiments.declare import registry
from experiments.errors import UserError
from experiments.families.transformer_wikitext2 import figures
from experiments.families.transformer_wikitext2.task import LanguageModeling, build
from experiments.train import engine
from experiments.train.process import Machine
from tests.tiny_runs import tiny_run

STEPS, WIDTHS, SEEDS = 100, (32, 64, 128), 5
MACHINE = Machine("cpu", 1, "highest")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def steps(gain=0.2, noise=0.02, turns=STEPS, lost=None) -> pd.DataFrame:
    """Losses of every step; wider is better by `gain`, from step `turns` on worse by as much.

    The last SP model diverges at step `lost` with every seed.
    """
    generator = np.random.default_rng(0)
    rows = []
    for parametrization, rate in (("mup", -7.0), ("sp", -9.0), ("sp", -7.0)):
        for seed in range(SEEDS):
            for i, width in enumerate(WIDTHS):
                end = lost if lost and (parametrization, rate, i) == ("sp", -7.0, 2) else None
                for step in range(STEPS if end is None else end + 1):
                    sign = 1 if step < turns or parametrization == "mup" else -1
                    loss = 7 - step / 50 - sign * gain * i + generator.normal(0, noise)
                    rows.append((parametrization, rate, seed, width, step, loss, end, STEPS))
    columns = "parametrization log2lr seed width step loss diverged_step steps"
    return pd.DataFrame(rows, columns=columns.split())


def violated(name, table):
    return figures.violated(table, name)


def test_windows_are_means_of_neighbouring_steps_in_order() -> None:
    table = steps(noise=0)
    losses, widths, ends = training_curves.windows(figures.settings(table)["mup"].sample(frac=1))
    assert losses.shape == (SEEDS, len(WIDTHS), training_curves.WINDOWS)
    assert tuple(widths) == WIDTHS
    assert ends.tolist() == list(range(2, STEPS + 1, 2))
    np.testing.assert_allclose(losses[0, 1], 7 - np.arange(0.5, STEPS, 2) / 50 - 0.2)


def test_violations_are_those_that_were_planted() -> None:
    table = steps(turns=70)
    assert violated("mup", table).value == 0
    for measure in ("sp_low", "sp_high"):
        found = violated(measure, table)
        assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3, 0.3))
        assert "32 to 64: 0.30, 64 to 128: 0.30" in found.note


def test_noise_alone_is_seldom_a_violation() -> None:
    found = violated("mup", steps(gain=0.0))
    assert found.value < 0.15  # nominally 5 % of the windows


def test_a_diverged_model_is_worse_from_there_on() -> None:
    table = steps(lost=59)
    found = violated("sp_high", table)
    assert found.value == pytest.approx(0.42)  # windows that hold steps 59 to 99
    assert "32 to 64: 0.00" in found.note
    assert len(figures.draw_fig7(table).axes) == 6


def test_fig7_needs_two_seeds() -> None:
    table = steps()
    assert math.isnan(violated("mup", table[table["seed"] == 0]).value)


def replayed(onsets=(0, 0, 0)) -> pd.DataFrame:
    """Fig. 21 with an instability at log2lr -5 - i, and in the replay later by `onsets`."""
    rows = []
    for parametrization in ("sp", "mup"):
        for i, width in enumerate(WIDTHS):
            onset = -5 - i + (onsets[i] if parametrization == "mup" else 0)
            for rate in range(-11, -2):
                loss = 4 + 0.05 * (rate + 9) ** 2 + 2 * (rate >= onset)
                sizes = (width, 32) if parametrization == "sp" else (32, width)
                rows += [(parametrization, *sizes, rate, seed, loss, False) for seed in (0, 1)]
    columns = "parametrization width base_width log2lr seed final_loss diverged"
    return pd.DataFrame(rows, columns=columns.split())


@pytest.mark.parametrize(("onsets", "steps"), [((0, 0, 0), 0), ((0, 1, 0), 1), ((0, 0, -2), 2)])
def test_fig21_measures_how_far_the_onsets_lie_apart(onsets, steps) -> None:
    found = figures.fig21_onset_difference(replayed(onsets))
    assert found.value == steps
    assert "32: -5 actual" in found.note
    assert [ax.get_title() for ax in figures.draw_fig21(replayed(onsets)).axes] == [
        "Actual width (SP)",
        "Simulated width (µP, width 32)",
    ]


def test_fig21_is_not_judged_without_an_instability() -> None:
    runs = replayed()
    assert math.isnan(figures.fig21_onset_difference(runs[runs["log2lr"] < -7]).value)


def test_fig21_replays_the_wide_models_dimensions() -> None:
    for scale in ("small", "gpu", "paper"):
        runs = registry.product("fig21").runs(scale, "wikitext2")
        actual = {r.width: r.dims() for r in runs if r.parametrization == "sp"}
        replays = [r for r in runs if r.parametrization == "mup"]
        assert {r.width for r in replays} == {min(actual)}
        assert {r.base_width for r in replays} == set(actual)
        for run in replays:
            assert run.dims(base=True) == actual[run.base_width]
            assert run.dims() == actual[run.width]


# Depth-µP


def depth(**changes):
    return tiny_run(**{"norm": "pre", "n_layer": 8, "base_n_layer": 2, **changes})


def test_depth_mup_changes_nothing_at_its_base_depth(tiny) -> None:
    plain, based = depth(base_n_layer=None, n_layer=2), depth(n_layer=2)
    assert plain.id != based.id
    losses = [engine.train(r, LanguageModeling(r), MACHINE).losses for r in (plain, based)]
    assert losses[0] == losses[1]


def test_depth_mup_scales_branches_and_rates_inside_them() -> None:
    factor = (2 / 8) ** 0.5
    config = depth()
    torch.manual_seed(0)
    model = build(config)
    assert {block.branch_mult for block in model.blocks} == {factor}
    optimizer = engine.make_optimizer(model, config)
    plain = engine.make_optimizer(model_without := build(depth(base_n_layer=None)), config)

    def rates(model, optimizer):
        names = {id(p): name for name, p in model.named_parameters()}
        return {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}

    scaled, usual = rates(model, optimizer), rates(model_without, plain)
    assert scaled.keys() == usual.keys()
    for name, rate in scaled.items():
        inside = name.startswith("blocks.")
        assert rate == pytest.approx(usual[name] * (factor if inside else 1)), name


@pytest.mark.parametrize(("scaled", "flat"), [(True, True), (False, False)])
def test_depth_mup_keeps_what_a_step_does_to_the_output(scaled, flat) -> None:
    """How far the last residual stream moves in one step, at depth 64 over that at depth 4."""
    moves = []
    for n_layer in (4, 64):
        config = tiny_run(
            norm="pre",
            n_layer=n_layer,
            base_n_layer=4 if scaled else None,
            width=64,
            base_width=64,
            log2lr=-9,
            zero_readout=False,
        )
        torch.manual_seed(0)
        model = build(config)
        seen = []

        def look(_, args, seen=seen):
            seen.append(args[0].detach())

        model.final_norm.register_forward_pre_hook(look)
        tokens = torch.randint(config.vocab_size, (8, config.seq_len + 1))
        for _ in range(2):
            optimizer = engine.make_optimizer(model, config)
            logits = model(tokens[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        moves.append(float((seen[1] - seen[0]).square().mean().sqrt()))
    assert (moves[1] / moves[0] < 1.6) == flat, moves


def test_depth_mup_is_refused_where_it_means_nothing() -> None:
    with pytest.raises(UserError, match="base_n_layer: depth-µP needs norm=pre"):
        depth(norm="post")
