"""The theory: the tables of rules, two schematics, measured exponents."""

from __future__ import annotations

from experiments.declare.claims import Claim
from experiments.declare.family import Exhibit
from experiments.declare.product import Computation, Figure, Table
from experiments.declare.references import Call
from experiments.declare.scales import SCALES

CODE = __package__

FIG2 = Figure(
    name="fig2",
    title="What µTransfer does",
    caption=(
        "Left: the large model is trained once for every candidate of a hyperparameter, and once "
        "more with the best. Right: with µP a narrow copy of it takes the candidates, and the "
        "large model is trained once, with the copied optimum. Schematic."
    ),
    source="Figure 2 and Algorithm 1",
    draw=f"{CODE}.figures:draw_fig2",
)
FIG11 = Figure(
    name="fig11",
    title="The dimensions of a Transformer",
    caption=(
        "The weights of one block, the embedding and the readout, each fan_out high and fan_in "
        "wide, white lines between the heads. Any of d_model, n_head, d_k, d_v and d_ffn may grow "
        "as width, and not all by the same factor; the vocabulary stays. d_head is the usual name "
        "where d_k = d_v. Schematic."
    ),
    source="Figure 11; Appendices B.1 and E.2",
    draw=f"{CODE}.figures:draw_fig11",
)

HYPERPARAMETERS = Computation(
    function=f"{CODE}.entries:hyperparameters",
    settings={"scale": "small"},
    scales={scale: {"scale": scale} for scale in SCALES if scale != "small"},
    reads=("experiments/families/*/spec*.py",),
)
TABLE1 = Table(
    name="table1",
    title="Kinds of hyperparameters, and what tests their transfer",
    caption=(
        "Every kind of hyperparameter: what the paper says of it, what the rules of this "
        "repository do with it as the width grows, and which of its figures puts it to the test."
    ),
    source="Table 1; Section 6 and Appendix E.1",
    computation=HYPERPARAMETERS,
    render=f"{CODE}.tables:render_table1",
)
TABLE2 = Table(
    name="table2",
    title="Hyperparameters that the paper transfers, and what tests them",
    caption=(
        "The hyperparameters that the paper transfers, one by one, and where this repository tests "
        "them. Exponents are those of Table 8 and, for rates and epsilon, of Adam."
    ),
    source="Table 2; Section 6",
    computation=HYPERPARAMETERS,
    render=f"{CODE}.tables:render_table2",
)


def rule_table(number: str, title: str) -> Table:
    """A table of scaling rules, rendered from `mupkit.rules`."""
    return Table(
        name=f"table{number}",
        title=title,
        caption=(
            "How each quantity scales with the width: fan_in and fan_out stand for their ratios to "
            "the base model's, and a dimension that does not grow counts as 1. In parentheses: the "
            "standard parametrization, where it differs. †: not in the paper's table."
        ),
        source=f"Table {number}",
        computation=Computation(
            function=f"{CODE}.entries:rule_entries", settings={"table": number}
        ),
        render=f"{CODE}.tables:render_rules",
    )


TABLE3 = rule_table("3", "µP without multipliers")
TABLE8 = rule_table("8", "µP with an output multiplier, as implemented here")
TABLE9 = rule_table("9", "µP in the style of Tensor Programs IV")


def exponent_claim(kind: str, what: str, theory: str, exponent: str = "1") -> Claim:
    """The exponent of one kind of matrix is what the theory says."""
    return Claim(
        id=f"{kind}-exponent",
        statement=f"Entries of {what} times a correlated vector grow as {theory}",
        source="Table 14 and Appendix J.1",
        paper=f"exponent {exponent} (Table 14)",
        measure=Call(f"{CODE}.tables:deviation", {"kind": kind}),
        relation="<=",
        threshold=0.1,
        unit="between the exponents",
    )


TABLE14 = Table(
    name="table14",
    title="How fast the entries of A v grow",
    caption=(
        "Size of the entries of A v, where A and v have entries of size 1 and v depends on A: the "
        "exponent of n in theory, and as measured by the slope of log2 of the root mean square "
        "against log2 n. Intervals: Student's t over seeds, 95 %."
    ),
    source="Table 14; Appendix J.1",
    computation=Computation(
        function=f"{CODE}.sizes:sizes",
        settings={"widths": [64, 128, 256, 512, 1024, 2048, 4096], "seeds": 10, "terms": 4},
        scales={
            "smoke": {"widths": [16, 32, 64], "seeds": 2},
            "paper": {"widths": [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384], "seeds": 20},
        },
    ),
    render=f"{CODE}.tables:render_table14",
    claims=(
        exponent_claim("gaussian", "a standard Gaussian matrix", "√n", "1/2"),
        exponent_claim("linear", "a sum of outer products, as SGD's updates,", "n"),
        exponent_claim("nonlinear", "a quotient of such sums, as Adam's updates,", "n"),
        exponent_claim("vector", "a row vector", "n"),
    ),
)

EXHIBIT = Exhibit(
    title="Rules, schematics, exponents",
    figures=(FIG2, FIG11),
    tables=(TABLE1, TABLE2, TABLE3, TABLE8, TABLE9, TABLE14),
)
