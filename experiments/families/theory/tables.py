"""Tables of scaling rules and hyperparameters, and the claims on Table 14. No torch.

Pure functions of tidy tables.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.analysis.exponents import exponent
from experiments.analysis.text_table import TextTable
from experiments.declare.claims import Measured

COLUMNS = {
    "input": "Input weights & all biases",
    "output": "Output weights",
    "hidden": "Hidden weights",
    "scalar": "Scalars",
}
ROWS = {
    "init_var": "Init. var.",
    "multiplier": "Multiplier",
    "lr_sgd": "SGD LR",
    "lr_adam": "Adam LR",
    "eps": "Adam ε",
    "lr_lion": "Lion LR",
    "lr_frobenius": "Frobenius-normalized LR",
    "lr_muon": "Muon LR",
}
# By row or column that the paper's tables lack: its mark, and what in it is not the paper's.
OURS = {
    "scalar": (
        "ᶜ",
        "Appendix B has initialization, multiplier, SGD's and Adam's rates constant in width; the "
        "others are ours.",
    ),
    "eps": (
        "ᵈ",
        "Added after the square root. Appendix B.3 has 1/fan_in for all parameters; ours scales as "
        "the gradient does, 1/fan_out times the multiplier, so that Tables 3, 8 and 9 stay one "
        "parametrization (Lemma J.1).",
    ),
    "lr_lion": (
        "ᵉ",
        "Not in the paper: Lion's updates are signs (Chen et al. 2023, arXiv:2302.06675, Algorithm "
        "2), as large as Adam's, so its rates are Adam's.",
    ),
    "lr_frobenius": (
        "ᶠ",
        "Appendix B.3 has 1/√fan_in for hidden weights, and in Table 3 for output weights, too. "
        "There ours is 1: an update relative to its weight does not change under Lemma J.1, so "
        "its rates are equal in Tables 3, 8 and 9.",
    ),
    "lr_muon": (
        "ᵍ",
        "Not in the paper: an update times the multiplier has the spectral norm √fan_out/√fan_in "
        "(Yang, Simon, Bernstein 2023, arXiv:2310.17813, Condition 1). Vectors are not for Muon.",
    ),
}
FINITE = (
    "ᵃ 1/fan_in in the paper, which comes to the same: the fan_in of an input weight does not grow "
    "with the width."
)
RATIO = (
    "ᵇ 1 in the paper, where fan_in and fan_out grow alike. Where they do not, the ratio is ours, "
    "and the mup package's: 1/fan_in, the size of an update's entries in Appendix J.2.1, over "
    "1/fan_out, that of the gradient's."
)
VERDICTS = "Verdicts on a figure's claims: `python -m experiments claims FIGURE`."
THEORY = {"gaussian": 0.5, "linear": 1.0, "nonlinear": 1.0, "vector": 1.0}
MATRICES = {
    "gaussian": ("Standard Gaussian, n × n", "Aᵀ1/√n", "√n"),
    "linear": ("Linear tensor product, n × n", "in part the sum of its vectors", "n"),
    "nonlinear": ("Nonlinear tensor product (Adam), n × n", "in part the sum of its vectors", "n"),
    "vector": ("Vector, 1 × n", "in part Aᵀ", "n"),
}


def scaling(fan_in: float, fan_out: float) -> str:
    """Exponents as a fraction: (-1, 0.5) is "√fan_out/fan_in"."""
    terms = [("fan_in", fan_in), ("fan_out", fan_out)]
    above = [_power(name, exponent) for name, exponent in terms if exponent > 0]
    below = [_power(name, -exponent) for name, exponent in terms if exponent < 0]
    divisor = " ".join(below) if len(below) < 2 else f"({' '.join(below)})"
    return (" ".join(above) or "1") + (f"/{divisor}" if divisor else "")


def _power(name: str, exponent: float) -> str:
    known = {0.5: f"√{name}", 1.0: name, 2.0: f"{name}²", 3.0: f"{name}³"}
    return known.get(exponent, f"{name}^{exponent:g}")


def render_rules(entries: pd.DataFrame) -> TextTable:
    """Table 3, 8 or 9: the paper's rows and columns, then ours."""
    moved = (entries[["fan_in", "fan_out", "sp_fan_in", "sp_fan_out"]] != 0).any(axis=1)
    always = set(ROWS) - {"multiplier"}
    shown = always | set(entries.loc[moved, "quantity"])
    cells = {(e.quantity, e.role): _cell(e) for e in entries.itertuples()}
    rows = [
        [f"**{_marked(quantity, label)}**", *(cells[quantity, role] for role in COLUMNS)]
        for quantity, label in ROWS.items()
        if quantity in shown
    ]
    head = ["", *(_marked(role, label) for role, label in COLUMNS.items())]
    ours = (f"{mark} {text}" for mark, text in OURS.values())
    return TextTable(head, rows, (FINITE, RATIO, *ours))


def _marked(key: str, label: str) -> str:
    """A label, with † and the mark of its note if the paper's tables lack the row or column."""
    return f"{label} †{OURS[key][0]}" if key in OURS else label


def _cell(entry: object) -> str:
    """An entry, SP's in parentheses if it differs, and the marks of the notes."""
    e = entry._asdict()  # type: ignore[attr-defined]
    ours, sp = scaling(e["fan_in"], e["fan_out"]), scaling(e["sp_fan_in"], e["sp_fan_out"])
    if (e["quantity"], e["role"]) == ("init_var", "input"):
        ours, sp = (f"{text}ᵃ" if text == "1" else text for text in (ours, sp))
    text = ours if ours == sp else f"{ours} ({sp})"
    if (e["quantity"], e["role"], ours) == ("lr_sgd", "hidden", "fan_out/fan_in"):
        text = text.replace(ours, f"{ours}ᵇ")
    return text


def render_table1(found: pd.DataFrame) -> TextTable:
    """One row per kind of hyperparameter, then one per dimension of scale."""
    rows = []
    kinds = found["kind"].where(found["kind"] != "scale", found["hyperparameter"])
    for kind, part in found.groupby(kinds, sort=False):
        names = dict.fromkeys(part["hyperparameter"])
        scale = part["kind"].iloc[0] == "scale"
        rows.append(
            [
                f"**{kind}**" if scale else f"**{kind}**: {', '.join(names)}",
                _in_paper(part),
                _in_rules(part, scale),
                _tested(part, with_names=not scale and len(names) > 1),
            ]
        )
    return TextTable(["", "In the paper", "In our rules", "Tested here"], rows, (VERDICTS,))


def _in_paper(part: pd.DataFrame) -> str:
    """What the paper says of the first, then what it says of the others, with their names."""
    said = part.drop_duplicates("hyperparameter").groupby("paper", sort=False)["hyperparameter"]
    first, *others = [(text, ", ".join(names)) for text, names in said]
    return "; ".join([first[0], *(f"{names}: {text}" for text, names in others)])


def _in_rules(part: pd.DataFrame, scale: bool) -> str:
    ruled = dict.fromkeys(part.loc[part["input_fan_in"].notna(), "hyperparameter"])
    others = [name for name in dict.fromkeys(part["hyperparameter"]) if name not in ruled]
    if scale:
        return "what they scale with" if "width" in others else "none: the same at any value"
    texts = [f"by exponents: {', '.join(ruled)}"] if ruled else []
    texts += [f"constant in width: {', '.join(others)}" if ruled else "none"] if others else []
    return "; ".join(texts)


def render_table2(found: pd.DataFrame) -> TextTable:
    """One row per hyperparameter that transfers."""
    found = found[~found["kind"].isin(("regularization", "scale"))]
    rows = []
    for name, part in found.groupby("hyperparameter", sort=False):
        first = part.iloc[0]
        rows.append(
            [
                f"**{name}**",
                first["kind"],
                f"{first['paper']} ({first['source']})",
                _exponents(first),
                _tested(part),
            ]
        )
    notes = (f"Adam's ε in Table 8: {OURS['eps'][1]}", VERDICTS)
    return TextTable(["", "Kind", "In the paper", "In Table 8", "Tested here"], rows, notes)


def _exponents(row: pd.Series) -> str:
    if np.isnan(row["input_fan_in"]):
        return "constant in width"
    roles = ("input", "hidden", "output")
    texts = {role: scaling(row[f"{role}_fan_in"], row[f"{role}_fan_out"]) for role in roles}
    return ", ".join(f"{role} {text}" for role, text in texts.items())


def _tested(part: pd.DataFrame, with_names: bool = False) -> str:
    tests = part[part["product"].notna()]
    texts = [
        f"{row.product}: {f'{row.hyperparameter} ' if with_names else ''}{row.test}"
        for row in tests.itertuples()
    ]
    return "; ".join(texts) or "not yet"


def measured(sizes: pd.DataFrame, kind: str) -> Measured:
    """The exponent of one kind of matrix."""
    part = sizes[sizes["kind"] == kind]
    return exponent(part.pivot(index="n", columns="seed", values="size"))


def render_table14(sizes: pd.DataFrame) -> TextTable:
    """Theory beside what was measured."""
    rows = []
    for kind, (matrix, v, theory) in MATRICES.items():
        found = measured(sizes, kind)
        interval = "" if found.low is None else f" [{found.low:.3f}, {found.high:.3f}]"
        rows.append(
            [matrix, v, f"Θ({theory})", f"{THEORY[kind]:g}", f"{found.value:.3f}{interval}"]
        )
    note = f"n from {sizes['n'].min()} to {sizes['n'].max()}, doubling."
    head = ["A", "v", "Entry size of A v", "Exponent", "Measured exponent"]
    return TextTable(head, rows, (note,))


def deviation(sizes: pd.DataFrame, kind: str) -> Measured:
    """How far the exponent is from the theory's; the interval ends where the farther end is."""
    found, theory = measured(sizes, kind), THEORY[kind]
    value = abs(found.value - theory)
    note = f"measured {found.value:.3f}, theory {theory:g}"
    if found.low is None or found.high is None:
        return Measured(value, note=f"{note}; {found.note}")
    half = (found.high - found.low) / 2
    return Measured(value, max(0.0, value - half), value + half, note)
