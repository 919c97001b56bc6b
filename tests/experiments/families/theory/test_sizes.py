"""Exponents of Table 14: the matrices against plain formulas, the statistics on known slopes."""

import numpy as np
import pandas as pd
import pytest

from experiments.analysis import verdicts
from experiments.families.theory import sizes, tables
from experiments.families.theory.spec import TABLE14

KINDS = tuple(tables.THEORY)


def known(slopes: dict[str, float], noise: float = 0.0, seeds: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"kind": kind, "n": n, "seed": s, "size": 3 * n**slope * np.exp(noise * rng.normal())}
        for kind, slope in slopes.items()
        for n in (64, 256, 1024)
        for s in range(seeds)
    )


def test_nonlinear_tensor_product_is_adams(monkeypatch) -> None:
    n, terms = 24, 3
    monkeypatch.setattr(sizes, "ROWS", 7)
    u, v, x = sizes._correlated(np.random.default_rng(1), n, terms)
    exp_avg, exp_avg_sq = np.zeros((n, n)), np.zeros((n, n))
    for i in range(terms):
        gradient = np.outer(u[i], v[i])
        exp_avg = 0.9 * exp_avg + 0.1 * gradient
        exp_avg_sq = 0.999 * exp_avg_sq + 0.001 * gradient**2
    update = (exp_avg / (1 - 0.9**terms)) / np.sqrt(exp_avg_sq / (1 - 0.999**terms))
    entries = sizes.nonlinear(np.random.default_rng(1), n, terms)
    np.testing.assert_allclose(entries, update @ x, rtol=1e-10)


def test_linear_tensor_product() -> None:
    u, v, x = sizes._correlated(np.random.default_rng(1), 24, 3)
    entries = sizes.linear(np.random.default_rng(1), 24, 3)
    np.testing.assert_allclose(entries, sum(map(np.outer, u, v)) @ x, rtol=1e-10)


def test_gaussian() -> None:
    a = np.random.default_rng(1).standard_normal((24, 24), dtype=np.float32)
    entries = sizes.gaussian(np.random.default_rng(1), 24, 3)
    np.testing.assert_allclose(entries, a @ a.T @ np.ones(24) / np.sqrt(24), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_have_entries_of_size_1_and_depend_on_the_matrix(kind) -> None:
    u, v, x = sizes._correlated(np.random.default_rng(2), 4096, 4)
    for entries in (u, v, x):
        assert np.square(entries).mean() == pytest.approx(1, abs=0.1)
    assert abs(np.mean(v[0] * x)) > 0.2


def test_sizes_are_tidy_and_seeds_differ(capsys) -> None:
    found = sizes.sizes({"widths": [16, 32], "seeds": 3, "terms": 2}, "")
    assert len(found) == len(KINDS) * 2 * 3
    assert found["size"].nunique() == len(found)
    assert found.equals(sizes.sizes({"widths": [16, 32], "seeds": 3, "terms": 2}, ""))
    assert "table14: n = 32 done" in capsys.readouterr().err


def test_the_exponent_is_the_slope() -> None:
    found = tables.measured(known({"linear": 0.75}), "linear")
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 0.75, 0.75))
    noisy = tables.measured(known({"linear": 0.75}, noise=0.1), "linear")
    assert noisy.low < noisy.value < noisy.high
    assert noisy.high - noisy.low < 0.2
    assert tables.measured(known({"linear": 1.0}, seeds=1), "linear").low is None


@pytest.mark.parametrize("kind", KINDS)
def test_claims_follow_the_exponents(kind) -> None:
    (claim,) = (c for c in TABLE14.claims if c.id == f"{kind}-exponent")

    def verdict(slope: float, noise: float = 0.0, seeds: int = 5, scale: str = "small") -> str:
        runs = known({**tables.THEORY, kind: slope}, noise, seeds)
        return verdicts.judge(claim, runs, scale).verdict

    theory = tables.THEORY[kind]
    assert verdict(theory) == "holds"
    assert verdict(theory + 0.09) == verdict(theory - 0.09) == "holds"
    assert verdict(theory + 0.11) == verdict(theory - 0.11) == "fails"
    assert verdict(1.5 - theory) == "fails"  # the other law, of large numbers or central limit
    assert verdict(theory, noise=0.5) == "undecided"  # too vague to say
    assert verdict(theory, seeds=1) == "not judged"
    assert verdict(theory, scale="smoke") == "not judged"
    others = [c for c in TABLE14.claims if c is not claim]
    runs = known({**tables.THEORY, kind: 3.0})
    assert all(verdicts.judge(c, runs, "small").verdict == "holds" for c in others)


def test_measured_at_moderate_widths() -> None:
    settings = {**TABLE14.computation.settings, "widths": [64, 128, 256, 512], "seeds": 6}
    found = sizes.sizes(settings, "")
    for kind, theory in tables.THEORY.items():
        assert tables.measured(found, kind).value == pytest.approx(theory, abs=0.15)
