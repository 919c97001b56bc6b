"""Verdicts on exponents: right, wrong, or not enough data to tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from mupkit.coord_check.record import Row
from mupkit.coord_check.statistics import Fit

Judgement = Literal["fails", "undecided", "ok", "inactive"]
ORDER: tuple[Judgement, ...] = ("fails", "undecided", "ok", "inactive")
TOLERANCE = 0.25
"""How far an exponent may be from theory. Mistakes of parametrization are at least half powers of
width, so this is the middle between none and the smallest. It is not an option, since a check that
is loosened until a model passes says nothing."""

NOT_SEEN: Mapping[str, float] = MappingProxyType({})
EXACT = 0.01  # of a power that is computed, not measured
CHANCE = -0.5
"""The power of a sum of random terms relative to one of equal terms (central limit theorem)."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one tensor.

    Args:
        fit: the measurement.
        judgement: "ok", "fails" or "undecided"; "inactive" if it is zero and so not judged.
        theory: what the exponent should be.
        reason: the reason for the judgement, in words.
    """

    fit: Fit
    judgement: Judgement
    theory: Literal["= 0", "<= 0"]
    reason: str = ""


def judge(fit: Fit, shrunk: Fit | None = None) -> Verdict:
    """Compare an exponent with theory.

    Args:
        fit: the measurement.
        shrunk: an activation of finite shape that shrinks at initialization, earlier in the pass.

    In µP activations have the same size at every width at initialization and move by the same
    amount; parameters move in proportion to what theory expects of their role: the exponent is 0.
    It is 0 for what clipping leaves of the gradients, too: the norm of all of them goes with width,
    and so would the rates of an optimizer that does not normalize.
    At initialization the output and attention logits may shrink with width, as 1/sqrt(width), or be
    zero; so there a tensor of finite shape, and the input of softmax, only must not grow. Nor must
    what is computed from such a tensor alone, as behind a bottleneck of finite size: an activation
    that comes later and shrinks no faster than what its module gets.

    The verdict is "ok" if the whole confidence interval is within `TOLERANCE` of theory, "fails" if
    all of it is outside, else "undecided": more seeds narrow the interval, a wider range of widths
    brings the exponent closer to its limit. One seed gives no interval, and decides nothing.

    A change or an update that may shrink by only a half power is undecided too. Sums over random
    weights shrink like that and learning does not, but at small rates the sums dominate: in
    attention logits, where the inputs of random queries and keys change, and in gradients of
    queries and keys under SGD. (`report` also knows the factor of the logits.) Larger rates or more
    steps help, and so do queries and output
    projections that start at zero, as the paper advises for queries.

    Source: Tensor Programs V, Appendix J.2 (sizes of activations and updates), Fig. 5 and
    Appendix D.1 (coordinate check), Appendix D.2 (output and attention logits at initialization).
    """
    inherited = shrunk is not None and _inherits(fit)
    one_sided = fit.kind == "activation" and (fit.finite or _is_softmax(fit.tensor) or inherited)
    theory: Literal["= 0", "<= 0"] = "<= 0" if one_sided else "= 0"
    if fit.missing and fit.seeds < 2:
        reason = f"in {fit.seeds} of {fit.seeds + fit.missing} seeds: a larger batch"
        return Verdict(fit, "undecided", theory, reason)
    if fit.exponent is None:
        if fit.inactive == 1:
            return Verdict(fit, "inactive", theory, "zero or rounding noise in every run")
        reason = f"zero or rounding noise in {fit.inactive:.0%} of the runs"
        return Verdict(fit, "undecided", theory, reason)
    if not math.isfinite(fit.exponent):
        return Verdict(fit, "fails", theory, "a value is not finite")
    if fit.interval is None:
        return Verdict(fit, "undecided", theory, "one seed: give more")
    low, high = fit.interval
    if (one_sided or low >= -TOLERANCE) and high <= TOLERANCE:
        behind = (
            f"shrinks as its input does, behind {shrunk.tensor}" if inherited and shrunk else ""
        )
        return Verdict(fit, "ok", theory, behind)
    if low > TOLERANCE:
        return Verdict(fit, "fails", theory, "grows with width")
    if high < -TOLERANCE and not one_sided:
        if fit.kind == "clipping":
            reason = "clipping leaves less of the gradients, the wider the model"
            return Verdict(fit, "fails", theory, reason)
        if fit.kind != "activation" and high > CHANCE - TOLERANCE:
            reason = "shrinks as sums of random terms do: larger rates, or more steps"
            return Verdict(fit, "undecided", theory, reason)
        return Verdict(fit, "fails", theory, "shrinks with width")
    return Verdict(fit, "undecided", theory, "more seeds, or a wider range of widths")


def _inherits(fit: Fit) -> bool:
    """Whether an activation shrinks, and so does its module's input."""
    if fit.source is None or fit.exponent is None or fit.source >= -TOLERANCE:
        return False
    return fit.exponent - fit.source >= -TOLERANCE


def _by_attention(verdict: Verdict, attention: Mapping[str, float]) -> Verdict:
    """Decide about a change of attention logits that chance hides by the factor of q·k.

    It fails if the factor scales likewise. It is ok if the factor is right, which leaves chance
    alone as a reason to shrink: the changes of queries and keys have verdicts of their own.
    """
    fit = verdict.fit
    name = fit.tensor.split("#")[0].rpartition("softmax")[0].removesuffix(".")
    seen = _is_softmax(fit.tensor) and name in attention
    if verdict.judgement != "undecided" or fit.kind != "change" or not seen:
        return verdict
    if fit.interval is None or fit.exponent is None:
        return verdict
    power, (low, high) = attention[name], fit.interval
    if abs(power) > TOLERANCE and power * fit.exponent > 0:
        reason = f"d_head times the factor of q·k goes as width^{power:+.2g}: it should be constant"
        return Verdict(fit, "fails", verdict.theory, reason)
    if abs(power) < EXACT and low >= CHANCE - TOLERANCE and high <= TOLERANCE:
        reason = "shrinks as sums of random terms do, and the factor of q·k is right"
        return Verdict(fit, "ok", verdict.theory, reason)
    return verdict


def _is_softmax(tensor: str) -> bool:
    return tensor.split("#")[0].split(".")[-1] == "softmax"


@dataclass(frozen=True)
class Report:
    """The outcome of a coordinate check.

    Args:
        fits: the measured exponents.
        verdicts: one per fit, trouble first.
        rows: the measurements, for pictures.
    """

    fits: list[Fit]
    verdicts: list[Verdict] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list, repr=False)

    @property
    def passed(self) -> bool:
        """Whether something was judged, nothing fails and nothing is undecided."""
        found = {v.judgement for v in self.verdicts}
        return "ok" in found and not found & {"fails", "undecided"}

    @property
    def failures(self) -> list[Verdict]:
        """The verdicts that contradict theory."""
        return [v for v in self.verdicts if v.judgement == "fails"]

    @property
    def undecided(self) -> list[Verdict]:
        """The verdicts that need more seeds or widths."""
        return [v for v in self.verdicts if v.judgement == "undecided"]

    @property
    def unchanged(self) -> list[str]:
        """The activations whose changes were not measured: data decide their shapes."""
        changes = {fit.tensor for fit in self.fits if fit.kind == "change"}
        return [f.tensor for f in self.fits if f.kind == "activation" and f.tensor not in changes]

    def table(self) -> list[dict[str, Any]]:
        """A tidy table: one dictionary per verdict, with its fields and those of its `Fit`."""
        return [
            {**asdict(v.fit), "theory": v.theory, "judgement": v.judgement, "reason": v.reason}
            for v in self.verdicts
        ]

    def __str__(self) -> str:
        counts = ", ".join(
            f"{n} {judgement}"
            for judgement in ORDER
            if (n := sum(v.judgement == judgement for v in self.verdicts))
        )
        lines = [_line(v) for v in self.verdicts]
        lines.insert(0, ("verdict", "kind", "tensor", "exponent", "95 % interval", "theory", ""))
        sizes = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        body = [
            "  ".join(cell.ljust(size) for cell, size in zip(line, sizes, strict=True)).rstrip()
            for line in lines
        ]
        if names := self.unchanged:
            body.append(f"not measured: changes of {', '.join(names)}, whose shapes data decide")
        return "\n".join([f"{'passed' if self.passed else 'not passed'}: {counts}", *body])


def report(
    fits: Iterable[Fit], rows: Iterable[Row] = (), attention: Mapping[str, float] = NOT_SEEN
) -> Report:
    """The verdicts of all fits, trouble first, the furthest from theory at the top.

    Args:
        fits: the measured exponents.
        rows: what they were measured from.
        attention: by module, the power of width that d_head times the factor of q·k follows; it
            decides about changes of attention logits that chance leaves undecided.
    """
    fits = list(fits)

    def trouble(v: Verdict) -> tuple[int, float]:
        far = math.inf if v.fit.exponent is None else abs(v.fit.exponent)
        return ORDER.index(v.judgement), -(math.inf if math.isnan(far) else far)

    verdicts, shrunk = [], None
    for fit in fits:
        verdicts.append(_by_attention(judge(fit, shrunk), attention))
        shrinks = fit.exponent is not None and fit.exponent < -TOLERANCE
        if shrunk is None and fit.kind == "activation" and fit.finite and shrinks:
            shrunk = fit
    return Report(fits, sorted(verdicts, key=trouble), list(rows))


def _line(v: Verdict) -> tuple[str, ...]:
    fit = v.fit
    exponent = "" if fit.exponent is None else f"{fit.exponent:+.3f}"
    interval = "" if fit.interval is None else f"[{fit.interval[0]:+.3f}, {fit.interval[1]:+.3f}]"
    seeds = f"in {fit.seeds} of {fit.seeds + fit.missing} seeds" if fit.missing else ""
    reason = ", ".join(filter(None, (v.reason, "" if fit.seeds < 2 else seeds)))
    return v.judgement, fit.kind, fit.tensor, exponent, interval, v.theory, reason
