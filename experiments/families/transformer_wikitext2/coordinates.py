"""How far the coordinates of a Transformer move in its first steps, at several widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

from experiments.families.transformer_wikitext2.config import TransformerConfig
from experiments.families.transformer_wikitext2.task import LanguageModeling, build
from experiments.messages import note
from experiments.train import engine, process
from mupkit.coord_check import record

QUANTITIES = {
    "readout": "logits",
    "blocks.0.attention.softmax": "attention logits",
    "word": "word embeddings",
}
"""Quantities of Fig. 5 by their names in the recording; attention is of the first block."""


def measure(settings: Mapping[str, Any], data: str) -> pd.DataFrame:
    """One row per (parametrization, width, seed, step, quantity).

    Args:
        settings: `base` (values of the run configuration), `widths`, `steps` (their number) and
            `seeds`.
        data: source of the one batch that all models are trained on.

    Returns:
        Columns parametrization, width, seed, step, quantity, size (root mean square of the
        coordinates of x_t) and change (of x_t - x_0).
    """
    machine = process.set_up()
    tables = []
    for parametrization in ("sp", "mup"):
        note(f"coordinates of {parametrization} at widths {settings['widths']}")
        config = TransformerConfig.make(
            **{
                **settings["base"],
                "parametrization": parametrization,
                "width": settings["widths"][0],
                "steps": settings["steps"],
                "data": data,
            }
        )
        tables.append(_measure(config, settings, machine.device))
    frame = pd.concat(tables, ignore_index=True)
    frame.attrs.update(device=machine.device, data_fingerprint=LanguageModeling(config).fingerprint)
    return frame


def _measure(config: TransformerConfig, settings: Mapping[str, Any], device: str) -> pd.DataFrame:
    task = LanguageModeling(config)
    batch = next(task.batches(device))

    def make(width: int) -> torch.nn.Module:
        return build(config.replace(width=width)).to(device)

    rows = record(
        make,
        settings["widths"],
        make_optimizer=lambda model: engine.make_optimizer(model, config),
        loss=lambda model: task.loss(model, batch),
        steps=settings["steps"],
        seeds=settings["seeds"],
        dtype=None,
    )
    wanted = pd.DataFrame(
        {
            "width": r.width,
            "seed": r.seed,
            "step": r.step,
            "quantity": QUANTITIES[r.tensor],
            "kind": r.kind,
            "value": r.value,
        }
        for r in rows
        if r.tensor in QUANTITIES and r.kind != "update"
    )
    keys = ["width", "seed", "step", "quantity"]
    wide = wanted.pivot(index=keys, columns="kind", values="value").reset_index()
    wide = wide.rename(columns={"activation": "size"}).rename_axis(columns=None)
    wide["change"] = wide["change"].fillna(0.0)  # at initialization
    fixed = {k: getattr(config, k) for k in ("data", "vocab_size", "batch_size", "seq_len")}
    return wide.assign(parametrization=config.parametrization, **fixed)
