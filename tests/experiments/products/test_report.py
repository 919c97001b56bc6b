"""The page of everything: pictures, claims, differences, comparison, and how a browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from experiments.analysis import conventions, landscapes, style
from experiments.analysis.transfer import Landscape
from experiments.analysis.verdicts import Verdict
from experiments.declare import registry
from experiments.errors import UserError
from experiments.products import compare
from experiments.products.report import page
from experiments.products.report.bullets import bullet
from experiments.products.report.differences import differences
from experiments.products.report.interactive import interactive
from experiments.products.report.moving import moving
from experiments.products.report.traces import NotShownError, markup
from experiments.products.report.views import COST, EXCESS, LOSS

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "report" / "reference.html"
INF = np.inf
SCAPE = Landscape(
    np.array([[[3.0, 2.0, 4.0], [2.5, 1.0, INF]], [[3.2, 2.2, 4.2], [2.7, 1.2, 5.0]]]),
    np.array([32, 64]),
    np.array([-9.0, -8.0, -7.0]),
    np.full((2, 2, 3), np.nan),
)
SCAPE.lost_at[0, 1, 2] = 17
HOLDS = Verdict("a", "It stays", "Fig. 1", "holds", 0.5, 0.2, 0.7, "<=", 1.0, "steps", "")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def picture(scape: Landscape = SCAPE):
    fig, axes = style.subplots(1, 2, sharey=True)
    landscapes.curves([(ax, scape) for ax in axes])
    for ax, name in zip(axes, ("sp", "mup"), strict=True):
        ax.set_title(conventions.NAME[name], color=conventions.COLOR[name])
        style.log2_axis(ax, "log2 learning rate")
    axes[0].set_ylabel("training loss (nats)")
    axes[0].axhline(1.1, linestyle="--")
    style.legend(fig, axes[0], "width")
    return fig


def shown(fig, view: int) -> list:
    """The traces of a view, as its button shows them."""
    visible = fig.layout.updatemenus[0].buttons[view].args[0]["visible"]
    return [trace for trace, on in zip(fig.data, visible, strict=True) if on]


# Pictures


def test_curves_of_every_size_are_those_of_the_picture() -> None:
    fig = interactive(picture())
    curves = {
        (trace.name, trace.xaxis): trace.y
        for trace in shown(fig, LOSS)
        if trace.mode == "lines+markers"
    }
    assert {name for name, _ in curves} == {"32", "64"}
    assert len(curves) == 4
    assert curves["32", "x"] == (3.1, 2.1, 4.1)
    assert curves["64", "x"] == (2.6, 1.1, None)  # one seed diverged


def test_one_legend_entry_for_a_size_in_all_panels() -> None:
    for view in (LOSS, EXCESS):
        named = [trace.name for trace in shown(interactive(picture()), view) if trace.showlegend]
        assert sorted(named) == ["32", "64"]


def test_a_view_shows_what_each_curve_loses_to_its_best() -> None:
    fig = interactive(picture())
    curves = [t.y for t in shown(fig, EXCESS) if t.mode == "lines+markers"]
    assert curves[0] == pytest.approx((1.0, 0.0, 2.0))
    assert curves[1] == (1.5, 0.0, None)


def test_a_view_shows_what_the_smallest_ones_best_value_costs() -> None:
    moved = replace(SCAPE, losses=np.array([[[2.0, 3.0, 4.0], [2.5, 1.0, 2.0]]]))
    (cost, other) = shown(interactive(picture(moved)), COST)
    assert cost.x == (5.0, 6.0) and cost.y == (0.0, 1.5)
    assert cost.marker.color == conventions.COLOR["sp"]
    assert other.marker.color == conventions.COLOR["mup"]
    lost = replace(SCAPE, losses=np.array([[[2.0, 3.0, 4.0], [INF, 1.0, 2.0]]]))
    (cost, _) = shown(interactive(picture(lost)), COST)
    assert "diverges" in cost.customdata[1]
    assert cost.marker.symbol == ("circle", "x-thin")


def test_the_pointer_tells_every_seed_and_divergences() -> None:
    curves = [t for t in shown(interactive(picture()), LOSS) if t.mode == "lines+markers"]
    assert curves[0].customdata[1] == "<b>2.1</b> at −8<br>by seed 2, 2.2"
    assert "diverged</b> with 1 of 2 seeds, at step 17" in curves[1].customdata[2]


def test_divergences_stand_above_the_panel_and_are_left_out_where_values_are_no_axis() -> None:
    fig = interactive(picture())
    crosses = [t for t in fig.data if t.mode == "markers" and t.marker.symbol == "x"]
    assert all(t.marker.color == "white" for t in crosses)  # some seeds alone
    assert {t.x for t in crosses} == {(-7.0,)}
    assert crosses[0].customdata == ("<b>diverged</b> with 1 of 2 seeds, at step 17",)
    assert not [t for t in shown(fig, COST) if t in crosses]


def test_other_results_are_laid_over_under_the_same_names() -> None:
    worse = replace(SCAPE, losses=SCAPE.losses + 1)
    over = [
        t
        for t in interactive(picture(), picture(worse)).data
        if str(t.hovertemplate).startswith("compared")
    ]
    assert [t.y[0] for t in over] == [4.1, 3.6, 4.1, 3.6]
    assert all(t.line.dash == "dot" and not t.showlegend for t in over)


def test_what_cannot_be_converted_is_refused() -> None:
    fig, ax = style.subplots()
    ax.axis("off")
    with pytest.raises(NotShownError):
        interactive(fig)
    fig, ax = style.subplots()
    ax.annotate("", (0, 0), (1, 1), arrowprops={"arrowstyle": "->"})
    with pytest.raises(NotShownError):
        interactive(fig)
    fig, ax = style.subplots()
    ax.table([["1"]])
    with pytest.raises(NotShownError):
        interactive(fig)


def test_the_mathematics_of_labels() -> None:
    assert markup(r"$\mathdefault{2^{-5}}$") == "2<sup>-5</sup>"
    assert markup("a < b\n$q^{\\top}k$") == "a &lt; b<br>qᵀk"


def test_a_slider_moves_curves_drift_and_cost_together() -> None:
    fig = moving({0.0: SCAPE, 1.0: replace(SCAPE, losses=SCAPE.losses - 1)}, "loss")
    assert [step.label for step in fig.layout.sliders[0].steps] == ["0 SP", "1 µP"]
    first, last = fig.frames
    assert len(last.data) == len(last.traces)
    assert last.data[0].y[0] == pytest.approx(first.data[0].y[0] - 1)
    marks = [trace.x for trace in last.data[-2:]]
    assert (1.0,) in marks
    moved = [fig.data[i] for i in last.traces]
    assert [t.xaxis for t in moved[-2:]] == ["x2", "x3"]


# Claims and differences


def test_a_bullet_shows_side_threshold_interval_and_value() -> None:
    drawn = bullet(HOLDS)
    numbers = {
        kind: float(re.search(f'class="{kind}"[^>]*?(?:x1|cx|x)="([0-9.]+)"', drawn)[1])
        for kind in ("side", "threshold", "interval", "value")
    }
    assert numbers["side"] < numbers["interval"] < numbers["value"] < numbers["threshold"]
    assert "measured 0.5 [0.2, 0.7], claimed &lt;= 1 steps" in drawn
    other = bullet(replace(HOLDS, relation=">=", low=None, high=None))
    assert 'class="interval"' not in other
    assert float(re.search(r'class="side" x="([0-9.]+)"', other)[1]) == numbers_of_threshold(other)
    assert bullet(replace(HOLDS, value=None)) == ""


def numbers_of_threshold(drawn: str) -> float:
    return float(re.search(r'class="threshold" x1="([0-9.]+)"', drawn)[1])


def test_differences_come_from_the_two_declarations() -> None:
    fig1 = registry.product("fig1")
    found = {key: (paper, here) for key, paper, here in differences(fig1, "small", ["wikitext2"])}
    assert found["width"] == ("128, 256, 512, 1,024, 2,048, 4,096, 8,192", "32, 64, 128, 256")
    assert "n_layer" not in found and "data" not in found
    other = differences(fig1, "small", ["wikipedia_sample"])
    assert next(row for row in other if row[0] == "data")[1].startswith("WikiText-2")
    assert differences(fig1, "paper", ["wikitext2"]) == []


def test_verdicts_of_two_results_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "one": [HOLDS, replace(HOLDS, id="b")],
        "two": [replace(HOLDS, verdict="fails", value=2.0), replace(HOLDS, id="c")],
    }
    monkeypatch.setattr(compare, "claims_file", lambda product, results: _File(found[results]))
    monkeypatch.setattr(compare.verdicts, "read", lambda file: file.found)
    changes = compare.compare([registry.product("fig1")], "one", "two")
    assert [change.changed for change in changes] == [True, True, True]
    assert changes[0].difference == 1.5
    assert changes[1].after is None and changes[2].before is None
    monkeypatch.setattr(compare, "claims_file", lambda product, results: ROOT / "nothing")
    with pytest.raises(UserError, match="in common"):
        compare.compare([registry.product("fig1")], "one", "two")


class _File:
    def __init__(self, found: list[Verdict]):
        self.found = found

    def exists(self) -> bool:
        return True


# The page


@pytest.mark.slow
def test_the_committed_page_is_that_of_the_reference(tmp_path: Path) -> None:
    made = page.make_report("reference", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == PAGE.read_bytes(), (
        "make it again: python -m experiments report reference --output report/reference.html"
    )
    labels = {entry.label for entry in made}
    assert {f"Figure {n}" for n in range(1, 22)} | {f"Table {n}" for n in range(1, 15)} <= labels
    assert not [entry.name for entry in made if entry.missing]
    pictures = [entry for entry in made if registry.product(entry.name).kinds[0] == "svg"]
    as_it_is = [entry.name for entry in pictures if not entry.plots]
    assert as_it_is == ["fig2", "fig11"]  # schematics


def test_the_page_of_nothing_says_what_is_missing(tmp_path: Path) -> None:
    made = page.make_report(str(tmp_path), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    missing = [entry for entry in made if entry.missing]
    assert len(missing) == len(made)
    assert "snakemake fig1" in text and "not yet" in text


def test_tables_that_cannot_be_drawn_are_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("fig20", "table14")
    for name in names:
        shutil.copytree(ROOT / "results" / "reference" / name, tmp_path / name)
    kept = {name: registry.product(name) for name in names}
    monkeypatch.setattr(registry, "products", lambda: kept)
    monkeypatch.setattr(page, "NUMBERED", {})
    whole = page.make_report(str(tmp_path), tmp_path / "page.html", "reference")
    assert [entry.missing for entry in whole] == ["", ""]
    assert whole[0].others.keys() == {verdict.id for verdict in whole[0].found}
    assert "<h4>reference</h4>" in (tmp_path / "page.html").read_text(encoding="utf-8")

    def broken(runs: object) -> None:
        raise KeyError("width")

    monkeypatch.setattr(page, "load", lambda reference, name: broken)
    for entry in page.make_report(str(tmp_path), tmp_path / "page.html"):
        assert f"{tmp_path / entry.name} cannot be drawn" in entry.missing


def test_the_page_asks_the_net_for_nothing() -> None:
    text = PAGE.read_text(encoding="utf-8")
    head = text[: text.index("<script>")]
    assert not re.findall(r'(?:src|href)="(?!#|data:)', head)
    assert '<link rel="stylesheet"' not in text


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
PROBE = """
<script>
addEventListener("load", async () => {
  near.disconnect();
  const places = [...document.querySelectorAll(".plot")];
  for (const place of places) if (!place.dataset.done) await show(place);
  const drawn = places.filter((p) => p.querySelector(".main-svg") && p.querySelector(".trace"));
  const moving = document.querySelector("#post_animation .plot");
  const before = JSON.stringify(moving.data.map((t) => t.x).concat(moving.data.map((t) => t.y)));
  await Plotly.animate(moving, ["1"], { mode: "immediate", frame: { duration: 0, redraw: true } });
  const after = JSON.stringify(moving.data.map((t) => t.x).concat(moving.data.map((t) => t.y)));
  document.getElementById("verdict").value = "fails";
  filter();
  const left = [...document.querySelectorAll("article:not([hidden])")].map((a) => a.id);
  const wide = document.documentElement.scrollWidth > window.innerWidth;
  const requests = performance.getEntriesByType("resource").length;
  document.body.dataset.probe = JSON.stringify({
    places: places.length, drawn: drawn.length, moved: before !== after, left, wide, requests,
  });
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("size", ["1280,900", "390,844"])
def test_a_browser_shows_every_picture_without_an_error(tmp_path: Path, size: str) -> None:
    (tmp_path / "page.html").write_text(PAGE.read_text(encoding="utf-8") + PROBE, encoding="utf-8")
    command = [
        str(CHROMIUM),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        *(f"--window-size={size}", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--virtual-time-budget=120000", "--dump-dom", f"file://{tmp_path / 'page.html'}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', done.stdout)[1]))
    assert found["drawn"] == found["places"] > 30
    assert found["moved"] and not found["wide"]
    assert found["requests"] == 0
    assert "fig4" in found["left"] and "fig1" not in found["left"]
