"""The power that a dry run promises is the power of the decision that a report makes."""

import math

import numpy as np
import pytest
from scipy import stats

from s2robot.interfaces import StatisticsError
from s2robot.statistics import detectable_paired_difference, paired_bootstrap, paired_power, sign_flip_test


@pytest.mark.parametrize(("episodes", "seeds", "rate"), [(100, 3, 0.5), (100, 1, 0.5), (100, 5, 0.8)])
def test_the_detectable_difference_is_found_four_times_in_five_by_both_tests(episodes, seeds, rate):
    seed_std = 0.05 if seeds > 1 else 0.0
    rng = np.random.default_rng(0)
    rates = np.array([rate, rate + detectable_paired_difference(rate, episodes, seeds, seed_std)])[:, None]
    found = []
    for _ in range(400):
        trials = rates * (1 - rates) / 0.05**2 - 1
        drawn = stats.beta.rvs(rates * trials, (1 - rates) * trials, size=(2, seeds), random_state=rng)
        outcomes = rng.random((2, seeds, episodes)) < (drawn if seeds > 1 else rates)[..., None]
        pvalues = sign_flip_test(*outcomes), paired_bootstrap(*outcomes, resamples=500).pvalue
        found.append(max(pvalues) <= 0.05)
    assert 0.70 <= np.mean(found) <= 0.90  # within four standard deviations, over seeds


def test_power_grows_with_episodes_and_with_training_seeds():
    powers = [paired_power(0.5, 0.65, episodes, 3, 0.05) for episodes in (50, 100, 200)]
    powers += [paired_power(0.5, 0.65, 200, seeds, 0.05) for seeds in (5, 10)]
    assert powers == sorted(powers)
    assert detectable_paired_difference(0.99, 20) == math.inf


def test_impossible_rates_and_numbers_are_named():
    with pytest.raises(StatisticsError, match=r"p_treatment must be in \[0, 1\], got 1.5"):
        paired_power(0.5, 1.5, 100)
    with pytest.raises(StatisticsError, match="training_seeds ≥ 1"):
        paired_power(0.5, 0.6, 100, training_seeds=0)
