"""Main effects of a random search: what matters is found, and a planted mistake is not hidden."""

import numpy as np
import pytest

from experiments.analysis.importance import main_effects

POINTS = np.random.default_rng(0).uniform(size=(200, 4))


def test_the_hyperparameters_that_matter_are_found_in_their_order() -> None:
    effects = main_effects(POINTS, 3 * (POINTS[:, 1] - 0.4) ** 2 + 0.3 * POINTS[:, 2])
    assert np.argsort(-effects)[:2].tolist() == [1, 2]
    assert effects[[0, 3]].max() < 0.05
    assert effects[1] == pytest.approx(0.75, abs=0.2)


def test_what_acts_together_alone_has_no_main_effect() -> None:
    centred = POINTS - 0.5
    effects = main_effects(POINTS, np.sign(centred[:, 0] * centred[:, 1]))
    assert effects.max() < 0.15


def test_divergences_rank_last_and_only_ranks_count() -> None:
    losses = np.where(POINTS[:, 0] > 0.5, np.inf, POINTS[:, 0])
    effects = main_effects(POINTS, losses)
    assert effects.argmax() == 0
    assert effects[0] > 0.9
    np.testing.assert_allclose(main_effects(POINTS, np.exp(5 * losses)), effects)


def test_equal_losses_have_no_variance_to_explain() -> None:
    assert not main_effects(POINTS, np.full(len(POINTS), np.inf)).any()
