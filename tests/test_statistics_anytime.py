"""The anytime-valid comparison: its error rate under looking after every state, its power, and its interval."""

import numpy as np
import pytest
from scipy.special import betaln

from s2robot.interfaces import StatisticsError
from s2robot.statistics import anytime_comparison, sign_flip_test


def pairs(rng, rate_base, rate_treated, states, seeds=1):
    """Outcomes of two arms whose states differ in difficulty, and of several training seeds."""
    shift = 0.25 * np.tanh(rng.normal(size=states))
    base, treated = (rng.random((seeds, states)) < np.clip(rate + shift, 0, 1) for rate in (rate_base, rate_treated))
    return base.astype(float), treated.astype(float)


def test_every_look_is_robbins_mixture_over_the_chance_of_a_win_among_discordant_pairs():
    base, treated = pairs(np.random.default_rng(0), 0.4, 0.6, 150)
    wins, losses = (np.cumsum(better, axis=1)[0] for better in (treated > base, treated < base))
    # The wealth for a chance that is uniform over [0, 1] a priori.
    pvalues = np.exp(-(wins + losses) * np.log(2) - betaln(wins + 1, losses + 1))
    looks = [anytime_comparison(base[:, :n], treated[:, :n]) for n in range(1, 151)]
    smallest = np.minimum.accumulate(np.minimum(pvalues, 1))
    np.testing.assert_allclose([look.pvalue for look in looks], smallest, rtol=1e-9)
    outside = [not look.interval.low <= 0 <= look.interval.high for look in looks]
    np.testing.assert_array_equal(outside, pvalues <= 0.05)
    assert 0 < np.mean(outside) < 1
    assert (smallest < np.minimum(pvalues, 1)).any()


@pytest.mark.parametrize("seeds", [1, 3])
def test_looking_after_every_state_declares_a_difference_in_at_most_5_percent_of_equal_arms(seeds):
    rng = np.random.default_rng(1)
    looked, repeated = [], []
    for _ in range(400):
        base, treated = pairs(rng, 0.5, 0.5, 100, seeds)
        looked.append(anytime_comparison(base, treated).pvalue <= 0.05)  # the smallest p of all 100 looks
        repeated.append(min(sign_flip_test(base[:, :n], treated[:, :n]) for n in range(20, 101, 20)) <= 0.05)
    assert np.mean(looked) <= 0.055  # about 0.02, four standard deviations below
    assert np.mean(repeated) > np.mean(looked)  # what the fixed-size test makes of five looks


def test_a_large_difference_is_found_early():
    rng = np.random.default_rng(2)
    found = [anytime_comparison(*pairs(rng, 0.3, 0.8, 60)).pvalue <= 0.05 for _ in range(50)]
    assert np.mean(found) > 0.9


def test_the_interval_holds_the_true_difference_at_all_looks_together():
    rng = np.random.default_rng(3)
    held = []
    for _ in range(100):
        base, treated = pairs(rng, 0.45, 0.6, 80)
        intervals = [anytime_comparison(base[:, :n], treated[:, :n]).interval for n in (10, 20, 40, 80)]
        held.append(all(low <= 0.15 <= high for low, high in intervals))
    assert np.mean(held) >= 0.95


@pytest.mark.parametrize("states", [1, 5, 700])
def test_arms_that_always_differ_or_never(states):
    zeros, ones = np.zeros(states), np.ones(states)
    same, better = anytime_comparison(ones, ones), anytime_comparison(zeros, ones)
    assert (same.value, same.pvalue) == (0.0, 1.0)
    assert same.interval.low == pytest.approx(-same.interval.high)
    assert (better.value, better.interval.high) == (1.0, 1.0)
    assert better.pvalue == pytest.approx(min(1.0, (states + 1) / 2.0**states))


def test_swapping_the_arms_turns_the_sign():
    base, treated = pairs(np.random.default_rng(4), 0.4, 0.6, 90)
    there, back = anytime_comparison(base, treated), anytime_comparison(treated, base)
    assert back.value == -there.value
    assert back.interval.low == pytest.approx(-there.interval.high)
    assert back.pvalue == pytest.approx(there.pvalue)


def test_unpaired_arms_are_refused():
    with pytest.raises(StatisticsError, match="same initial states"):
        anytime_comparison([0, 1], [1])
