"""Sizes of the entries of A v for the matrices of Table 14. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from experiments.messages import note

ROWS = 256  # of a tensor product at a time: the whole matrix is never in memory
BETAS = (0.9, 0.999)


def sizes(settings: Mapping[str, Any], data: str) -> pd.DataFrame:
    """Root mean square of the entries of A v: columns kind, n, seed, size.

    Args:
        settings: `widths` n, number of `seeds`, and `terms` of the tensor products.
        data: not used.
    """
    kinds = {"gaussian": gaussian, "linear": linear, "nonlinear": nonlinear, "vector": vector}
    rows = []
    for n in settings["widths"]:
        for seed in range(settings["seeds"]):
            for place, (kind, product) in enumerate(kinds.items()):
                rng = np.random.default_rng([seed, n, place])
                entries = product(rng, n, settings["terms"])
                size = float(np.sqrt(np.mean(np.square(entries, dtype=np.float64))))
                rows.append({"kind": kind, "n": n, "seed": seed, "size": size})
        note(f"table14: n = {n} done, of {', '.join(map(str, settings['widths']))}")
    return pd.DataFrame(rows)


def gaussian(rng: np.random.Generator, n: int, terms: int) -> np.ndarray:
    """A v for A standard Gaussian, v = Aᵀ1 / √n, of shape (n,). Source: Appendix J.1.5."""
    a = rng.standard_normal((n, n), dtype=np.float32)
    v = a.sum(axis=0) / np.float32(np.sqrt(n))
    return np.asarray(a @ v)


def linear(rng: np.random.Generator, n: int, terms: int) -> np.ndarray:
    """A v for A = sum of u vᵀ, v correlated with them, of shape (n,). Source: Appendix J.1.2."""
    u, v, x = _correlated(rng, n, terms)
    return np.asarray(u.T @ (v @ x))


def nonlinear(rng: np.random.Generator, n: int, terms: int) -> np.ndarray:
    """A v for Adam's A, of shape (n,).

    A_ab = sum_i gamma_i u_a v_b / sqrt(sum_i omega_i (u_a v_b)²), with the weights of Adam's
    moving averages over `terms` steps, bias correction included. Source: Appendix J.1.3, Eq. 8.
    """
    u, v, x = _correlated(rng, n, terms)
    gamma, omega = (_averaging(beta, terms) for beta in BETAS)
    out = np.empty(n)
    for start in range(0, n, ROWS):
        part = u[:, start : start + ROWS]
        mean = (gamma[:, None] * part).T @ v
        square = (omega[:, None] * part**2).T @ v**2
        out[start : start + ROWS] = (mean / np.sqrt(square)) @ x
    return out


def vector(rng: np.random.Generator, n: int, terms: int) -> np.ndarray:
    """A v for a row vector A and v correlated with it, of shape (1,). Source: Appendix J.1.4."""
    a, noise = rng.standard_normal((2, n))
    return np.array([a @ (a + noise) / np.sqrt(2)])


def _correlated(
    rng: np.random.Generator, n: int, terms: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u and v of shape (terms, n), and x of shape (n,) that is half their v and half noise."""
    u, v = rng.standard_normal((2, terms, n))
    x = (v.sum(axis=0) / np.sqrt(terms) + rng.standard_normal(n)) / np.sqrt(2)
    return u, v, x


def _averaging(beta: float, terms: int) -> np.ndarray:
    """Weights of a bias-corrected exponential moving average, the newest last."""
    weights = beta ** np.arange(terms - 1, -1, -1)
    return np.asarray(weights / weights.sum())
