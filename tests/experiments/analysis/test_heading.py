"""The lines above a picture, of declared figures and their committed runs."""

import pytest

from experiments.analysis.heading import heading
from experiments.declare import registry
from experiments.declare.product import Figure
from experiments.products.tidy_tables import REFERENCE, read_runs

FIGURES = [name for name, product in registry.products().items() if isinstance(product, Figure)]


def head(name: str) -> tuple[str, str]:
    product = registry.product(name)
    return heading(product, *read_runs(product, REFERENCE))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("fig4", "Figure 4 · µP · pre-layernorm"),
        ("fig1", "Figure 1 · SP and µP · post-layernorm"),
        ("fig1_bfloat16", "ours · SP and µP · post-layernorm"),
        ("fig17_steps", "variant of Figure 17 · µP · post-layernorm"),
        ("fig8", "Figure 8 · µP · pre-layernorm"),
        ("fig10", "Figure 10 · µP · post-layernorm"),
        ("fig5", "Figure 5 · SP and µP · post-layernorm"),
        ("fig3", "Figure 3 · SP and µP"),
        ("depth_mup", "ours · µP and depth-µP · pre-layernorm"),
        ("fig2", "Figure 2 · schematic"),
        ("post_fig1", "the announcement post, Figure 1 · SP and µP · post-layernorm"),
    ],
)
def test_the_first_line_says_what_is_reproduced_and_in_which_parametrization(name, first) -> None:
    assert head(name)[0] == first


def test_the_second_line_has_what_is_held_fixed() -> None:
    always, elsewhere = head("fig4")[1].split("; ")
    assert always.startswith("fixed: Adam") and "base width 32" in always
    assert "log2 learning rate" not in always and "log2 learning rate −7" in elsewhere
    assert "width 64" in elsewhere and "depth 2" in elsewhere and "schedule constant" in elsewhere


def test_what_changes_nothing_is_not_told() -> None:
    assert "β2" not in head("fig3")[1] and "SGD" in head("fig3")[1]
    assert "momentum" not in head("fig3")[1] and "momentum 0.9" in head("fig16")[1]
    assert "attention multiplier 1" not in head("fig20")[1]


def test_a_searchs_sweeps_hold_nothing_apart() -> None:
    assert "where not swept" not in head("fig6")[1] and "where not swept" not in head("fig15")[1]


def test_what_the_runs_had_counts_not_what_is_declared_now() -> None:
    product = registry.product("fig1")
    runs, scale = read_runs(product, REFERENCE)
    assert "depth 7" in heading(product, runs.assign(n_layer=7), scale)[1]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_head(name) -> None:
    first, second = head(name)
    assert first and (second or registry.product(name).schematic)


def test_numbers_are_those_of_the_paper_alone() -> None:
    assert [registry.product(n).number for n in ("fig13", "fig9_long", "table12")] == [13, 9, 12]
    assert registry.product("fig1_bfloat16").number is None
    assert registry.product("post_fig1").number is None
    assert registry.product("precision").label == "ours"
