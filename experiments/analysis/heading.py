"""What stands above a picture: where the paper has it, what is trained, what is held fixed.

From the declaration and the tidy table; nothing is written by hand for a figure. No Matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from experiments.analysis.conventions import SHORT, number
from experiments.declare.config import RunConfig
from experiments.declare.product import Computation, Product
from experiments.declare.scales import Scale
from experiments.declare.schedules import TITLES

DEPTH_MUP = "depth-µP"
NORMS = {"pre": "pre-layernorm", "post": "post-layernorm"}
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}
WORDS = {"relu": "ReLU", "xent": "cross-entropy", "mse": "squared error"}


def _unless(usual: Any, words: str) -> Callable[[Any], str]:
    """Told if a value is not the one that changes nothing."""
    return lambda value: "" if value == usual else words.format(number(value))


HELD: dict[str, Callable[[Any], str]] = {
    "optimizer": OPTIMIZERS.__getitem__,
    "activation": lambda name: WORDS.get(name, name),
    "loss": lambda name: WORDS.get(name, name),
    "log2lr": lambda value: f"log2 learning rate {number(value)}",
    "schedule": lambda name: f"schedule {TITLES[name]}",
    "warmup": _unless(0, "{} steps of warm-up"),
    "width": lambda value: f"width {value}",
    "base_width": lambda value: f"base width {value}",
    "n_layer": lambda value: f"depth {value}",
    "n_encoder_layer": lambda value: f"encoder depth {value}",
    "n_decoder_layer": lambda value: f"decoder depth {value}",
    "n_head": lambda value: f"{value} heads",
    "d_head": lambda value: f"d_head {number(value)}",
    "output_mult": _unless(1, "output multiplier {}"),
    "attn_mult": _unless(1, "attention multiplier {}"),
    "embed_mult": _unless(1, "embedding multiplier {}"),
    "input_mult": _unless(1, "input multiplier {}"),
    "init_std": _unless(1, "std of initialization {}"),
    "beta2": lambda value: f"β2 {number(value)}",
    "momentum": _unless(0, "momentum {}"),
    "weight_decay": _unless(0, "weight decay {}"),
    "label_smoothing": _unless(0, "label smoothing {}"),
}
"""What is told of a value that runs have in common, by key; "" tells nothing."""
APART = {"steps": "{:,} steps", "batch_size": "batch {}", "seq_len": "length {}"}
"""The same of keys that the foot of a picture has where all runs have one value."""


def heading(product: Product, runs: pd.DataFrame, scale: Scale) -> tuple[str, str]:
    """Two lines: its number in the paper with parametrizations and norm, and what is held fixed.

    Args:
        product: what is drawn.
        runs: its tidy table; that of a schematic is empty.
        scale: of the runs.

    Returns:
        Both lines; the second is empty where nothing is trained.
    """
    if product.schematic:
        return f"{product.label} · schematic", ""
    first = [product.label, parametrizations(runs), layer_norm(product, runs, scale)]
    always, elsewhere = fixed(product, runs, scale), swept_apart(product, runs, scale)
    second = [f"fixed: {' · '.join(always)}" if always else ""]
    if elsewhere:
        second.append(f"where not swept: {' · '.join(elsewhere)}")
    return " · ".join(filter(None, first)), "; ".join(filter(None, second))


def parametrizations(runs: pd.DataFrame) -> str:
    """ "SP and µP", for example, with depth-µP and what lies between SP and µP; "" without any."""
    if "parametrization" not in runs:
        return ""
    found = [name for p, name in SHORT.items() if p in set(runs["parametrization"])]
    if "base_n_layer" in runs and runs["base_n_layer"].notna().any():
        found.append(DEPTH_MUP)
    if "t" in runs and runs["t"].nunique() > 1:
        t = runs["t"].where(runs["parametrization"] == "mup", 0.0)
        ends = " to ".join(number(end) for end in (t.min(), t.max()))
        return f"t from {ends}, where 0 is SP and 1 is µP"
    return " and ".join(filter(None, (", ".join(found[:-1]), found[-1])))


def layer_norm(product: Product, runs: pd.DataFrame, scale: Scale) -> str:
    """The place of the layer normalization; "" for models without one."""
    if product.computation is not None:
        return NORMS.get(_base(product.computation, scale).get("norm", ""), "")
    if "norm" in runs:
        return " and ".join(NORMS[norm] for norm in runs["norm"].unique())
    return NORMS.get(product.sweeps[0].config.layer_norm, "")


def _base(computation: Computation, scale: Scale) -> Mapping[str, Any]:
    """The run around which a computation's are, if it has one."""
    found = computation.at(scale).get("base")
    return found if isinstance(found, Mapping) else {}


def fixed(product: Product, runs: pd.DataFrame, scale: Scale) -> list[str]:
    """What all runs, or all parts of a computation, have in common, of the keys in `HELD`."""
    if product.computation is not None:
        values = _base(product.computation, scale)
        return _told((key, [values[key]]) for key in HELD if key in values)
    sweeps = product.runs(scale, runs["data"].iloc[0])
    idle = set.intersection(*({*run.idle()} for run in sweeps))
    return _told((key, [*runs[key].unique()]) for key in HELD if key in runs and key not in idle)


def swept_apart(product: Product, runs: pd.DataFrame, scale: Scale) -> list[str]:
    """The values that keys have in the sweeps that vary others, where these agree.

    Nothing for a search and what follows up on it.
    """
    if not product.sweeps or product.follow_up:
        return []
    sweeps = [sweep.runs(scale, runs["data"].iloc[0]) for sweep in product.sweeps]
    return _told((key, _elsewhere(key, sweeps)) for key in (*HELD, *APART) if _varies(key, runs))


def _varies(key: str, runs: pd.DataFrame) -> bool:
    return key in runs and runs[key].nunique() > 1


def _elsewhere(key: str, sweeps: Iterable[Iterable[RunConfig]]) -> list[Any]:
    found: list[Any] = []
    for runs in sweeps:
        values = {getattr(run, key) for run in runs if key not in run.idle()}
        found += values if len(values) == 1 else []
    return list(dict.fromkeys(found))


def _told(held: Iterable[tuple[str, list[Any]]]) -> list[str]:
    """What is told of keys that have one value."""
    told = {**HELD, **{key: text.format for key, text in APART.items()}}
    ones = [(key, values[0]) for key, values in held if len(values) == 1]
    return [words for key, value in ones if pd.notna(value) and (words := told[key](value))]
