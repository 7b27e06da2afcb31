"""A comparison of two arms that stays valid when it is looked at after every initial state.

The fixed-size tests of this package keep their error rate only if the number of initial states is chosen beforehand;
adding states until p < 0.05 breaks them. Here an e-process replaces them:

- Null hypothesis: the mean paired difference is m. A gambler stakes a share λ of the wealth on each state's difference
  d ∈ [-1, 1]. The wealth Π (1 + λ (d - m)) is then a non-negative martingale, and so is its average over many λ.
- By Ville's inequality (1939), such a martingale ever reaches 1/α with probability at most α.
- With one training seed per arm, d is the sign of a discordant pair or zero, and the wealth for m = 0 is the
  beta-binomial mixture over McNemar's table.

See Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2024 (arXiv 2010.09686),
and Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 2023 (arXiv
2210.01948).
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

_STAKES = 256  # Gauss–Legendre nodes: the average over λ is exact up to 511 states, and exact to rounding beyond
_EDGE = 1 - 1e-9  # a mean of exactly ±1 would allow unlimited stakes


def anytime_comparison(baseline: ArrayLike, treatment: ArrayLike, confidence: float = 0.95) -> Difference:
    """Compute the difference of two arms with an interval and a p-value that stay valid however often one looks.

    The unit is the initial state, as in `sign_flip_test`. The statement is about the policies that were trained: the
    initial states are treated as a random sample, the training seeds are not.

    Args:
        baseline: outcomes 0/1 of shape [E] or [S0, E], states in the order in which they were added.
        treatment: outcomes 0/1 of shape [E] or [S1, E], from the same initial states.
        confidence: coverage of the interval over all looks together, in (0, 1).

    Returns:
        Treatment minus baseline, the current interval of the confidence sequence, and the smallest p-value so far.

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
    # In logarithms, because the wealth can double with every state and would overflow after 1024 of them.
    stakes, log_shares = _stakes(mean)
    growth = np.log1p(stakes[:, None] * (differences - mean)[None, :])
    return np.asarray(logsumexp(np.cumsum(growth, axis=1) + log_shares[:, None], axis=0))


@lru_cache(maxsize=1)
def _nodes() -> tuple[FloatArray, FloatArray]:
    """Nodes of the quadrature over [-1, 1], and the logarithms of their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(_STAKES)
    return nodes, np.log(weights / 2)


def _stakes(mean: float) -> tuple[FloatArray, FloatArray]:
    """Stakes λ, spread evenly over those that keep the wealth non-negative, and the logarithms of their weights."""
    nodes, log_shares = _nodes()
    low, high = -1 / (1 - mean), 1 / (1 + mean)
    return low + (high - low) * (nodes + 1) / 2, log_shares


def _interval(differences: FloatArray, threshold: float) -> Interval:
    """Means against which the wealth is now below the threshold.

    The wealth grows from the sample mean to both sides, so that each end is one root.
    """
    values, counts = np.unique(differences, return_counts=True)

    def excess(mean: float) -> float:
        stakes, log_shares = _stakes(mean)
        return float(logsumexp(np.log1p(stakes[:, None] * (values - mean)) @ counts + log_shares) - threshold)

    centre = float(np.clip(differences.mean(), -_EDGE, _EDGE))
    ends = [end if excess(end) <= 0 else optimize.brentq(excess, centre, end) for end in (-_EDGE, _EDGE)]
    return Interval(*(float(np.sign(end)) if abs(end) == _EDGE else float(end) for end in ends))
