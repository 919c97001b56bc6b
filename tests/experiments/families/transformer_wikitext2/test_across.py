"""What the figures across width, depth and time declare."""

import pytest

from experiments.declare import registry
from experiments.declare.scales import SCALES
from experiments.declare.schedules import SCHEDULES
from experiments.families.transformer_wikitext2 import spec_across

LAYOUTS = {
    "fig4": spec_across.PANELS4,
    "fig13": spec_across.LAYOUT13,
    "fig17": spec_across.PANELS17,
    "fig18": spec_across.PANELS18,
    "fig19": spec_across.PANELS19,
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_has_a_sweep_for_each_panel(name, scale) -> None:
    layout, product = LAYOUTS[name], registry.product(name)
    swept = set()
    for sweep in product.sweeps:
        axes = {key: values for key, values in sweep.axes(scale).items() if key != "seed"}
        swept.add(next(key for key in axes if key in layout.keys))
        sizes = {key for key in axes if key in {along for _, along in layout.rows}}
        assert sizes or name == "fig13"  # whose widths come with their heads
    assert swept == set(layout.keys)


def test_what_is_swept_holds_the_usual_value() -> None:
    for scale in ("small", "smoke"):
        for key, values in spec_across.VALUES.items():
            usual = spec_across.USUAL_AT[scale].get(
                key, {"schedule": "constant", "beta2": 0.999}.get(key)
            )
            assert usual in values[scale], key


def test_the_caption_of_figure_4() -> None:
    runs = registry.product("fig4").runs("paper", "wikitext2")
    usual = [run for run in runs if run.n_layer == 2 and run.width == 256]
    assert {(r.steps, r.batch_size, r.seq_len, r.base_width) for r in runs} == {
        (10_000, 20, 256, 128)
    }
    assert {run.schedule for run in usual} == set(SCHEDULES)
    assert {run.norm for run in runs} == {"pre"}
    assert {run.norm for run in registry.product("fig17").runs("paper", "wikitext2")} == {"post"}


def test_heads_grow_and_do_not_widen_in_figure_13() -> None:
    for scale in SCALES:
        runs = registry.product("fig13").runs(scale, "wikitext2")
        assert len({run.dims()["d_head"] for run in runs}) == 1
        assert len({run.n_head for run in runs}) >= 2
        for run in runs:
            base = run.dims(base=True)
            assert run.width == run.n_head * run.dims()["d_head"]
            assert base["d_head"] == run.dims()["d_head"]
            assert base["d_model"] == base["n_head"] * base["d_head"]
            assert run.width % base["d_model"] == 0
