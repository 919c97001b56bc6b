"""Claims by kind: what the paper says again and again, said once. No torch and no pandas.

Each statement is made from its threshold, so that the two cannot part. `measure` is by default a
function of `experiments.analysis.landscapes`; CONTRIBUTING.md lists all that a claim can use.
`paper` is the paper's own value (`Claim.paper`).
"""

from __future__ import annotations

from typing import Literal

from experiments.declare.claims import Claim
from experiments.declare.references import Reference

LANDSCAPES = "experiments.analysis.landscapes"
MOST = 0.05  # nats that a transfer may cost
LEAST = 0.8  # of the largest model's gain that a transfer keeps
OCTAVES = {0.33: "a third of an octave", 0.5: "half an octave", 1.0: "one octave"}


def stays(
    source: str,
    what: str = "learning rate of µP",
    *,
    id: str = "mup-optimum-stays",
    measure: Reference = f"{LANDSCAPES}:mup_optimum_range",
    where: str = " over all widths",
    steps: int = 1,
    paper: str = "",
) -> Claim:
    """The best value of a hyperparameter moves by at most `steps` grid steps."""
    most = "one grid step" if steps == 1 else f"{steps} grid steps"
    statement = f"The best {what} moves by at most {most}{where}"
    return Claim(id, statement, source, measure, "<=", float(steps), "grid steps", "value", paper)


def falls(source: str, octaves: float, remark: str = "", *, paper: str = "") -> Claim:
    """SP's best learning rate falls by at least `octaves` per doubling of the width."""
    least = OCTAVES.get(octaves, f"{octaves:g} octaves")
    return Claim(
        id="sp-optimum-falls",
        statement=(
            f"The best learning rate of SP falls by at least {least} per doubling of the width, on "
            f"average{remark}"
        ),
        source=source,
        measure=f"{LANDSCAPES}:sp_optimum_drift",
        relation="<=",
        threshold=-octaves,
        unit="octaves per doubling",
        paper=paper,
    )


def wider_is_better(
    source: str,
    *,
    measure: Reference = f"{LANDSCAPES}:mup_worst_widening",
    words: str = "wider is not worse in µP beyond seed noise",
    paper: str = "",
) -> Claim:
    """Up to the narrowest model's best rate no widening costs more than seed noise explains."""
    statement = f"At every learning rate up to the optimum, {words}"
    unit = "of what seed noise allows"
    return Claim("mup-wider-is-better", statement, source, measure, "<=", 1.0, unit, "value", paper)


def beats_sp(
    source: str,
    *,
    id: str = "mup-beats-sp",
    measure: Reference = f"{LANDSCAPES}:mup_minus_sp",
    statement: str = "The widest µP model at its best is not worse than the widest SP model",
    unit: str = "nats",
    higher_is_better: bool = False,
    paper: str = "",
) -> Claim:
    """The wide µP model is not worse than the wide SP model."""
    relation: Literal["<=", ">="] = ">=" if higher_is_better else "<="
    return Claim(id, statement, source, measure, relation, 0.0, unit, paper=paper)


def searched_beats_sp(
    source: str,
    *,
    measure: Reference = "experiments.analysis.searched:mup_above_sp",
    paper: str = "",
) -> Claim:
    """µP is not worse than SP at the wide model to which a search's winner is carried."""
    return beats_sp(
        source,
        id="mup-transfers-better",
        measure=measure,
        statement="The wide µP model is not worse than the wide SP model",
        unit="percentage points",
        higher_is_better=True,
        paper=paper,
    )


def transfers(
    source: str,
    what: str = "",
    *,
    id: str = "mup-transfers",
    measure: Reference = f"{LANDSCAPES}:mup_regret",
    most: float = MOST,
    unit: str = "nats",
    paper: str = "",
) -> Claim:
    """The smallest model's best value costs the largest model at most `most` of the unit."""
    words = (
        f"{what}, the best value of the smallest model costs the largest"
        if what
        else "The narrowest model's best learning rate costs the widest µP model"
    )
    statement = f"{words} at most {_amount(most, unit)}"
    return Claim(id, statement, source, measure, "<=", most, unit, paper=paper)


def does_not_transfer(
    source: str,
    words: str = "The narrowest model's best learning rate costs the widest SP model",
    *,
    id: str = "sp-does-not-transfer",
    measure: Reference = f"{LANDSCAPES}:sp_regret",
    least: float = MOST,
    unit: str = "nats",
    paper: str = "",
) -> Claim:
    """The smallest model's best value costs the largest model more than `least` of the unit."""
    statement = f"{words} more than {_amount(least, unit)}"
    return Claim(id, statement, source, measure, ">=", least, unit, paper=paper)


def _amount(number: float, unit: str) -> str:
    """A number with its unit: "0.05 nats", "1 percentage point"."""
    return f"{number:g} {unit.removesuffix('s') if number == 1 else unit}"


def keeps_gain(
    source: str,
    what: str = "In µP, across width",
    *,
    id: str = "mup-keeps-gain",
    measure: Reference = f"{LANDSCAPES}:mup_kept_gain",
    least: float = LEAST,
) -> Claim:
    """The smallest model's best value keeps at least a share of what the largest model gains."""
    statement = f"{what}, {_kept('least', least)}"
    return Claim(id, statement, source, measure, ">=", least, "of the gain")


def loses_gain(
    source: str,
    what: str = "In SP, across width",
    *,
    id: str = "sp-loses-gain",
    measure: Reference = f"{LANDSCAPES}:sp_kept_gain",
    most: float = LEAST,
) -> Claim:
    """As a control, the smallest model's best value keeps at most that share."""
    statement = f"{what}, {_kept('most', most)}"
    return Claim(id, statement, source, measure, "<=", most, "of the gain")


def _kept(bound: str, share: float) -> str:
    return (
        f"the best value of the smallest model keeps at {bound} {100 * share:g} % of the largest "
        "model's gain over the smallest"
    )
