"""Exact tests between two arms, and Holm's correction for several comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from s2robot.interfaces import StatisticsError
from s2robot.statistics.arguments import check_counts, paired_outcomes


class McNemar(NamedTuple):
    """Number of discordant initial states (solved by one arm only) and the exact two-sided p-value."""

    only_baseline: int
    only_treatment: int
    pvalue: float


def fisher_exact(baseline: tuple[int, int], treatment: tuple[int, int]) -> float:
    """Fisher's exact two-sided p-value for two arms of *independent* episodes, each (successes, n).

    >>> round(fisher_exact((7, 16), (10, 16)), 2)  # the paper's robot experiment
    0.48
    """
    table = [[k, n - k] for k, n in (check_counts(*baseline), check_counts(*treatment))]
    return float(stats.fisher_exact(table).pvalue)


def mcnemar_exact(baseline: ArrayLike, treatment: ArrayLike) -> McNemar:
    """Exact McNemar (1947) test: do two policies solve the same initial states equally often?

    Args:
        baseline: outcomes 0/1 of one policy, of shape [E]; entry i is the episode from initial state i.
        treatment: outcomes 0/1 of shape [E], from the same initial states.

    Raises:
        StatisticsError: shapes differ, or outcomes are missing or not 0/1.
    """
    base, treated = paired_outcomes(baseline, treatment)
    if len(base) != 1 or len(treated) != 1:
        raise StatisticsError("mcnemar_exact compares one policy per arm; for several policies use sign_flip_test")
    only_baseline, only_treatment = int((base > treated).sum()), int((treated > base).sum())
    discordant = only_baseline + only_treatment
    pvalue = float(stats.binomtest(only_baseline, discordant).pvalue) if discordant else 1.0
    return McNemar(only_baseline, only_treatment, pvalue)


def sign_flip_test(baseline: ArrayLike, treatment: ArrayLike) -> float:
    """Two-sided p-value of an exact McNemar test for several training seeds per arm.

    The unit is the initial state. Under the null hypothesis, each state's difference in success (averaged over training
    seeds) keeps or flips its sign with probability 1/2. All sign patterns are counted, by convolution. With one
    training seed per arm this *is* the exact McNemar test. The p-value is about the policies that were trained, not
    about training again; for that see `paired_bootstrap`.

    Args:
        baseline: outcomes 0/1 of shape [E] or [S0, E].
        treatment: outcomes 0/1 of shape [E] or [S1, E], from the same initial states.

    Raises:
        StatisticsError: the numbers of states differ, or outcomes are missing or not 0/1.
    """
    base, treated = paired_outcomes(baseline, treatment)
    # Scaled by S0·S1, the differences are integers, so the null distribution lives on an integer grid.
    steps = np.rint(len(base) * treated.sum(0) - len(treated) * base.sum(0)).astype(np.int64)
    observed, steps = abs(int(steps.sum())), np.abs(steps[steps != 0])
    reach = int(steps.sum())
    null = np.zeros(2 * reach + 1)  # null[reach + t] = P(sum of signed steps = t)
    null[reach] = 1.0
    for step in steps:  # np.roll never wraps mass around: sums of the steps so far lie well within ±reach
        null = 0.5 * (np.roll(null, step) + np.roll(null, -step))
    sums = np.abs(np.arange(-reach, reach + 1))
    return float(min(1.0, null[sums >= observed].sum()))


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values: 0.05 or less is significant at a family-wise error rate of 5%.

    Raises:
        StatisticsError: a p-value is not in [0, 1].
    """
    values = np.asarray(pvalues, dtype=float)
    if not np.all((values >= 0) & (values <= 1)):
        raise StatisticsError(f"p-values must be in [0, 1], got {list(pvalues)}")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(p) for p in adjusted]
