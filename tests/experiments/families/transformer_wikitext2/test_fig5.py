"""The coordinate check's claims, on tables with known exponents, and its measurement."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from experiments.analysis import style, verdicts
from experiments.declare.references import load
from experiments.families.transformer_wikitext2 import fig5
from experiments.families.transformer_wikitext2.spec import COORDINATES, FIG5, POST_FIG1

WIDTHS = (16, 32, 64, 128)


def table(**powers: float) -> pd.DataFrame:
    """Changes that follow powers of width: sp_logits=1 and so on, 0 where none is given."""
    noise = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "parametrization": p,
            "width": width,
            "seed": seed,
            "step": step,
            "quantity": quantity,
            "size": 1.0,
            "change": step
            * width ** powers.get(f"{p}_{quantity}".replace(" ", "_"), 0.0)
            * noise.uniform(0.95, 1.05),
        }
        for p in fig5.ROWS
        for quantity in fig5.QUANTITIES
        for width in WIDTHS
        for seed in range(3)
        for step in range(3)
    )


def test_exponents_are_found():
    blown = table(sp_logits=1.0, sp_attention_logits=2.0)
    assert fig5.least_exponent(blown, "sp", "logits").value == pytest.approx(1, abs=0.05)
    assert fig5.least_exponent(blown, "sp", "attention logits").value == pytest.approx(2, abs=0.05)
    assert fig5.farthest_exponent(blown, "sp", ["word embeddings"]).value == pytest.approx(
        0, abs=0.05
    )


@pytest.mark.parametrize("power", [0.5, -0.5])
@pytest.mark.parametrize("quantity", fig5.QUANTITIES)
def test_one_quantity_that_scales_in_mup_decides(quantity, power):
    wrong = table(**{f"mup_{quantity}".replace(" ", "_"): power})
    found = fig5.farthest_exponent(wrong, "mup")
    assert found.value == pytest.approx(0.5, abs=0.05)
    assert 0.4 < found.low < found.high < 0.6
    assert fig5.farthest_exponent(table(), "mup").high < 0.1


def test_one_step_decides():
    """A bug that shows after one step and not after the last one."""
    for quantity in fig5.QUANTITIES:
        runs = table(sp_logits=1.0)
        at = (runs["step"] == 1) & (runs["quantity"] == quantity)
        late = runs["change"].where(~at, runs["change"] * runs["width"] ** -0.5)
        found = fig5.farthest_exponent(runs.assign(change=late), "mup")
        assert found.value == pytest.approx(0.5, abs=0.05)
        steps = fig5.change_exponents(runs.assign(change=late), "mup", (quantity,))
        assert [*steps] == [f"{quantity}, step 1", f"{quantity}, step 2"]
        assert [m.value for m in steps.values()] == pytest.approx([-0.5, 0], abs=0.05)
        sp = fig5.least_exponent(runs.assign(change=late), "sp", "logits").value
        assert sp == pytest.approx(0.5 if quantity == "logits" else 1.0, abs=0.05)


def test_what_does_not_move_or_is_not_finite_is_not_judged():
    still = table()
    still.loc[still["width"] == 16, "change"] = 0.0
    assert np.isnan(fig5.least_exponent(still, "sp", "logits").value)
    blown = table()
    blown.loc[blown["width"] == 128, "change"] = np.inf
    assert np.isnan(fig5.farthest_exponent(blown, "mup").value)


def test_the_measurement_is_repeatable_and_starts_at_zero():
    from experiments.families.transformer_wikitext2.coordinates import QUANTITIES, measure

    settings = {**COORDINATES.at("smoke"), "widths": (16, 32), "seeds": (0,)}
    first, second = measure(settings, "wikipedia_sample"), measure(settings, "wikipedia_sample")
    pd.testing.assert_frame_equal(first, second)
    assert (first.loc[first["step"] == 0, "change"] == 0).all()
    assert (first.loc[first["step"] > 0, "change"] > 0).all()
    assert set(first["quantity"]) == set(QUANTITIES.values())
    sp, mup = (first[first["parametrization"] == p].reset_index(drop=True) for p in fig5.ROWS)
    base = sp["width"] == settings["base"]["base_width"]
    columns = ["size", "change"]
    pd.testing.assert_frame_equal(sp.loc[base, columns], mup.loc[base, columns])


@pytest.mark.parametrize("figure", [FIG5, POST_FIG1], ids=lambda figure: figure.name)
def test_the_figures_draw(figure, tmp_path):
    picture = load(figure.draw, "a test")(table(sp_logits=1.0))
    style.save(picture, tmp_path / "picture.svg")
    assert all(ax.has_data() for ax in picture.axes)
    plt.close(picture)


def test_the_claims_are_judged_as_declared():
    right = table(sp_logits=1.0, sp_attention_logits=1.0)
    assert {verdicts.judge(c, right, "small").verdict for c in FIG5.claims} == {"holds"}
    found = {c.id: verdicts.judge(c, table(), "small").verdict for c in FIG5.claims}
    assert found["sp-logits-blow-up"] == found["sp-attention-logits-blow-up"] == "fails"
