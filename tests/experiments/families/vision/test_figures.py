"""Pictures, tables and claims of the image families on synthetic runs."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.analysis import searched, text_table
from experiments.declare import registry
from experiments.declare.references import load
from experiments.declare.scales import SCALES, Scale
from experiments.families.mlp_cifar10 import figures as mlp
from experiments.families.resnet_cifar10 import figures as resnet
from experiments.families.resnet_cifar10.spec import GRID, ResNetConfig
from experiments.families.wide_resnet_imagenet import figures as wide
from experiments.products import draw

FAMILIES = ("mlp_cifar10", "resnet_cifar10", "wide_resnet_imagenet")
NAMES = [p.name for f in FAMILIES for p in registry.exhibit(f).products]


@pytest.mark.parametrize(("name", "code"), [("table12", resnet), ("table13", wide)])
def test_the_papers_difference_is_that_of_its_accuracies(name, code) -> None:
    sp, mup = (code.PAPER[parametrization][-1] for parametrization in ("sp", "mup"))
    difference = float(mup.rstrip(" %")) - float(sp.rstrip(" %"))
    (claim,) = registry.product(name).claims
    said = f"{difference:.2f} percentage points: {mup} in µP, {sp} in SP ("
    assert claim.paper.startswith(said)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def table(name: str, loss, accuracy=lambda run: 0.5, scale: str = "smoke") -> pd.DataFrame:
    """A tidy table of a product's runs with a loss and an accuracy for each; None is divergence."""
    source = [*registry.exhibit(registry.product(name).exhibit).data_sources][-1]
    rows = []
    for run in registry.product(name).runs(scale, source):
        value = loss(run)
        rows.append(
            {
                "id": run.id,
                "family": run.family,
                **run.model_dump(),
                "final_loss": math.nan if value is None else value,
                "diverged": value is None,
                "valid_accuracy": math.nan if value is None else accuracy(run),
            }
        )
    return pd.DataFrame(rows)


def with_targets(name: str, runs: pd.DataFrame, accuracy) -> pd.DataFrame:
    """The table with the runs that follow, as `collect` makes it."""
    product = registry.product(name)
    declared = product.runs(
        "smoke", [*registry.exhibit(registry.product(name).exhibit).data_sources][-1]
    )
    rows = [
        {
            "id": run.id,
            "family": run.family,
            **run.model_dump(),
            "final_loss": 1.0,
            "diverged": False,
            "valid_accuracy": accuracy(run),
        }
        for run in load(product.follow_up, name)(declared, runs, "smoke")
    ]
    return pd.concat([runs, pd.DataFrame(rows)], ignore_index=True)


def bowl(run, t: float | None = None) -> float:
    """An optimum that moves with width in SP, stands still in µP, goes the other way beyond."""
    t = (run.t if run.parametrization == "mup" else 0.0) if t is None else t
    doublings = math.log2(run.width / 8)
    rates = sorted({r.log2lr for r in registry.product("fig3").runs("smoke", "digits")})
    optimum = rates[1] - 0.4 * (1 - t) * doublings
    noise = 0.003 * math.sin(7 * run.seed + run.width + 3 * run.log2lr)
    return 1 + 0.1 * (run.log2lr - optimum) ** 2 - 0.05 * t * doublings + noise


def test_what_stands_still_is_found() -> None:
    runs = table("post_interpolation", bowl)
    still, least = mlp.still_at(runs), mlp.regret_above_least(runs)
    assert still.value < 0.1 and "it is at" in still.note
    assert least.value <= 0.01


def test_what_stands_still_elsewhere_is_found_there() -> None:
    def late(run) -> float:
        return bowl(run, run.t - 0.5 if run.parametrization == "mup" else -0.5)

    found = mlp.still_at(table("post_interpolation", late))
    assert found.value == pytest.approx(0.5, abs=0.1)


def test_what_the_post_says_of_the_curves_is_found() -> None:
    runs = table("post_interpolation", lambda run: bowl(run) + 0.05 * abs(run.t - 1))
    best, crossing = mlp.widest_above_least(runs), mlp.crossing(runs)
    assert best.value < 0 and best.note.startswith("best loss of the widest by t 0: ")
    assert crossing.value < 1 and "by t 0: " in crossing.note


@pytest.mark.parametrize("of", ["a late t", "a divergence", "a crossing"])
def test_what_the_post_says_can_fail(of) -> None:
    def loss(run) -> float | None:
        mup = run.parametrization == "mup" and run.t == 1
        if mup and run.width == 16 and run.log2lr == max(rates):
            return {"a late t": bowl(run), "a divergence": None, "a crossing": bowl(run) + 1}[of]
        return bowl(run) - (of == "a late t" and run.parametrization == "mup" and run.t == 1.5)

    rates = {run.log2lr for run in registry.product("post_interpolation").runs("smoke", "digits")}
    runs = table("post_interpolation", loss)
    assert (mlp.widest_above_least(runs).value > 0.5) == (of == "a late t")
    assert (mlp.crossing(runs).value > 1) == (of != "a late t")
    assert math.isinf(mlp.crossing(runs).value) == (of == "a divergence")


def test_tanh_is_judged_beside_relu() -> None:
    def loss(run) -> float:  # ReLU's curves change no more after the first widening
        widening = {8: 0.0, 16: 1.0, 32: 1.5 if run.activation == "tanh" else 1.1}[run.width]
        return 3 - widening - (run.parametrization == "mup") + 0.01 * run.seed

    widths = table("fig9", lambda run: 1.0)
    rows = []
    for _, row in widths[widths["width"] == 8].iterrows():
        rows += [row.to_dict() | {"width": width} for width in (8, 16, 32)]
    runs = pd.DataFrame(rows)
    runs["final_loss"] = [loss(row) for row in runs.itertuples()]
    assert mlp.slower_convergence(runs).value == pytest.approx(0.4)
    assert mlp.mup_minus_sp(runs, "tanh", "xent").value == pytest.approx(-1)
    assert mlp.mup_minus_sp(runs, "tanh", "mse").value == pytest.approx(-1)
    assert math.isnan(mlp.slower_convergence(widths).value)  # two widths


def test_accuracy_is_drawn_and_judged_by_error() -> None:
    def accuracy(run) -> float:
        rate = -abs(run.log2lr + 2) / 20 - abs(math.log2(run.output_mult) - 2) / 20
        widest = run.width == 4
        gain = {"sp": -0.02 * widest, "mup": 0.1 * widest}[run.parametrization]
        return 0.6 + rate + gain + 0.001 * run.seed

    runs = table("fig16", lambda run: 1.0, accuracy)
    runs.loc[(runs["parametrization"] == "mup") & runs["output_mult"].eq(16), "diverged"] = True
    found = {c.id: load(c.measure, "a test")(runs) for c in registry.product("fig16").claims}
    assert found["mup-rate-stays"].value == found["mup-multiplier-stays"].value == 0
    assert found["sp-widest-underperforms"].value == pytest.approx(-2)
    assert found["mup-beats-sp"].value == pytest.approx(12)
    assert found["mup-transfers"].value == found["sp-does-not-transfer"].value == 0
    assert found["mup-keeps-gain"].value == 1
    assert math.isnan(found["sp-loses-gain"].value)  # the widest is worse than the narrowest
    assert found["mup-wider-is-better"].value < 0
    axes = resnet.draw_fig16(runs).axes
    drawn = axes[1].lines[0].get_ydata()
    sp = runs[(runs["parametrization"] == "mup") & (runs["width"] == 2)]
    sp = sp[sp["output_mult"] == 4.0].groupby("log2lr")["valid_accuracy"].mean()
    np.testing.assert_allclose(drawn, 100 * sp)


GOOD = {"log2lr": -4.0, "output_mult": 4.0}


def test_the_winner_is_carried_to_the_wide_model() -> None:
    def accuracy(run) -> float:
        return 0.5 + 0.1 * all(getattr(run, key) == value for key, value in GOOD.items())

    runs = table("table12", lambda run: 1.0, accuracy)
    declared = GRID.runs("smoke", "digits")
    chosen = resnet.carry(declared, runs, "smoke")
    assert {(r.parametrization, r.width, r.seed) for r in chosen} == {
        (p, 4, s) for p in ("sp", "mup") for s in (0, 1)
    }
    assert all({k: getattr(r, k) for k in GOOD} == GOOD for r in chosen)
    assert all(isinstance(r, ResNetConfig) and r.images == 32 for r in chosen)


def test_a_diverged_point_does_not_win() -> None:
    runs = table("table12", lambda run: None if run.output_mult == 4 else 1.0, lambda run: 0.1)
    assert searched.winner(runs, "mup", resnet.KEYS)["output_mult"] == 1
    assert searched.winner(runs, "sp", resnet.KEYS)["output_mult"] == 1  # equal when narrow


@pytest.mark.parametrize(("right", "judged"), [(0.09, False), (0.11, True)])
def test_models_that_hardly_learn_are_not_compared(right, judged) -> None:
    runs = table("table13", lambda run: 1.0, lambda run: 0.02).assign(data="tiny_imagenet")
    runs = with_targets("table13", runs, lambda run: right - 0.01 * (run.parametrization == "sp"))
    (claim,) = registry.product("table13").claims
    measured = load(claim.measure, "a test")(runs.assign(data="tiny_imagenet"))
    assert math.isnan(measured.value) != judged
    assert judged or measured.note.startswith("the better one is right in 9.0 % of 100 classes")


@pytest.mark.parametrize(
    ("name", "render", "paper"),
    [("table12", resnet.render_table12, "95.29 %"), ("table13", wide.render_table13, "77.16 %")],
)
def test_tables_have_the_papers_numbers_beside_ours(name, render, paper) -> None:
    def accuracy(run) -> float:
        return 0.3 + 0.2 * (run.parametrization == "mup") + 0.01 * run.seed

    runs = with_targets(name, table(name, lambda run: 1.0, lambda run: 0.2), accuracy)
    text = text_table.markdown(render(runs))
    assert "**SP, here" in text and "30.50 ± 0.50 %" in text and "50.50 ± 0.50 %" in text
    assert paper in text
    above = searched.mup_above_sp(runs)
    assert (above.value, above.low, above.high) == pytest.approx((20, 20, 20))


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_drawn_and_measured_from_a_tiny_table(name, tmp_path, monkeypatch) -> None:
    product = registry.product(name)

    def loss(run) -> float | None:
        return None if run.log2lr > 100 else 1 + 0.01 * run.seed + 0.1 * math.cos(run.log2lr)

    runs = table(name, loss)
    if product.follow_up:
        runs = with_targets(name, runs, lambda run: 0.5)
    monkeypatch.setattr(draw, "read_runs", lambda *args: (runs, "smoke"))
    monkeypatch.setattr(draw, "figures_dir", lambda results: tmp_path)
    monkeypatch.setattr(draw, "claims_file", lambda *args: tmp_path / "claims.json")
    monkeypatch.setattr(draw, "mixed", lambda *args: [])  # they have no provenance
    found = draw.draw(product, "smoke")
    assert {v.verdict for v in found} <= {"not judged"}
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{name}.{suffix}" for suffix in product.suffixes),
        "claims.json",
    }
    assert all(path.stat().st_size > 100 or path.suffix == ".json" for path in tmp_path.iterdir())
    if name == "post_animation":
        with Image.open(tmp_path / "post_animation.gif") as gif:
            assert gif.n_frames == 12  # seven there, and back
        page = (tmp_path / "post_animation.html").read_text()
        assert 'type="range"' in page and "fa-" not in page and "<link" not in page


@pytest.mark.parametrize("scale", SCALES)
def test_the_animation_has_one_grid_of_rates_at_every_t(scale: Scale) -> None:
    grids: dict[float, set[float]] = {}
    for run in registry.product("post_animation").runs(scale, "cifar10"):
        t = run.t if run.parametrization == "mup" else 0.0
        grids.setdefault(t, set()).add(run.log2lr)
    assert len(grids) == 7
    assert len({frozenset(grid) for grid in grids.values()}) == 1


def test_all_panels_of_the_animation_have_one_axis() -> None:
    mlp.draw_frames(table("post_animation", bowl))
    assert len({ax.get_xlim() for ax in plt.gcf().axes}) == 1


def test_the_animation_holds_at_sp_and_at_mup_and_shows_t() -> None:
    frames = mlp.animate(table("post_animation", bowl))
    assert [frames.names[i] for i in frames.held] == ["t = 0 (SP)", "t = 1 (µP)"]
    line, panel = frames.figure.axes
    for i, name in enumerate(frames.names):
        frames.show(i)
        assert panel.get_title() == name
        assert f"t = {line.lines[-1].get_xdata()[0]:g}" in name


def test_an_infinite_regret_is_said_in_words() -> None:
    runs = table(
        "post_interpolation",
        lambda run: None if run.parametrization == "sp" and run.width == 16 else bowl(run),
    )
    fig = mlp.draw_interpolation(runs)
    said = [t.get_text() for ax in fig.axes if ax.get_legend() for t in ax.get_legend().texts]
    assert said and all(text in (mlp.INFINITE, mlp.NO_VALUE) for text in said)
