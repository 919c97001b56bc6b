"""The searches of Sections 7.1 and 7.2: conventional tuning, µTransfer, naive transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

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
        space: values of `KEYS` by scale.
        default: the point that is tried without any search.
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
    space: Mapping[Scale, Mapping[str, Sequence[float]]]
    default: Mapping[Scale, Mapping[str, float]]
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
        return Override(target, {}, [self.default[scale]], seeds=1)

    def _search(self, method: str, scale: Scale) -> Override:
        base = {**self.target[scale], "parametrization": PARAMETRIZATION[method]}
        if method != "tuned":
            base |= {**self.proxy[scale], "beam": 0}
        points = [dict(zip(KEYS, point, strict=True)) for point in self.points(scale, method)]
        return Override(base, {}, points, seeds=1)

    def points(self, scale: Scale, method: str) -> list[tuple[float, ...]]:
        """The points of a method's search, each once, in the order of the draw."""
        count = (self.at_target if method == "tuned" else self.at_proxy)[scale]
        drawn = draw_points(self.space[scale], count, seed=0)
        return list(dict.fromkeys(tuple(point[key] for key in KEYS) for point in drawn))

    def scale_of(self, width: int) -> Scale:
        """The scale at which the target has this width."""
        return next(scale for scale in SCALES if self.target[scale]["width"] == width)

    @property
    def follow_up(self) -> Call:
        """The targets with the hyperparameters that may win a trial."""
        return Call(f"{MEASURES}:carry", {"tuning": self})

    def least_gain(self, source: str) -> Claim:
        """µTransfer is not worse than conventional tuning at any budget."""
        return Claim(
            id="mup-is-not-worse-at-any-budget",
            statement=(
                "At every compute budget the median trial of µTransfer is not worse than that of "
                "conventional tuning"
            ),
            source=source,
            measure=Call(f"{MEASURES}:least_gain", {"tuning": self}),
            relation=">=",
            threshold=0.0,
            unit="BLEU",
        )

    def spread(self, source: str, paper: str) -> Claim:
        """µTransfer is more reliable than conventional tuning at 1x."""
        return Claim(
            id="mup-is-more-reliable",
            statement=(
                "At the compute of 1x the trials of µTransfer spread less than those of "
                f"conventional tuning, from the {self.percentiles[0]}th percentile to the best"
            ),
            source=source,
            measure=Call(f"{MEASURES}:spread_difference", {"tuning": self}),
            relation="<=",
            threshold=0.0,
            unit="BLEU",
            paper=paper,
        )

    def naive(self, source: str) -> Claim:
        """Naive transfer is worse than both."""
        return Claim(
            id="naive-transfer-is-worse",
            statement=(
                "At the compute of 1x the median trial of naive transfer is worse than those of "
                "µTransfer and of conventional tuning"
            ),
            source=source,
            measure=Call(f"{MEASURES}:naive_shortfall", {"tuning": self}),
            relation="<=",
            threshold=0.0,
            unit="BLEU",
            paper="its trainings diverge",
        )

    def gap_shrinks(self, source: str) -> Claim:
        """At an equal number of samples the proxy's disadvantage goes away with more of them."""
        return Claim(
            id="gap-shrinks-with-samples",
            statement=(
                "At an equal number of samples, what conventional tuning is better by is less with "
                f"{self.budgets[-1]} samples than with {self.budgets[0]}"
            ),
            source=source,
            measure=Call(f"{MEASURES}:gap_change", {"tuning": self}),
            relation="<=",
            threshold=0.0,
            unit="BLEU",
        )


def grid(centre: float) -> dict[str, tuple[float, ...]]:
    """The values of a search, with rates around a log2 rate.

    Source: Tensor Programs V, Appendices F.1 and F.2.
    """
    return {
        "log2lr": tuple(centre + z / 4 for z in range(-6, 6)),
        "output_mult": tuple(2.0**z for z in range(-8, 8)),
        "attn_mult": tuple(2.0**z for z in range(-3, 9)),
    }
