"""Check that a report finds the difference that a dry run calls detectable in 80% of simulated benchmarks.

Run: python benchmarks/power.py [--simulations 600]
A report finds a difference if the larger p-value of the paired bootstrap and the sign-flip test is at most 5%. Success
rates of training seeds follow beta distributions; given those, episodes are independent. 600 simulations take about a
quarter of an hour on one core and leave a standard error of about 2% of the difference.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from scipy import optimize, stats

from s2robot.benchmark.dry_run import SEED_STD
from s2robot.statistics import detectable_paired_difference, paired_bootstrap, sign_flip_test

POWER, ALPHA, RESAMPLES = 0.8, 0.05, 1000


def simulated_difference(rate: float, episodes: int, seeds: int, simulations: int) -> float:
    """Return the improvement over `rate` that a report finds with 80% power."""
    rng = np.random.default_rng(0)
    policies = rng.random((simulations, 2, seeds, 1))
    chances = rng.random((simulations, 2, seeds, episodes))  # the same draws for all differences

    def excess(difference: float) -> float:
        rates = np.array([rate, rate + difference]).reshape(1, 2, 1, 1)
        trials = rates * (1 - rates) / SEED_STD**2 - 1  # of the beta distribution with this mean and deviation
        drawn = stats.beta.ppf(policies, rates * trials, (1 - rates) * trials) if seeds > 1 else rates
        found = [_found(*outcomes) for outcomes in (chances < drawn).astype(float)]
        return float(np.mean(found)) - POWER

    return float(optimize.brentq(excess, 0.02, 0.99 - rate, xtol=5e-4))


def _found(baseline: np.ndarray, treatment: np.ndarray) -> bool:
    if sign_flip_test(baseline, treatment) > ALPHA:
        return False
    return paired_bootstrap(baseline, treatment, resamples=RESAMPLES).pvalue <= ALPHA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=600)
    simulations = parser.parse_args().simulations
    print("| training seeds | episodes | rate | computed [points] | simulated [points] | ratio |")
    print("|---:|---:|---:|---:|---:|---:|")
    for seeds, episodes, rate in itertools.product((1, 2, 3, 4, 5, 10), (100, 200), (0.5, 0.8)):
        computed = detectable_paired_difference(rate, episodes, seeds, SEED_STD if seeds > 1 else 0.0, POWER, ALPHA)
        simulated = simulated_difference(rate, episodes, seeds, simulations)
        numbers = f"{100 * computed:.1f} | {100 * simulated:.1f} | {simulated / computed:.2f}"
        print(f"| {seeds} | {episodes} | {rate} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
