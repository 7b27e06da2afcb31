"""How often a nominal 95% interval holds the true success rate when training seeds differ.

Run: python benchmarks/interval_coverage.py [--simulations 500]
Outcomes come from a probit model with a random effect per training seed and per initial state, 3 seeds × 100 states.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from scipy import stats

from s2robot.statistics import hierarchical_bootstrap, wilson_interval

SEEDS, STATES, SHIFT = 3, 100, 0.25


def coverage(seed_std: float, state_std: float, simulations: int) -> tuple[float, float, float]:
    """Return the spread between training seeds [points], and the coverage of Wilson's and of the bootstrap interval."""
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(SHIFT / math.sqrt(1 + seed_std**2 + state_std**2))
    effects = SHIFT + rng.normal(0, seed_std, 100_000)
    spread = 100 * float(np.std(stats.norm.cdf(effects / math.sqrt(1 + state_std**2))))
    held = []
    for _ in range(simulations):
        chances = stats.norm.cdf(SHIFT + rng.normal(0, seed_std, (SEEDS, 1)) + rng.normal(0, state_std, (1, STATES)))
        outcomes = (rng.random((SEEDS, STATES)) < chances).astype(float)
        pooled = wilson_interval(int(outcomes.sum()), outcomes.size)
        bootstrap = hierarchical_bootstrap(outcomes, resamples=500)
        held.append([low <= truth <= high for low, high in (pooled, bootstrap)])
    wilson, hierarchical = np.mean(held, axis=0)
    return spread, float(wilson), float(hierarchical)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=500)
    simulations = parser.parse_args().simulations
    print("| spread between seeds [points] | spread of states | Wilson | hierarchical_bootstrap |")
    print("|---|---|---|---|")
    for seed_std in (0.0, 0.1, 0.25):
        for state_std in (0.0, 1.0):
            spread, wilson, hierarchical = coverage(seed_std, state_std, simulations)
            print(f"| {spread:.1f} | {state_std} | {wilson:.0%} | {hierarchical:.0%} |")


if __name__ == "__main__":
    main()
