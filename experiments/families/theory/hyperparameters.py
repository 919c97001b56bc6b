"""The hyperparameters of Tables 1 and 2, and by which keys of a run they are swept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["optimizer", "initialization", "multiplier", "regularization", "scale"]


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter.

    Args:
        name: for readers.
        kind: of the paper's Tables 1 and 2.
        keys: of run configurations; a sweep over one of them tests it.
        paper: what the paper says of it, in our words.
        source: where it says so.
        rule: quantity of `mupkit.rules.Rule` that scales it; None if it is the same at any width.
    """

    name: str
    kind: Kind
    keys: tuple[str, ...]
    paper: str
    source: str
    rule: Literal["lr", "init_std", "multiplier", "eps"] | None = None


THEORY = "transfers across width, by theory"
TESTED = f"{THEORY} and experiment, and across the other dimensions by experiment"
REGULARIZES = "does not transfer: how much is needed depends on the data's size too"
CARRIED = "carried from a narrow model to a wide one in Table 13"
EMPIRICAL = "transferred across, by experiments on Transformers"

HYPERPARAMETERS = (
    Hyperparameter(
        "learning rate", "optimizer", ("log2lr",), TESTED, "Table 2, Figs. 4 and 19", "lr"
    ),
    Hyperparameter(
        "schedule of the rate", "optimizer", ("schedule",), TESTED, "Table 2, Figs. 4 and 19"
    ),
    Hyperparameter(
        "momentum",
        "optimizer",
        ("momentum",),
        f"{THEORY}, and {CARRIED}",
        "Table 2, Appendix B.3, Table 13",
    ),
    Hyperparameter("Adam's β1", "optimizer", ("beta1",), THEORY, "Table 2"),
    Hyperparameter(
        "Adam's β2",
        "optimizer",
        ("beta2",),
        f"{THEORY} and experiment, and across batch size, sequence length and training time by "
        "experiment",
        "Table 2, Fig. 17",
    ),
    Hyperparameter(
        "Adam's ε",
        "optimizer",
        ("eps",),
        "if not negligible, scales as 1/fan_in for all parameters, added after the square root, "
        "or as 1/fan_in² before it",
        "Appendix B.3",
        "eps",
    ),
    Hyperparameter(
        "variance of the initialization, by layer",
        "initialization",
        ("init_std",),
        f"{TESTED}, except depth",
        "Table 2, Figs. 4 and 19, Section 6.1",
        "init_std",
    ),
    Hyperparameter(
        "multipliers of weights and logits",
        "multiplier",
        ("output_mult", "attn_mult", "embed_mult"),
        TESTED,
        "Table 2, Figs. 4 and 19",
        "multiplier",
    ),
    Hyperparameter("dropout", "regularization", ("dropout",), REGULARIZES, "Appendix E.1"),
    Hyperparameter(
        "weight decay",
        "regularization",
        ("weight_decay",),
        f"{REGULARIZES}; yet constant in width in SGD and AdamW, and {CARRIED}",
        "Appendices B.3 and E.1, Table 13",
    ),
    Hyperparameter(
        "width",
        "scale",
        ("width", "n_head", "d_head", "d_k", "d_ffn"),
        "transferred across, by theory and experiments",
        "Sections 2 and 6; Appendix E.2",
    ),
    Hyperparameter("depth", "scale", ("n_layer", "depth"), EMPIRICAL, "Section 6.1"),
    Hyperparameter("batch size", "scale", ("batch_size",), EMPIRICAL, "Appendix G.2.1"),
    Hyperparameter("sequence length", "scale", ("seq_len",), EMPIRICAL, "Appendix G.2.1"),
    Hyperparameter("training time", "scale", ("steps",), EMPIRICAL, "Appendix G.2.1"),
)
