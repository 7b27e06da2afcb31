"""A comparison of two arms that may be looked at after every initial state.

The fixed-size tests of this package hold their error rate for a number of initial states chosen beforehand; adding
states until p < 0.05 makes them wrong. Here an e-process replaces them. For the null hypothesis that the mean paired
difference is m, a gambler who stakes the share λ of the wealth on every state's difference d ∈ [-1, 1] has the wealth
Π (1 + λ (d - m)), a non-negative martingale; so has the average over many λ, and by Ville's inequality (1939) it ever
reaches 1/α with probability α at most. See Waudby-Smith & Ramdas, "Estimating means of bounded random variables by
betting", JRSS-B 2024 (arXiv 2010.09686), and Ramdas et al., "Game-theoretic statistics and safe anytime-valid
inference", Statistical Science 2023 (arXiv 2210.01948). With one training seed an arm, d is a discordant pair's sign or
zero, and the wealth for m = 0 is the beta-binomial mixture over McNemar's table.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from scipy.special import logsumexp

from s2robot.statistics.arguments import FloatArray, check_open_unit, paired_outcomes
from s2robot.statistics.bootstrap import Difference
from s2robot.statistics.intervals import Interval

_STAKES = 256  # Gauss–Legendre nodes: the average over λ is exact up to 511 states, and to rounding beyond
_EDGE = 1 - 1e-9  # a mean of exactly ±1 would allow unlimited stakes


def anytime_comparison(baseline: ArrayLike, treatment: ArrayLike, confidence: float = 0.95) -> Difference:
    """Difference of two arms with an interval and a p-value that stay valid however often one looked.

    The unit is the initial state, as in `sign_flip_test`, and the statement is about the policies that were trained:
    initial states are a random sample, training seeds are not.

    Args:
        baseline: outcomes 0/1 of shape [E] or [S0, E], states in the order in which they were added.
        treatment: outcomes 0/1 of shape [E] or [S1, E], from the same initial states.
        confidence: of the interval, in (0, 1), over all looks together.

    Returns:
        Treatment minus baseline; the confidence sequence's interval now; the smallest p-value so far.

    Raises:
        StatisticsError: the numbers of states differ, or outcomes are missing or not 0/1.
    """
    alpha = 1 - check_open_unit("confidence", confidence)
    base, treated = paired_outcomes(baseline, treatment)
    differences = treated.mean(axis=0) - base.mean(axis=0)
    highest = float(_log_wealth(differences, 0.0).max())
    return Difference(
        float(differences.mean()),
        _interval(differences, np.log(1 / alpha)),
        float(min(1.0, np.exp(-highest))),
    )


def _log_wealth(differences: FloatArray, mean: float) -> FloatArray:
    """Logarithm of the wealth against the hypothesis `mean`, after each state: [E]."""
    stakes, log_shares = _stakes(mean)
    growth = np.log1p(stakes[:, None] * (differences - mean)[None, :])
    return np.asarray(logsumexp(np.cumsum(growth, axis=1) + log_shares[:, None], axis=0))


@lru_cache(maxsize=1)
def _nodes() -> tuple[FloatArray, FloatArray]:
    """Nodes of the quadrature over [-1, 1], and the logarithms of their shares."""
    nodes, weights = np.polynomial.legendre.leggauss(_STAKES)
    return nodes, np.log(weights / 2)


def _stakes(mean: float) -> tuple[FloatArray, FloatArray]:
    """Stakes λ, spread evenly over all that can never lose more than everything, and the logarithms of their shares."""
    nodes, log_shares = _nodes()
    low, high = -1 / (1 - mean), 1 / (1 + mean)
    return low + (high - low) * (nodes + 1) / 2, log_shares


def _interval(differences: FloatArray, threshold: float) -> Interval:
    """Means against which the wealth is below the threshold now; it grows from the sample mean to both sides."""
    values, counts = np.unique(differences, return_counts=True)

    def excess(mean: float) -> float:
        stakes, log_shares = _stakes(mean)
        return float(logsumexp(np.log1p(stakes[:, None] * (values - mean)) @ counts + log_shares) - threshold)

    centre = float(np.clip(differences.mean(), -_EDGE, _EDGE))
    ends = [end if excess(end) <= 0 else optimize.brentq(excess, centre, end) for end in (-_EDGE, _EDGE)]
    return Interval(*(float(np.sign(end)) if abs(end) == _EDGE else float(end) for end in ends))
