"""Success rates: intervals, paired comparisons, multiplicity, and how many episodes a comparison needs.

An arm's outcomes are an array [S, E] of 0 and 1: S training seeds, each evaluated from the same E initial states.
Both are random draws: another training seed gives another policy, another set of initial states another difficulty.
Episodes of one training seed are therefore not independent trials of the *method*. The table shows how often a nominal
95% interval contains the true rate with 3 training seeds × 100 states (`python benchmarks/interval_coverage.py`). In
each cell, the first number is for initial states of equal difficulty, the second for very different difficulties.

| standard deviation between training seeds | Wilson over all episodes | `hierarchical_bootstrap` |
|-------------------------------------------|--------------------------|--------------------------|
| 0 points                                  | 95%, 86%                 | 99%, 97%                 |
| 4 and 3 points                            | 90%, 83%                 | 97%, 95%                 |
| 9 and 7 points                            | 62%, 71%                 | 89%, 91%                 |

All functions are pure functions of their arguments; the bootstraps draw from a generator seeded by `seed`.
"""

from s2robot.statistics.anytime import anytime_comparison
from s2robot.statistics.bootstrap import RESAMPLES, Difference, hierarchical_bootstrap, paired_bootstrap, resamples_for
from s2robot.statistics.intervals import Interval, clopper_pearson_interval, newcombe_interval, wilson_interval
from s2robot.statistics.power import (
    comparison_power,
    detectable_difference,
    detectable_paired_difference,
    effective_episodes,
    paired_power,
    required_n,
)
from s2robot.statistics.scores import interquartile_mean, probability_of_improvement
from s2robot.statistics.significance import McNemar, fisher_exact, holm, mcnemar_exact, sign_flip_test

__all__ = [
    "RESAMPLES",
    "Difference",
    "Interval",
    "McNemar",
    "anytime_comparison",
    "clopper_pearson_interval",
    "comparison_power",
    "detectable_difference",
    "detectable_paired_difference",
    "effective_episodes",
    "fisher_exact",
    "hierarchical_bootstrap",
    "holm",
    "interquartile_mean",
    "mcnemar_exact",
    "newcombe_interval",
    "paired_bootstrap",
    "paired_power",
    "probability_of_improvement",
    "required_n",
    "resamples_for",
    "sign_flip_test",
    "wilson_interval",
]
