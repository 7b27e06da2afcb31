"""Compare arms: each planned contrast with its interval, its p-value and what it cannot tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from s2robot.report.arm_results import ArmResult
from s2robot.report.machines import machine_caveats
from s2robot.report.pairs import Pair, PlannedPairs, neighbours, planned_pairs
from s2robot.report.plan import Plan
from s2robot.statistics import (
    RESAMPLES,
    Difference,
    anytime_comparison,
    fisher_exact,
    holm,
    newcombe_interval,
    paired_bootstrap,
    probability_of_improvement,
    resamples_for,
    sign_flip_test,
)

SIGNIFICANCE = 0.05
MAX_EXPLORATORY = 30  # more pairs than this without a plan would be a fishing trip
Verdict = Literal["higher", "lower", "no difference shown", "awaiting results"]
Stopping = Literal["", "decides", "follows"]


@dataclass(frozen=True)
class Contrast:
    """One comparison of a treatment with a baseline.

    Attributes:
        name: name in the plan, or made from the labels of the two arms.
        baseline: the arm compared with.
        treatment: the arm of interest.
        states: initial states shared by all training seeds of both arms; 0 means the comparison is unpaired.
        left_out: number of initial states that only some training seeds met.
        rates: success of (baseline, treatment) on the shared states.
        difference: success of the treatment minus success of the baseline.
        exact_pvalue: p-value for the trained policies: exact McNemar (sign-flip) test, or Fisher's where unpaired.
        adjusted: the larger of both p-values, adjusted for the number of contrasts, see `compare_all`.
        discordant: states solved by (baseline, treatment) alone, averaged over training seeds; None where unpaired.
        improvement: probability that a training run of the treatment beats one of the baseline; several seeds only.
        caveats: what limits the comparison, one sentence each.
        stopping: "decides": rollouts were added until this comparison was decided; "follows": until another one was,
            of one of its arms. Interval and p are then anytime-valid ones.
        alpha: up to which the adjusted p-value counts as a difference.
        resamples: number of bootstrap resamples.
        awaited: which planned training seeds have results; "" where all have. Until then there is no verdict.
    """

    name: str
    baseline: ArmResult
    treatment: ArmResult
    states: int
    left_out: int
    rates: tuple[float, float]
    difference: Difference
    exact_pvalue: float
    discordant: tuple[float, float] | None
    improvement: float | None
    caveats: tuple[str, ...]
    stopping: Stopping = ""
    adjusted: float = 1.0
    alpha: float = SIGNIFICANCE
    resamples: int = RESAMPLES
    awaited: str = ""

    @property
    def at_floor(self) -> bool:
        """Whether the p-value is the smallest that the bootstrap can give."""
        return self.states > 0 and math.isclose(self.pvalue, 2 / (self.resamples + 1))

    @property
    def deciding(self) -> bool:
        """Whether rollouts were added until this comparison was decided."""
        return self.stopping == "decides"

    @property
    def pvalue(self) -> float:
        """The larger p-value: a difference must hold for these policies *and* over training seeds."""
        return max(self.difference.pvalue, self.exact_pvalue)

    @property
    def verdict(self) -> Verdict:
        """Whether the adjusted p-value is low enough, and in which direction."""
        if self.awaited:
            return "awaiting results"
        if self.adjusted > self.alpha:
            return "no difference shown"
        return "higher" if self.difference.value > 0 else "lower"

    @property
    def is_shown(self) -> bool:
        """Whether a difference is shown."""
        return self.verdict in ("higher", "lower")


@dataclass(frozen=True)
class Comparisons:
    """All contrasts of a report; `planned` is false for those the report chose itself; `missing` names the rest."""

    contrasts: tuple[Contrast, ...]
    planned: bool
    missing: tuple[str, ...]


def compare_all(arms: Sequence[ArmResult], plan: Plan) -> Comparisons:
    """Evaluate the planned contrasts; without a plan, all pairs of arms that differ in exactly one setting.

    Those that decided when rollouts ended were stopped at alpha over their number (`s2robot.benchmark.sequential`), and
    are judged as they were stopped. Over the others p is adjusted by Holm; what was planned and has no results yet, or
    not those of all training seeds, counts too, as p = 1: a report half way through must not be the more lenient one.
    """
    if plan.contrasts:
        planned = planned_pairs(arms, plan)
    else:
        planned = PlannedPairs(neighbours(arms), [], 0)
        if (count := len(planned.pairs)) > MAX_EXPLORATORY:
            refused = f"no contrasts were planned, and picking among {count} pairs of arms would mislead"
            planned = PlannedPairs([], [refused], 0)
    others = sum(pair.rule is None for pair in planned.pairs) + planned.awaited
    contrasts = [_compared(pair, resamples_for(others)) for pair in planned.pairs]
    pvalues = [1.0 if found.awaited else found.pvalue for found in contrasts if not found.deciding]
    holms = iter(holm(pvalues + [1.0] * planned.awaited))
    adjusted = (found if found.deciding else replace(found, adjusted=float(next(holms))) for found in contrasts)
    return Comparisons(tuple(adjusted), planned=bool(plan.contrasts), missing=tuple(planned.missing))


def _compared(pair: Pair, resamples: int) -> Contrast:
    """The pair's contrast; p is adjusted where it decided when rollouts ended, by Bonferroni."""
    rule = pair.rule
    if rule is None:
        found = compare(pair.name, pair.baseline, pair.treatment, "follows" if pair.follows else "", resamples)
        return replace(found, awaited=pair.awaited)
    resamples = resamples_for(rule.comparisons, rule.alpha)
    found = compare(pair.name, pair.baseline, pair.treatment, "decides", resamples)
    return replace(found, awaited=pair.awaited, adjusted=min(1.0, found.pvalue * rule.comparisons), alpha=rule.alpha)


def compare(
    name: str, baseline: ArmResult, treatment: ArmResult, stopping: Stopping = "", resamples: int = RESAMPLES
) -> Contrast:
    """Compare two arms on the initial states that all their training seeds share; unpaired where there is none.

    Args:
        name: name of the comparison.
        baseline: the arm compared with.
        treatment: the arm of interest.
        stopping: whether and how the number of states followed from outcomes, see `Contrast`; then the anytime-valid
            test and interval take the place of the exact test and of the bootstrap's interval.
        resamples: number of bootstrap resamples.
    """
    shared = np.intersect1d(baseline.shared_seeds(), treatment.shared_seeds())
    everything = np.unique(np.concatenate([cell.seeds for arm in (baseline, treatment) for cell in arm.cells]))
    if len(shared):
        base, treated = baseline.outcomes(shared), treatment.outcomes(shared)
        difference = paired_bootstrap(base, treated, resamples=resamples)
        if stopping:
            anytime = anytime_comparison(base, treated)
            difference, exact = difference._replace(interval=anytime.interval), anytime.pvalue
        else:
            exact = sign_flip_test(base, treated)
        p, q = base.mean(0), treated.mean(0)
        rates = (float(p.mean()), float(q.mean()))
        discordant: tuple[float, float] | None = (float((p * (1 - q)).sum()), float((q * (1 - p)).sum()))
    else:
        counts = ((baseline.successes, baseline.episodes), (treatment.successes, treatment.episodes))
        exact = fisher_exact(*counts)
        rates, discordant = (baseline.rate, treatment.rate), None
        difference = Difference(rates[1] - rates[0], newcombe_interval(*counts), exact)
    runs = [[cell.rate for cell in arm.cells] for arm in (baseline, treatment)]
    several = min(len(baseline.cells), len(treatment.cells)) > 1
    left_out = len(everything) - len(shared)
    return Contrast(
        name=name,
        baseline=baseline,
        treatment=treatment,
        states=len(shared),
        left_out=left_out,
        rates=rates,
        difference=difference,
        exact_pvalue=exact,
        discordant=discordant,
        improvement=probability_of_improvement(*runs) if several else None,
        caveats=tuple(_caveats(baseline, treatment, rates, len(shared), left_out, stopping)),
        stopping=stopping,
        resamples=resamples,
    )


def _caveats(
    baseline: ArmResult,
    treatment: ArmResult,
    rates: tuple[float, float],
    states: int,
    left_out: int,
    stopping: Stopping,
) -> Iterable[str]:
    if stopping:
        which = "this comparison" if stopping == "decides" else "another comparison of one of its arms"
        yield (
            f"Rollouts were added until {which} was decided or the budget spent. Its p and interval allow for that, "
            "and hold for the policies that were trained; the success rates themselves lean towards the decision."
        )
    seeds = min(len(baseline.cells), len(treatment.cells))
    if seeds == 1:
        yield "One training seed in an arm: this compares trained policies; training again may turn it around."
    elif seeds == 2:
        yield "Two training seeds in an arm say little about training again; three or more are needed."
    if not states:
        yield "No initial state was met by all policies of both arms: compared without pairing, as if independent."
    elif left_out:
        yield f"Only the {states} initial states that all policies met are compared; {left_out} others are left out."
    yield from _differences(baseline, treatment)
    yield from machine_caveats(baseline, treatment)
    if min(rates) >= 0.95 or max(rates) <= 0.05:
        yield "The task is saturated: at success this close to the limit it hardly tells arms apart."
    if errors := sum(cell.errors for arm in (baseline, treatment) for cell in arm.cells):
        yield f"Episodes that ended in an error of the simulator are left out: {errors}."


def _differences(baseline: ArmResult, treatment: ArmResult) -> Iterable[str]:
    """What differs between the arms, or between the training seeds of one, and should not."""
    arms = {"baseline": baseline, "treatment": treatment}
    consequences = {
        "data": "were trained on different data: the difference may be the data's",
        "environment": "were evaluated in different environments: equal seeds may not be equal initial states",
    }
    if baseline.setting.backbone == treatment.setting.backbone:
        consequences["backbone"] = "have different weights of the same backbone"
    if (baseline.setting.policy, baseline.setting.readout) == (treatment.setting.policy, treatment.setting.readout):
        consequences["settings"] = "differ in settings of policy, readout or training that their names do not show"
    for kind, consequence in consequences.items():
        optional = kind not in ("data", "environment")  # not recorded by earlier versions
        prints = [[value for value in arm.prints(kind) if value or not optional] for arm in arms.values()]
        mixed = [side for side, values in zip(arms, prints, strict=True) if len(values) > 1]
        if mixed or (prints[0] != prints[1] and (all(prints) or not optional)):
            who = f"training seeds of the {' and of the '.join(mixed)}" if mixed else "arms"
            shown = " and ".join("/".join(value[:8] or "unknown" for value in values) for values in prints)
            yield f"The {who} {consequence} (fingerprints {shown})."
