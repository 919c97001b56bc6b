"""Where results and pictures are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""


def results_dir(results: str) -> Path:
    """Where the runs and tables of a scale are, or those of the reference."""
    return ROOT / "results" / results


def figures_dir(results: str) -> Path:
    """Where the pictures of a scale are, or those of the reference."""
    return ROOT / "figures" / results
