"""Confidence intervals from counts of independent episodes."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import stats

from s2robot.statistics.arguments import check_counts, check_open_unit, two_sided_z


class Interval(NamedTuple):
    """Confidence interval `low` ≤ truth ≤ `high`."""

    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson (1927) score interval of a success rate: good average coverage, also near 0 and 1.

    Args:
        successes: number of successes, 0 to `n`.
        n: number of independent trials, at least 1.
        confidence: nominal coverage, in (0, 1).

    Raises:
        StatisticsError: counts or confidence are impossible.

    >>> low, high = wilson_interval(40, 50)
    >>> round(low, 2), round(high, 2)
    (0.67, 0.89)
    """
    successes, n = check_counts(successes, n)
    z = two_sided_z(confidence)
    rate = successes / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    # Rounding must not push the ends past a rate of exactly 0 or 1.
    return Interval(0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def clopper_pearson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Clopper–Pearson (1934) interval: never covers less than `confidence`; wider than Wilson's.

    Args and errors as in `wilson_interval`.
    """
    successes, n = check_counts(successes, n)
    tail = check_open_unit("confidence", 1 - confidence) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, n - successes + 1))
    # isf(tail) instead of ppf(1 - tail), which loses digits for small tails.
    high = 1.0 if successes == n else float(stats.beta.isf(tail, successes + 1, n - successes))
    return Interval(low, high)


def newcombe_interval(baseline: tuple[int, int], treatment: tuple[int, int], confidence: float = 0.95) -> Interval:
    """Newcombe's (1998, method 10) interval of treatment minus baseline for *independent* episodes.

    Args:
        baseline: (successes, n) of the baseline.
        treatment: (successes, n) of the treatment.
        confidence: nominal coverage, in (0, 1).
    """
    base, treated = wilson_interval(*baseline, confidence), wilson_interval(*treatment, confidence)
    rate_base, rate_treated = baseline[0] / baseline[1], treatment[0] / treatment[1]
    value = rate_treated - rate_base
    return Interval(
        value - math.hypot(rate_treated - treated.low, base.high - rate_base),
        value + math.hypot(treated.high - rate_treated, rate_base - base.low),
    )
