"""Robust summaries of the scores of several runs or tasks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from s2robot.statistics.arguments import check_scores


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of the scores (any shape, flattened); see Agarwal et al. 2021, arXiv 2108.13264."""
    return float(stats.trim_mean(check_scores("scores", scores), 0.25))


def probability_of_improvement(baseline: ArrayLike, treatment: ArrayLike) -> float:
    """Probability that a random run of the treatment scores above a random run of the baseline; ties count one half.

    This is the Mann–Whitney statistic divided by n·m, as in Agarwal et al. 2021. Scores have any shape, one entry per
    run (training seed).
    """
    base, treated = check_scores("baseline", baseline), check_scores("treatment", treatment)
    return float((np.sign(treated[:, None] - base[None, :]).mean() + 1) / 2)
