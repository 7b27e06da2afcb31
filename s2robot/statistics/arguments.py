"""Input validation shared by the statistics: one clear error instead of a NaN."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from s2robot.interfaces import StatisticsError

FloatArray = NDArray[np.float64]


def check_outcomes(name: str, outcomes: ArrayLike) -> FloatArray:
    """Validate 0/1/NaN outcomes and return them as [S, E]."""
    values = np.asarray(outcomes, dtype=float)
    if values.ndim not in (1, 2) or values.size == 0:
        raise StatisticsError(f"{name} must have shape [episodes] or [seeds, episodes], got {list(values.shape)}")
    values = np.atleast_2d(values)
    wrong = values[~(np.isnan(values) | np.isin(values, (0.0, 1.0)))]
    if wrong.size:
        raise StatisticsError(f"{name} must be 0 (failure), 1 (success) or NaN (missing), got {wrong.flat[0]}")
    if np.isnan(values).all(axis=1).any():
        raise StatisticsError(f"{name}: at least one training seed has no episodes")
    return values


def check_scores(name: str, scores: ArrayLike) -> FloatArray:
    """Validate finite scores and return them flat."""
    values = np.asarray(scores, dtype=float).ravel()
    if values.size == 0 or not np.isfinite(values).all():
        raise StatisticsError(f"{name} must be finite and not empty, got {values}")
    return values


def check_counts(successes: int, n: int) -> tuple[int, int]:
    """Validate 0 ≤ successes ≤ n and n ≥ 1."""
    valid = all(isinstance(value, (int, np.integer)) for value in (successes, n))
    if not valid or not 0 <= successes <= n or n < 1:
        raise StatisticsError(f"need integers 0 ≤ successes ≤ n and n ≥ 1, got successes={successes}, n={n}")
    return int(successes), int(n)


def check_open_unit(name: str, value: float) -> float:
    """Validate 0 < value < 1."""
    if not 0 < value < 1:
        raise StatisticsError(f"{name} must be between 0 and 1 (exclusive), got {value}")
    return value


def two_sided_z(confidence: float) -> float:
    """Return the normal quantile of a two-sided interval: 1.96 for a confidence of 0.95."""
    return float(stats.norm.ppf((1 + check_open_unit("confidence", confidence)) / 2))


def paired_outcomes(baseline: ArrayLike, treatment: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Validate two arms that ran the same initial states, and return them as [S0, E] and [S1, E]."""
    base, treated = check_outcomes("baseline", baseline), check_outcomes("treatment", treatment)
    if base.shape[1] != treated.shape[1]:
        raise StatisticsError(
            f"paired arms need the same initial states, got {base.shape[1]} for the baseline "
            f"and {treated.shape[1]} for the treatment"
        )
    if np.isnan(base).any() or np.isnan(treated).any():
        raise StatisticsError(
            "paired arms have missing episodes (NaN); keep only the initial states that all seeds ran"
        )
    return base, treated
