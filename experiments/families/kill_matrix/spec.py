"""The kill matrix: which check notices which planted bug."""

from __future__ import annotations

from experiments.declare.claims import Claim
from experiments.declare.family import Exhibit
from experiments.declare.product import Computation, Table

CODE = __package__

KILL_MATRIX = Table(
    name="kill_matrix",
    title="Which check notices which bug",
    caption=(
        "Bugs of parametrization, planted one by one in small models, and what notices them. The "
        "first rows are right models, which nothing may accuse."
    ),
    source="Appendix D.1 (coordinate checks); the bugs and the other checks are ours",
    computation=Computation(
        function=f"{CODE}.matrix:measure",
        settings={"check": [], "seeds": 8, "wider_steps": 30, "mup_steps": 3},
        scales={
            "smoke": {
                "check": ["--seeds", "2", "--most-seeds", "2", "--steps", "1"],
                "seeds": 2,
                "wider_steps": 3,
                "mup_steps": 1,
                "names": ["right: CNN, Table 8, Adam", "forgotten convolutional head"],
            }
        },
    ),
    render=f"{CODE}.figures:render_kill_matrix",
    claims=(
        Claim(
            id="every-bug-is-noticed",
            statement="Every planted bug is noticed by one of our checks",
            source="Appendix D.1",
            measure=f"{CODE}.figures:unnoticed",
            relation="<=",
            threshold=0.0,
            unit="bugs",
            decided_by="value",
        ),
        Claim(
            id="no-right-model-is-accused",
            statement="No right model is accused by any of them",
            source="Appendix D.1",
            measure=f"{CODE}.figures:accused",
            relation="<=",
            threshold=0.0,
            unit="models",
            decided_by="value",
        ),
    ),
)

EXHIBIT = Exhibit(title="Which check notices which bug", tables=(KILL_MATRIX,))
