"""Statistics against scipy, statsmodels, exact enumeration and simulation.

Simulated rates are bounded four standard deviations, over seeds, away from what was measured.
"""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats import contingency_tables, multitest, proportion

from s2robot.interfaces import StatisticsError
from s2robot.statistics import (
    clopper_pearson_interval,
    comparison_power,
    detectable_difference,
    effective_episodes,
    fisher_exact,
    hierarchical_bootstrap,
    holm,
    interquartile_mean,
    mcnemar_exact,
    newcombe_interval,
    paired_bootstrap,
    probability_of_improvement,
    required_n,
    sign_flip_test,
    wilson_interval,
)
from s2robot.statistics.bootstrap import _draw_counts, _seed_deviations, _state_counts

COUNTS = [(k, n) for n in (1, 5, 16, 50, 500) for k in sorted({0, 1, n // 3, n - 1, n})]
outcome_lists = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def simulate_arm(rng, seeds, states, seed_std, state_std, shift=0.25):
    """Outcomes [seeds, states] of a probit model with a random effect per training seed and per initial state."""
    effects = shift + rng.normal(0, seed_std, (seeds, 1)) + rng.normal(0, state_std, (1, states))
    return (rng.random((seeds, states)) < stats.norm.cdf(effects)).astype(float)


# ---- intervals ----


@pytest.mark.parametrize(("k", "n"), COUNTS)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_rate_intervals_equal_scipy(k, n, confidence):
    test = stats.binomtest(k, n)
    for ours, method in ((wilson_interval, "wilson"), (clopper_pearson_interval, "exact")):
        theirs = test.proportion_ci(confidence, method)
        np.testing.assert_allclose(ours(k, n, confidence), (theirs.low, theirs.high), atol=1e-12)


def test_wilson_of_40_in_50_is_the_published_interval():
    np.testing.assert_allclose(wilson_interval(40, 50), (0.67, 0.89), atol=0.005)


def test_clopper_pearson_never_covers_less_than_nominal():
    n, rates = 30, np.linspace(0.001, 0.999, 200)
    intervals = np.array([clopper_pearson_interval(k, n) for k in range(n + 1)])
    covered = (intervals[:, :1] <= rates) & (rates <= intervals[:, 1:])
    coverage = (stats.binom.pmf(np.arange(n + 1)[:, None], n, rates) * covered).sum(0)
    assert coverage.min() >= 0.95


def test_wilson_covers_the_nominal_share_on_average():
    n, rates = 50, np.linspace(0.02, 0.98, 300)
    intervals = np.array([wilson_interval(k, n) for k in range(n + 1)])
    covered = (intervals[:, :1] <= rates) & (rates <= intervals[:, 1:])
    coverage = (stats.binom.pmf(np.arange(n + 1)[:, None], n, rates) * covered).sum(0)
    assert 0.945 <= coverage.mean() <= 0.965
    assert coverage.min() >= 0.90


@pytest.mark.parametrize(("baseline", "treatment"), [((7, 16), (10, 16)), ((0, 50), (3, 40)), ((99, 100), (100, 100))])
def test_newcombe_interval_equals_statsmodels(baseline, treatment):
    theirs = proportion.confint_proportions_2indep(*treatment, *baseline, method="newcomb", compare="diff")
    np.testing.assert_allclose(newcombe_interval(baseline, treatment), theirs, atol=1e-12)


# ---- tests ----


def test_fisher_reproduces_the_papers_robot_experiment():
    assert fisher_exact((7, 16), (10, 16)) == pytest.approx(0.48, abs=0.005)


@given(outcome_lists)
def test_mcnemar_equals_statsmodels(pairs):
    baseline, treatment = np.array(pairs, dtype=int).T
    table = [[int(((baseline == i) & (treatment == j)).sum()) for j in (1, 0)] for i in (1, 0)]
    ours = mcnemar_exact(baseline, treatment)
    assert (ours.only_baseline, ours.only_treatment) == (table[0][1], table[1][0])
    if ours.only_baseline + ours.only_treatment:  # statsmodels returns NaN without discordant pairs
        assert ours.pvalue == pytest.approx(contingency_tables.mcnemar(table, exact=True).pvalue)
    else:
        assert ours.pvalue == 1


@given(outcome_lists)
def test_sign_flip_test_of_one_training_seed_is_mcnemar(pairs):
    baseline, treatment = np.array(pairs, dtype=int).T
    assert sign_flip_test(baseline, treatment) == pytest.approx(mcnemar_exact(baseline, treatment).pvalue)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_sign_flip_test_equals_enumeration_of_all_sign_patterns(seed):
    rng = np.random.default_rng(seed)
    baseline, treatment = rng.integers(0, 2, (2, 7)), rng.integers(0, 2, (3, 7))
    differences = treatment.mean(0) - baseline.mean(0)
    null = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=7)]
    expected = np.mean(np.array(null) >= abs(differences.sum()) - 1e-9)
    assert sign_flip_test(baseline, treatment) == pytest.approx(expected)


def test_sign_flip_test_holds_its_level_when_training_seeds_share_hard_states():
    rng = np.random.default_rng(0)
    pvalues = []
    for _ in range(400):
        outcomes = simulate_arm(rng, seeds=6, states=100, seed_std=0, state_std=1)
        pvalues.append(sign_flip_test(outcomes[:3], outcomes[3:]))
    assert 0.002 <= np.mean(np.array(pvalues) <= 0.05) <= 0.085


@pytest.mark.parametrize("pvalues", [[0.01, 0.04, 0.03, 0.005], [0.5], [0.9, 0.9], [0.0, 1.0, 0.02, 0.02], []])
def test_holm_equals_statsmodels(pvalues):
    expected = multitest.multipletests(pvalues, method="holm")[1] if pvalues else []
    np.testing.assert_allclose(holm(pvalues), expected)


# ---- bootstraps ----


def percentile_bootstrap(values):
    """The textbook's interval of a mean."""
    draws = np.random.default_rng(1).choice(values, (9999, len(values))).mean(axis=1)
    return np.quantile(draws, [0.025, 0.975])


def test_bootstrap_of_one_training_seed_is_the_percentile_bootstrap():
    outcomes = (np.arange(80) < 60).astype(float)
    ours = hierarchical_bootstrap(outcomes, pseudo_states=False)
    np.testing.assert_allclose(ours, percentile_bootstrap(outcomes), rtol=0, atol=0.013)  # one episode in 80


def test_paired_bootstrap_of_one_training_seed_is_the_percentile_bootstrap():
    rng = np.random.default_rng(0)
    baseline = rng.integers(0, 2, 80)
    treatment = np.where(rng.random(80) < 0.7, baseline, 1)
    ours = paired_bootstrap(baseline, treatment, pseudo_states=False)
    np.testing.assert_allclose(ours.interval, percentile_bootstrap(treatment - baseline), rtol=0, atol=0.013)
    assert ours.value == pytest.approx(treatment.mean() - baseline.mean())


@pytest.mark.parametrize(("seed_std", "state_std"), [(0.0, 0.0), (0.1, 0.0), (0.1, 1.0), (0.25, 1.0)])
def test_hierarchical_bootstrap_covers_with_three_training_seeds(seed_std, state_std):
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(0.25 / math.sqrt(1 + seed_std**2 + state_std**2))
    covered = {0.95: [], 0.6: []}  # wide intervals fail to show in the first: they would hold the truth always
    for _ in range(200):
        outcomes = simulate_arm(rng, 3, 60, seed_std, state_std)
        for confidence, hits in covered.items():
            low, high = hierarchical_bootstrap(outcomes, confidence, resamples=300)
            hits.append(low <= truth <= high)
    assert np.mean(covered[0.95]) >= 0.88
    assert np.mean(covered[0.6]) <= 0.88


def test_paired_bootstrap_covers_and_holds_its_level_with_three_training_seeds():
    rng = np.random.default_rng(0)
    covered = {0.95: [], 0.6: []}
    for _ in range(200):
        outcomes = simulate_arm(rng, 6, 60, seed_std=0.2, state_std=1.0)
        for confidence, hits in covered.items():
            low, high = paired_bootstrap(outcomes[:3], outcomes[3:], confidence, resamples=300).interval
            hits.append(low <= 0 <= high)
    assert np.mean(covered[0.95]) >= 0.91
    assert np.mean(covered[0.6]) <= 0.88


@pytest.mark.parametrize("solved", [[20, 70], [20, 50, 90], [10, 30, 50, 60, 95]])
def test_redrawn_training_seeds_spread_as_much_as_the_mean_of_a_sample_of_them(solved):
    outcomes = (np.arange(100) < np.array(solved)[:, None]).astype(float)
    rates = outcomes.mean(axis=1)
    deviations = _seed_deviations(outcomes, resamples=50_000, stream=[0, 1])
    assert deviations.std() == pytest.approx(rates.std(ddof=1) / math.sqrt(len(rates)), rel=0.02)


@pytest.mark.parametrize("seeds", [(1, 3), (3, 3), (2, 5)])
def test_draws_without_a_difference_count_as_such_on_every_processor(seeds):
    # With few states many draws are 0; means over three training seeds in floating point come out at ±1e-8.
    rng, resamples = np.random.default_rng(0), 500
    for states in range(4, 14):
        arms = [(rng.random((count, states)) < 0.5).astype(float) for count in seeds]
        rates, redrawn = [], []
        for arm, stream in zip(arms, ([0, 2], [0, 1]), strict=True):
            counts = _draw_counts(np.random.default_rng(stream), len(arm), max(1, len(arm) - 1), resamples).astype(int)
            solved = np.array([Fraction(int(count), states) for count in arm.sum(axis=1)])
            redrawn.append(counts @ solved / max(1, len(arm) - 1) - solved.sum() / len(arm))
            rates.append(np.array([Fraction(int(count), len(arm)) for count in arm.sum(axis=0)]))
        draws = _state_counts(states, resamples, 0).astype(int) @ (rates[1] - rates[0]) / states
        draws = draws + redrawn[1] - redrawn[0]
        tails = (draws <= 0).sum() + 1, (draws >= 0).sum() + 1
        ours = paired_bootstrap(*arms, resamples=resamples, pseudo_states=False)
        assert ours.pvalue == min(1, 2 * min(tails) / (resamples + 1))
        np.testing.assert_allclose(ours.interval, np.quantile(draws.astype(float), [0.025, 0.975]), rtol=0, atol=1e-12)


def test_training_seeds_are_redrawn_in_either_arm():
    states = np.arange(100)
    varying, steady = (states < np.array([[20], [50], [80]])), np.tile(states % 2 == 0, (3, 1))
    there, back = paired_bootstrap(varying, steady), paired_bootstrap(steady, varying)
    np.testing.assert_allclose(there.interval, (-back.interval.high, -back.interval.low), atol=0.025)


def test_pooled_wilson_interval_is_too_narrow_across_training_seeds():
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(0.25 / math.sqrt(1 + 0.25**2))
    covered = []
    for _ in range(300):
        outcomes = simulate_arm(rng, 3, 100, seed_std=0.25, state_std=0.0)
        low, high = wilson_interval(int(outcomes.sum()), outcomes.size)
        covered.append(low <= truth <= high)
    assert np.mean(covered) < 0.8


def test_bootstrap_intervals_do_not_collapse_when_nothing_varies():
    perfect = np.ones((3, 50))
    assert hierarchical_bootstrap(perfect).low < 0.97
    difference = paired_bootstrap(perfect, perfect)
    assert difference.value == 0
    assert difference.interval.low < -0.02 < 0.02 < difference.interval.high
    assert difference.pvalue == 1


def test_missing_episodes_are_left_out_of_the_bootstrap():
    outcomes = np.tile([1.0, 0.0], (2, 30))
    with_gap = outcomes.copy()
    with_gap[1, :20] = np.nan
    np.testing.assert_allclose(hierarchical_bootstrap(with_gap), hierarchical_bootstrap(outcomes), atol=0.05)


def test_bootstraps_are_reproducible_and_seeded():
    outcomes = simulate_arm(np.random.default_rng(0), 3, 97, 0.2, 1)
    assert hierarchical_bootstrap(outcomes, seed=1) == hierarchical_bootstrap(outcomes, seed=1)
    assert hierarchical_bootstrap(outcomes, seed=1, resamples=9) != hierarchical_bootstrap(
        outcomes, seed=2, resamples=9
    )


def test_a_large_difference_has_a_small_pvalue_and_an_interval_above_zero():
    rng = np.random.default_rng(0)
    baseline, treatment = (rng.random((3, 100)) < 0.4), (rng.random((3, 100)) < 0.8)
    difference = paired_bootstrap(baseline, treatment)
    assert difference.interval.low > 0.1
    assert difference.pvalue < 0.001


# ---- summaries ----


def test_interquartile_mean_drops_a_quarter_at_each_end():
    assert interquartile_mean([100.0, 1.0, 2.0, -50.0]) == 1.5
    assert interquartile_mean(np.arange(8).reshape(2, 4)) == 3.5


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_probability_of_improvement_is_the_mann_whitney_statistic(baseline, treatment):
    expected = stats.mannwhitneyu(treatment, baseline).statistic / (len(baseline) * len(treatment))
    assert probability_of_improvement(baseline, treatment) == pytest.approx(expected)


# ---- power ----


def test_required_n_reproduces_the_published_numbers():
    assert required_n(0.8, 0.9) == 199
    assert required_n(0.8, 0.85) == 906
    assert required_n(7 / 16, 10 / 16) == pytest.approx(110, abs=2)
    assert required_n(0.5, 0.625) == pytest.approx(246, abs=1)


@pytest.mark.parametrize(("low", "high", "n"), [(0.8, 0.9, 199), (0.4, 0.6, 60), (0.05, 0.1, 500)])
def test_unpaired_power_equals_statsmodels(low, high, n):
    theirs = proportion.power_proportions_2indep(high - low, low, n).power
    assert comparison_power(low, high, n) == pytest.approx(theirs, abs=1e-3)


def test_paired_required_n_gives_the_simulated_mcnemar_test_its_power():
    p, q, correlation = 0.6, 0.75, 0.5
    n = required_n(p, q, correlation=correlation)
    both = p * q + correlation * math.sqrt(p * (1 - p) * q * (1 - q))
    rng = np.random.default_rng(0)
    cells = rng.multinomial(n, [p - both, q - both, 1 - p - q + 2 * both], size=2000)
    pvalue = functools.cache(lambda wins, discordant: stats.binomtest(wins, discordant).pvalue if discordant else 1.0)
    pvalues = [pvalue(int(b), int(b + c)) for b, c, _ in cells]
    assert 0.73 <= np.mean(np.array(pvalues) <= 0.05) <= 0.84  # the exact test is a little conservative
    assert n < required_n(p, q)


def test_uncorrelated_pairs_need_as_many_episodes_as_independent_arms():
    assert required_n(0.6, 0.75, correlation=0.0) == pytest.approx(required_n(0.6, 0.75), rel=0.05)


@pytest.mark.parametrize("correlation", [None, 0.3, 0.9])
def test_detectable_difference_inverts_required_n(correlation):
    n = required_n(0.5, 0.62, correlation=correlation)
    assert detectable_difference(0.5, n, correlation=correlation) == pytest.approx(0.12, abs=0.002)


def test_detectable_difference_is_infinite_where_nothing_can_be_told_apart():
    assert detectable_difference(0.99, 20) == math.inf


def test_effective_episodes_match_the_simulated_variance():
    assert effective_episodes(0.6, 100, 3, seed_std=0.0) == pytest.approx(300)
    rng = np.random.default_rng(0)
    rates = np.clip(rng.normal(0.6, 0.08, (20_000, 3)), 0, 1)
    variance = (rng.binomial(100, rates) / 100).mean(1).var()
    assert 0.6 * 0.4 / variance == pytest.approx(effective_episodes(0.6, 100, 3, seed_std=0.08), rel=0.05)


# ---- bad input ----


@pytest.mark.parametrize(("k", "n"), [(5, 4), (-1, 4), (0, 0), (1.5, 4), (math.nan, 4)])
@pytest.mark.parametrize("interval", [wilson_interval, clopper_pearson_interval])
def test_impossible_counts_are_named(interval, k, n):
    with pytest.raises(StatisticsError, match=rf"successes={k}, n={n}"):
        interval(k, n)


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_impossible_confidence_is_named(confidence):
    with pytest.raises(StatisticsError, match="confidence must be between 0 and 1"):
        wilson_interval(1, 2, confidence)
    with pytest.raises(StatisticsError, match="confidence must be between 0 and 1"):
        hierarchical_bootstrap([0, 1], confidence)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mcnemar_exact([1, 0], [1, 0, 1]), "got 2 for the baseline and 3 for the treatment"),
        (lambda: mcnemar_exact([[1, 0], [1, 0]], [[1, 0]]), "use sign_flip_test"),
        (lambda: sign_flip_test([1, math.nan], [1, 0]), "have missing episodes"),
        (lambda: paired_bootstrap([1, 2], [1, 0]), "got 2.0"),
        (lambda: hierarchical_bootstrap([]), r"got \[0\]"),
        (lambda: hierarchical_bootstrap([[1, 0], [math.nan, math.nan]]), "at least one training seed has no episodes"),
        (lambda: hierarchical_bootstrap([1, 0], resamples=0), "resamples must be at least 1, got 0"),
        (lambda: holm([0.1, 1.2]), r"\[0.1, 1.2\]"),
        (lambda: holm([math.nan]), "nan"),
        (lambda: interquartile_mean([math.nan]), "finite"),
        (lambda: probability_of_improvement([], [1.0]), "baseline must be finite and not empty"),
        (lambda: required_n(0.5, 0.5), "must differ, got 0.5 for both"),
        (lambda: required_n(0.0, 0.5), "p_baseline"),
        (lambda: required_n(0.5, 1.5), "p_treatment"),
        (lambda: required_n(0.5, 0.6, correlation=2), "correlation"),
        (lambda: comparison_power(0.5, 0.6, 0), "n must be positive"),
        (lambda: effective_episodes(0.5, 100, 3, seed_std=0.6), "seed_std < 0.500"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(StatisticsError, match=message):
        call()
