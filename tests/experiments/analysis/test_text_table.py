"""One table in three languages."""

import pytest

from experiments.analysis import text_table
from experiments.analysis.text_table import TextTable

TABLE = TextTable(
    ["", "Adam ε †"],
    [["**rate_1**", "1/√fan_in (1/fan_in²)"], ["µP & SP", "`a|b` < 5 %"]],
    ["ᵃ A note."],
)


def test_markdown() -> None:
    assert text_table.markdown(TABLE) == (
        "|  | Adam ε † |\n"
        "|---|---|\n"
        "| **rate_1** | 1/√fan_in (1/fan_in²) |\n"
        "| µP & SP | `a\\|b` < 5 % |\n"
        "\n"
        "ᵃ A note.\n"
    )


def test_latex() -> None:
    text = text_table.latex(TABLE, "A title", "Its caption.")
    assert r"\caption{\textbf{A title.} Its caption.}" in text
    assert r"\begin{tabular}{ll}" in text
    cells = r"\textbf{rate\_1} & 1/$\sqrt{\mbox{fan\_in}}$ (1/fan\_in$^2$) \\"
    assert cells in text
    assert r"$\mu$P \& SP & \texttt{a|b} < 5 \% \\" in text
    assert r"\textsuperscript{a} A note." in text
    assert text.count("{") == text.count("}")


def test_latex_wraps_long_cells() -> None:
    long = TextTable(["a", "b"], [["x" * 60, "y"]])
    assert r"\begin{tabular}{p{0.45\linewidth}p{0.45\linewidth}}" in text_table.latex(
        long, "t", "c"
    )


def test_html() -> None:
    text = text_table.html_page(TABLE, "A < title", "Its caption.")
    assert "<title>A &lt; title</title>" in text
    assert "<tr><td><strong>rate_1</strong></td><td>1/√fan_in (1/fan_in²)</td></tr>" in text
    assert "<td>µP &amp; SP</td><td><code>a|b</code> &lt; 5 %</td>" in text


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="3 cells for 2 columns: x"):
        TextTable(["a", "b"], [["x", "y", "z"]])


@pytest.mark.parametrize("sign", text_table.SIGNS)
def test_latex_has_no_sign_of_its_own_left(sign) -> None:
    body = text_table.latex(TextTable(["a"], [[f"x{sign}y"]]), "t", "c").split(r"\hline")[2].strip()
    assert body == rf"x{text_table.SIGNS[sign]}y \\"
