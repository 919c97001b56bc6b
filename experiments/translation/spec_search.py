"""The searches of Sections 7.1 and 7.2: conventional tuning, µTransfer, naive transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from experiments.declare.claims import Claim
from experiments.declare.config import Parametrization
from experiments.declare.references import Call
from experiments.declare.scales import SCALES, Scale
from experiments.declare.sweep import Override, Sweep, draw_points
from experiments.translation.config import TranslationConfig

KEYS = ("log2lr", "output_mult", "attn_mult")
PARAMETRIZATION: dict[str, Parametrization] = {"tuned": "sp", "naive": "sp", "mup": "mup"}
"""Of each method's search; that of conventional tuning ("tuned") is made at the target's size."""
METHODS = tuple(PARAMETRIZATION)
MEASURES = "experiments.translation.search"
POOL = (
    "The samples of a trial are drawn from one pool of trained ones, with replacement; "
    "the winner has the lowest validation loss."
)
CAPTION = (
    "Random search of learning rate, output multiplier and attention multiplier, at the target "
    "(conventional tuning) or at a proxy of a quarter of its width in µP (µTransfer) or SP "
    f"(naive transfer), and BLEU of the target with what was found. {POOL}"
)


@dataclass(frozen=True)
class Tuning:
    """Random searches of one space at a target's size and at a proxy's, and how they are compared.

    The base model is the target, so that the target is the same in SP and µP. The first points are
    searched at both sizes; so their outcomes are known of every method.

    Args:
        name: prefix of its sweeps.
        config: class of its runs.
        target: values of the target's runs by scale.
        proxy: the dimensions of the proxy by scale.
        centre: log2 of the rate in the middle of the space, by scale; with all multipliers at 1 it
            is the point that is tried without any search.
        at_target: points of the search at the target's size, by scale.
        at_proxy: points of each search at the proxy's size, by scale, the former among them.
        seeds: of a target with a winner's hyperparameters, by scale.
        budgets: samples that conventional tuning can afford, ascending.
        one: the one of `budgets` that is the paper's compute of 1x.
        trials: independent searches of which percentiles are given.
        percentiles: of their outcomes.
    """

    name: str
    config: type[TranslationConfig]
    target: Mapping[Scale, Mapping[str, Any]]
    proxy: Mapping[Scale, Mapping[str, int]]
    centre: Mapping[Scale, float]
    at_target: Mapping[Scale, int]
    at_proxy: Mapping[Scale, int]
    seeds: Mapping[Scale, int]
    budgets: Sequence[int]
    one: int
    trials: int
    percentiles: Sequence[int]

    @property
    def sweeps(self) -> tuple[Sweep, ...]:
        """The default target, and the searches: of the target, of the proxy in µP and in SP."""
        return (
            Sweep.by_scale(f"{self.name}_default", self.config, self._untuned),
            *(
                Sweep.by_scale(f"{self.name}_{method}", self.config, partial(self._search, method))
                for method in METHODS
            ),
        )

    def _untuned(self, scale: Scale) -> Override:
        target = {**self.target[scale], "parametrization": "sp"}
        return Override(target, {}, [self.default(scale)], seeds=1)

    def _search(self, method: str, scale: Scale) -> Override:
        base = {**self.target[scale], "parametrization": PARAMETRIZATION[method]}
        if method != "tuned":
            base |= {**self.proxy[scale], "beam": 0}
        points = [dict(zip(KEYS, point, strict=True)) for point in self.points(scale, method)]
        return Override(base, {}, points, seeds=1)

    def space(self, scale: Scale) -> dict[str, tuple[float, ...]]:
        """The values of a search.

        Source: Tensor Programs V, Appendices F.1 and F.2.
        """
        return {
            "log2lr": tuple(self.centre[scale] + z / 4 for z in range(-6, 6)),
            "output_mult": tuple(2.0**z for z in range(-8, 8)),
            "attn_mult": tuple(2.0**z for z in range(-3, 9)),
        }

    def default(self, scale: Scale) -> dict[str, float]:
        """The point that is tried without any search."""
        return {"log2lr": self.centre[scale], "output_mult": 1.0, "attn_mult": 1.0}

    def points(self, scale: Scale, method: str) -> list[tuple[float, ...]]:
        """The points of a method's search, each once, in the order of the draw."""
        count = (self.at_target if method == "tuned" else self.at_proxy)[scale]
        drawn = draw_points(self.space(scale), count, seed=0)
        return list(dict.fromkeys(tuple(point[key] for key in KEYS) for point in drawn))

    def scale_of(self, width: int) -> Scale:
        """The scale at which the target has this width."""
        return next(scale for scale in SCALES if self.target[scale]["width"] == width)

    @property
    def follow_up(self) -> Call:
        """The targets with the hyperparameters that may win a trial."""
        return self._measure("carry")

    def render(self, heads: Sequence[str], paper: Sequence[Sequence[str]]) -> Call:
        """The table of percentiles; `heads` are theirs, `paper` has the paper's rows."""
        return self._measure("render", heads=heads, paper=paper)

    def least_gain(self, source: str) -> Claim:
        """µTransfer is not worse than conventional tuning at any budget."""
        return self._claim(
            "mup-is-not-worse-at-any-budget",
            "At every compute budget the median trial of µTransfer is not worse than that of "
            "conventional tuning",
            source,
            "least_gain",
            ">=",
        )

    def spread(self, source: str, paper: str) -> Claim:
        """µTransfer is more reliable than conventional tuning at 1x."""
        lowest = "worst" if self.percentiles[0] == 0 else f"{self.percentiles[0]}th percentile"
        return self._claim(
            "mup-is-more-reliable",
            "At the compute of 1x the trials of µTransfer spread less than those of conventional "
            f"tuning, from the {lowest} to the best",
            source,
            "spread_difference",
            "<=",
            paper,
        )

    def naive(self, source: str) -> Claim:
        """Naive transfer is worse than both."""
        return self._claim(
            "naive-transfer-is-worse",
            "At the compute of 1x the median trial of naive transfer is worse than those of "
            "µTransfer and of conventional tuning",
            source,
            "naive_shortfall",
            "<=",
            "its trainings diverge",
        )

    def gap_shrinks(self, source: str) -> Claim:
        """At an equal number of samples the proxy's disadvantage goes away with more of them."""
        return self._claim(
            "gap-shrinks-with-samples",
            "At an equal number of samples, what conventional tuning is better by is less with "
            f"{self.budgets[-1]} samples than with {self.budgets[0]}",
            source,
            "gap_change",
            "<=",
        )

    def _claim(
        self,
        id: str,
        statement: str,
        source: str,
        measure: str,
        relation: Literal["<=", ">="],
        paper: str = "",
    ) -> Claim:
        return Claim(
            id, statement, source, self._measure(measure), relation, 0.0, "BLEU", paper=paper
        )

    def _measure(self, function: str, **more: Any) -> Call:
        return Call(f"{MEASURES}:{function}", {"tuning": self, **more})
