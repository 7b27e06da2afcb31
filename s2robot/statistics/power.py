"""How many episodes a comparison of two success rates needs, and which difference a number of episodes can detect."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy import optimize, stats

from s2robot.interfaces import StatisticsError
from s2robot.statistics.arguments import check_open_unit, two_sided_z


def comparison_power(
    p_baseline: float, p_treatment: float, n: float, correlation: float | None = None, alpha: float = 0.05
) -> float:
    """Power of a two-sided test at level `alpha` to distinguish two success rates (normal approximation).

    Args:
        p_baseline: true success rate of the baseline, in (0, 1).
        p_treatment: true success rate of the treatment, in [0, 1].
        n: episodes *per arm*; may be fractional, see `effective_episodes`.
        correlation: None for independent episodes (pooled z test; Fleiss 1981). For shared initial states (McNemar;
            Connor 1987), the correlation between the two outcomes of one state, capped at the largest value that the
            two rates allow.
        alpha: significance level.
    """
    null, alternative = _standard_deviations(p_baseline, p_treatment, correlation)
    if not n > 0:
        raise StatisticsError(f"n must be positive, got {n}")
    shift = abs(p_treatment - p_baseline) * math.sqrt(n) - two_sided_z(1 - alpha) * null
    return float(stats.norm.cdf(shift / alternative))


def required_n(
    p_baseline: float, p_treatment: float, power: float = 0.8, correlation: float | None = None, alpha: float = 0.05
) -> int:
    """Episodes per arm (or pairs) needed to distinguish the two rates; arguments as in `comparison_power`.

    >>> required_n(0.8, 0.9), required_n(0.8, 0.85)
    (199, 906)
    """
    null, alternative = _standard_deviations(p_baseline, p_treatment, correlation)
    if p_baseline == p_treatment:
        raise StatisticsError(f"p_baseline and p_treatment must differ, got {p_baseline} for both")
    z_power = stats.norm.ppf(check_open_unit("power", power))
    root = (two_sided_z(1 - alpha) * null + z_power * alternative) / abs(p_treatment - p_baseline)
    return max(1, math.ceil(root**2))


def detectable_difference(
    p_baseline: float, n: float, power: float = 0.8, correlation: float | None = None, alpha: float = 0.05
) -> float:
    """Smallest improvement d such that `p_baseline` and `p_baseline` + d are distinguished with the given power.

    Arguments as in `comparison_power`. Returns infinity if even a treatment that always succeeds is not distinguished.
    """
    return _smallest_improvement(p_baseline, power, lambda p: comparison_power(p_baseline, p, n, correlation, alpha))


def paired_power(
    p_baseline: float,
    p_treatment: float,
    episodes: int,
    training_seeds: int = 1,
    seed_std: float = 0.0,
    alpha: float = 0.05,
) -> float:
    """Power of `paired_bootstrap` and `sign_flip_test` to both distinguish two arms, where pairing gains nothing.

    This is a normal approximation. The bootstrap's standard error is larger than that of the difference, because the
    chance within single episodes counts twice (among its states and among its training seeds) and because of its
    pseudo-states.

    Simulations (`python benchmarks/power.py`) used 100 and 200 episodes, baselines of 50 and 80%, and a deviation of 5
    points between training seeds. With 80% power, both tests detected 0.97 to 1.05 times the difference computed here
    for 1, 3, 4, 5 and 10 seeds, and 0.88 to 0.97 times for two seeds.

    Args:
        p_baseline: true success rate of the baseline, in (0, 1).
        p_treatment: true success rate of the treatment, in [0, 1].
        episodes: number of initial states, which every training seed of both arms runs.
        training_seeds: training seeds per arm; with one, the comparison is between two trained policies.
        seed_std: standard deviation of an arm's true success rate between training seeds (0.05 is 5 points).
        alpha: significance level.
    """
    variances = [check_open_unit("p_baseline", p_baseline) * (1 - p_baseline), p_treatment * (1 - p_treatment)]
    effective_episodes(p_baseline, episodes, training_seeds, seed_std)  # called for its input checks only
    if not 0 <= p_treatment <= 1:
        raise StatisticsError(f"p_treatment must be in [0, 1], got {p_treatment}")
    between = 2 * seed_std**2 if training_seeds > 1 else 0.0
    chance = sum(max(0.0, variance - between / 2) for variance in variances) / episodes
    difference, critical = abs(p_treatment - p_baseline), two_sided_z(1 - alpha)
    deviation = math.sqrt((between + chance) / training_seeds)
    states = chance / training_seeds + 2 / episodes**2  # 2 / episodes²: what the two pseudo-states add
    bootstrap = math.sqrt(states + (deviation**2 if training_seeds > 1 else 0.0))
    flips = math.sqrt(chance / training_seeds + difference**2 / episodes)
    shifts = (
        difference * episodes / (episodes + 2) - critical * bootstrap,  # the pseudo-states shrink the difference
        difference - 1 / (episodes * training_seeds) - critical * flips,  # 1 / …: continuity correction
    )
    return float(stats.norm.cdf(min(shifts) / deviation))


def detectable_paired_difference(
    p_baseline: float,
    episodes: int,
    training_seeds: int = 1,
    seed_std: float = 0.0,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float:
    """Smallest improvement that a report detects with the given power; arguments as in `paired_power`.

    Returns infinity if even a treatment that always succeeds is not distinguished.
    """
    settings = (episodes, training_seeds, seed_std, alpha)
    return _smallest_improvement(p_baseline, power, lambda p: paired_power(p_baseline, p, *settings))


def effective_episodes(p: float, episodes: int, training_seeds: int, seed_std: float) -> float:
    """Number of independent episodes with as much information as `training_seeds` × `episodes` dependent ones.

    Args:
        p: mean success rate, in (0, 1).
        episodes: episodes per training seed.
        training_seeds: number of training seeds.
        seed_std: standard deviation of the true success rate between training seeds (0.03 is 3 points).

    Returns:
        The n for which p(1-p)/n is the variance of the mean over both levels (Kish's design effect); at most
        `episodes`·`training_seeds`.
    """
    total = check_open_unit("p", p) * (1 - p)
    if episodes < 1 or training_seeds < 1 or not 0 <= seed_std**2 < total:
        raise StatisticsError(
            f"need episodes ≥ 1, training_seeds ≥ 1 and 0 ≤ seed_std < {math.sqrt(total):.3f}, "
            f"got {episodes}, {training_seeds} and {seed_std}"
        )
    return total / ((seed_std**2 + (total - seed_std**2) / episodes) / training_seeds)


def _smallest_improvement(p_baseline: float, power: float, power_at: Callable[[float], float]) -> float:
    check_open_unit("power", power)
    ceiling = 1 - check_open_unit("p_baseline", p_baseline)

    def excess(difference: float) -> float:
        return power_at(p_baseline + difference) - power

    if excess(ceiling) < 0:
        return math.inf
    return float(optimize.brentq(excess, 1e-9, ceiling))


def _standard_deviations(p_baseline: float, p_treatment: float, correlation: float | None) -> tuple[float, float]:
    """√n times the standard deviation of the estimated difference, under the null and under the alternative."""
    check_open_unit("p_baseline", p_baseline)
    if not 0 <= p_treatment <= 1:
        raise StatisticsError(f"p_treatment must be in [0, 1], got {p_treatment}")
    variance_base, variance_treated = p_baseline * (1 - p_baseline), p_treatment * (1 - p_treatment)
    if correlation is None:
        mean = (p_baseline + p_treatment) / 2
        return math.sqrt(2 * mean * (1 - mean)), math.sqrt(variance_base + variance_treated)
    if not -1 <= correlation <= 1:
        raise StatisticsError(f"correlation must be None or in [-1, 1], got {correlation}")
    difference = abs(p_treatment - p_baseline)
    independent = p_baseline * (1 - p_treatment) + p_treatment * (1 - p_baseline)
    covariance = correlation * math.sqrt(variance_base * variance_treated)
    discordant = min(1.0, max(independent - 2 * covariance, difference))
    return math.sqrt(discordant), math.sqrt(discordant - difference**2)
