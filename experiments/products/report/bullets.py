"""A claim as a bar: the side on which it holds, its threshold, value and interval."""

from __future__ import annotations

from html import escape

from experiments.analysis.verdicts import Verdict, measured_text, threshold_text

WIDTH, HEIGHT, MIDDLE = 320, 34, 15
MARGIN = 0.25  # of the span of what is shown, on either side


def bullet(verdict: Verdict) -> str:
    """SVG of a claim; empty if nothing was measured."""
    if verdict.value is None:
        return ""
    ends = (verdict.low, verdict.high)
    shown = [verdict.threshold, verdict.value, *(end for end in ends if end is not None)]
    span = max(shown) - min(shown) or abs(verdict.threshold) or 1.0
    low, high = min(shown) - MARGIN * span, max(shown) + MARGIN * span

    def x(value: float) -> float:
        return round(8 + (WIDTH - 16) * (value - low) / (high - low), 1)

    at = x(verdict.threshold)
    left, right = (8.0, at) if verdict.relation == "<=" else (at, WIDTH - 8.0)
    parts = [
        f'<line class="axis" x1="8" x2="{WIDTH - 8}" y1="{MIDDLE}" y2="{MIDDLE}"/>',
        f'<rect class="side" x="{left}" width="{round(right - left, 1)}" y="4" height="22"/>',
        f'<line class="threshold" x1="{at}" x2="{at}" y1="2" y2="28"/>',
    ]
    if verdict.low is not None and verdict.high is not None:
        parts.append(
            f'<line class="interval" x1="{x(verdict.low)}" x2="{x(verdict.high)}" '
            f'y1="{MIDDLE}" y2="{MIDDLE}"/>'
        )
    parts.append(f'<circle class="value" cx="{x(verdict.value)}" cy="{MIDDLE}" r="5"/>')
    told = f"measured {measured_text(verdict)}, claimed {threshold_text(verdict)}"
    return (
        f'<svg class="bullet {verdict.verdict.replace(" ", "-")}" role="img" '
        f'viewBox="0 0 {WIDTH} {HEIGHT - 4}" aria-label="{escape(told)}">'
        f"<title>{escape(told)}</title>{''.join(parts)}</svg>"
    )
