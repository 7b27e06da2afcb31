"""Bootstrap over training seeds × initial states."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s2robot.interfaces import StatisticsError
from s2robot.statistics.arguments import FloatArray, check_open_unit, check_outcomes, paired_outcomes
from s2robot.statistics.intervals import Interval

Float32Array = NDArray[np.float32]
RESAMPLES = 10_000


def resamples_for(comparisons: int, alpha: float = 0.05) -> int:
    """Number of resamples whose smallest possible p-value, times the number of comparisons, is at most alpha / 2."""
    return max(RESAMPLES, math.ceil(4 * comparisons / alpha))


class Difference(NamedTuple):
    """Success rate of the treatment minus that of the baseline, with its interval and two-sided p-value."""

    value: float
    interval: Interval
    pvalue: float


def hierarchical_bootstrap(
    outcomes: ArrayLike,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    pseudo_states: bool = True,
) -> Interval:
    """Interval of a method's success rate over training seeds × initial states.

    - All training seeds meet the same initial states, so seeds and states are redrawn separately:
      draw = mean + deviation of the redrawn seeds + deviation of the redrawn states. Redrawing both at once (Owen 2007)
      counts the interaction of seed and state twice and needs about 1.5 times as many episodes.
    - Of S training seeds, S - 1 are drawn, which makes the variance between seeds unbiased (Rao & Wu 1988). This
      matters for the usual S = 3.
    - Two pseudo-states, one that all seeds solve and one that all fail, keep the interval of a perfect score from
      collapsing to [1, 1].

    Args:
        outcomes: 0/1 of shape [E] (one training seed) or [S, E]; NaN marks a missing episode.
        confidence: nominal coverage, in (0, 1).
        resamples: number of bootstrap draws.
        seed: seed of the draws.
        pseudo_states: add the two pseudo-states.

    Raises:
        StatisticsError: outcomes are empty, not 0/1, or a training seed has none.
    """
    check_open_unit("confidence", confidence)
    values = check_outcomes("outcomes", outcomes)
    if pseudo_states:
        values = _append_states(values, (1.0, 0.0))
    values = values[:, ~np.isnan(values).all(axis=0)]
    states = _state_counts(values.shape[1], resamples, seed)
    # Deviations of states are taken within training seeds, so that a seed with missing states does not shift them.
    by_state = np.nanmean(values - np.nanmean(values, axis=1, keepdims=True), axis=0)
    draws = (
        np.nanmean(values)
        + _sum_over(states, by_state) / len(by_state)
        + _seed_deviations(values, resamples, [seed, 1])
    )
    return _percentile_interval(draws, confidence, lowest=0)


def paired_bootstrap(
    baseline: ArrayLike,
    treatment: ArrayLike,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    pseudo_states: bool = True,
) -> Difference:
    """Bootstrap the difference of two arms: training seeds are redrawn per arm, initial states jointly for both.

    See `hierarchical_bootstrap` for the scheme. The pseudo-states here are two initial states, one won by each arm.
    Without them, arms that never disagree would get the interval [0, 0] (compare Agresti & Min 2005).

    Args:
        baseline: outcomes 0/1 of shape [E] or [S0, E].
        treatment: outcomes 0/1 of shape [E] or [S1, E], from the same initial states.
        confidence: nominal coverage, in (0, 1).
        resamples: number of bootstrap draws.
        seed: seed of the draws.
        pseudo_states: add the two pseudo-states.

    Raises:
        StatisticsError: the numbers of states differ, or outcomes are missing or not 0/1.
    """
    check_open_unit("confidence", confidence)
    base, treated = paired_outcomes(baseline, treatment)
    value = float(treated.mean() - base.mean())
    if pseudo_states:
        base, treated = _append_states(base, (1.0, 0.0)), _append_states(treated, (0.0, 1.0))
    draws, denominator = _paired_draws(base, treated, resamples, seed)
    tails = ((draws <= 0).sum() + 1, (draws >= 0).sum() + 1)  # + 1: the data count as a draw, so that p is never 0
    pvalue = min(1.0, 2 * min(tails) / (resamples + 1))
    return Difference(value, _percentile_interval(draws / denominator, confidence, lowest=-1), float(pvalue))


def _paired_draws(base: FloatArray, treated: FloatArray, resamples: int, seed: int) -> tuple[FloatArray, int]:
    """Redrawn differences as integer numerators [resamples] over one common denominator.

    With integers, a draw without a difference is exactly 0 on every processor. Means over three training seeds would
    round to one side of 0 or the other, and the p-value counts draws on each side.
    """
    redrawn = max(1, len(base) - 1), max(1, len(treated) - 1)
    states = _state_counts(base.shape[1], resamples, seed)
    draws = _sum_over(states, len(base) * treated.sum(axis=0) - len(treated) * base.sum(axis=0)) * math.prod(redrawn)
    for outcomes, stream, weight in ((treated, 1, len(base) * redrawn[0]), (base, 2, -len(treated) * redrawn[1])):
        solved = outcomes.sum(axis=1)
        counts = _seed_counts(len(solved), resamples, [seed, stream])
        draws += weight * (len(solved) * (counts @ solved) - max(1, len(solved) - 1) * solved.sum())
    return draws, base.size * len(treated) * math.prod(redrawn)


@lru_cache(maxsize=1)
def _state_counts(n: int, resamples: int, seed: int) -> Float32Array:
    """How often each of `n` states occurs in n draws with replacement: [resamples, n], read-only.

    The result is cached because this is by far the costliest step and is the same for all arms of a report.
    """
    return _draw_counts(np.random.default_rng(seed), n, n, resamples)


def _draw_counts(rng: np.random.Generator, n: int, draws: int, resamples: int) -> Float32Array:
    if resamples < 1:
        raise StatisticsError(f"resamples must be at least 1, got {resamples}")
    counts = np.empty((resamples, n), np.float32)  # float32, because a matrix product of integers uses no BLAS
    for block in np.split(counts, range(RESAMPLES, resamples, RESAMPLES)):  # in blocks, to bound the memory of `units`
        units = rng.integers(n, size=(len(block), draws)) + n * np.arange(len(block))[:, None]
        block[:] = np.bincount(units.ravel(), minlength=block.size).reshape(block.shape)
    counts.flags.writeable = False
    return counts


def _sum_over(states: Float32Array, values: FloatArray) -> FloatArray:
    """Sum of one value per state over each draw of states: [resamples]; exact for integer values."""
    # float32 holds every integer below 2^24 exactly; float64 would make a copy of the large matrix `states`.
    exact = np.float32 if states.shape[1] * np.abs(values).max() < 2**24 else np.float64
    return (states @ values.astype(exact)).astype(np.float64)


def _seed_deviations(outcomes: FloatArray, resamples: int, stream: list[int]) -> FloatArray:
    """Mean over the redrawn training seeds minus the mean over all: [resamples]; zero for a single seed."""
    rates = np.nanmean(outcomes, axis=1)
    return _seed_counts(len(rates), resamples, stream) @ (rates - rates.mean()) / max(1, len(rates) - 1)


def _seed_counts(seeds: int, resamples: int, stream: list[int]) -> FloatArray:
    """How often each training seed is drawn: [resamples, seeds]; S - 1 draws from S seeds, one draw from one seed."""
    counts = _draw_counts(np.random.default_rng(stream), seeds, max(1, seeds - 1), resamples)
    return counts.astype(np.float64)


def _percentile_interval(draws: FloatArray, confidence: float, lowest: float) -> Interval:
    low, high = np.clip(np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2]), lowest, 1)
    return Interval(float(low), float(high))


def _append_states(outcomes: FloatArray, states: tuple[float, float]) -> FloatArray:
    """Append one column per entry of `states`, with the same value for all training seeds."""
    return np.concatenate([outcomes, np.tile(states, (len(outcomes), 1))], axis=1)
