"""Compare arms: each planned contrast with its interval, its p-value and what it cannot tell."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from s2robot.report.plan import Plan, PlannedContrast
from s2robot.report.results import SELECTORS, Arm, Setting, setting_label, varying
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
Verdict = Literal["higher", "lower", "no difference shown"]
Stopping = Literal["", "decides", "follows"]


@dataclass(frozen=True)
class Contrast:
    """One comparison of a treatment with a baseline.

    Attributes:
        name: of the plan, or made of the two labels.
        baseline: the arm compared with.
        treatment: the arm of interest.
        states: initial states shared by all training seeds of both arms; 0 means the comparison is unpaired.
        left_out: initial states that only some of them met.
        rates: success of (baseline, treatment) on the shared states.
        difference: success of the treatment minus success of the baseline.
        exact_pvalue: of the trained policies: exact McNemar (sign-flip) test, or Fisher's where unpaired.
        adjusted: the larger of both p-values, adjusted for the number of contrasts, see `compare_all`.
        discordant: states solved by (baseline, treatment) alone, averaged over training seeds; None where unpaired.
        improvement: probability that a training run of the treatment beats one of the baseline; several seeds only.
        caveats: what limits the comparison, one sentence each.
        stopping: "decides": rollouts were added until this comparison was decided; "follows": until another one was,
            of one of its arms. Interval and p are then anytime-valid ones.
        alpha: up to which the adjusted p-value counts as a difference.
        resamples: of the bootstrap.
    """

    name: str
    baseline: Arm
    treatment: Arm
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
        if self.adjusted > self.alpha:
            return "no difference shown"
        return "higher" if self.difference.value > 0 else "lower"


@dataclass(frozen=True)
class Comparisons:
    """All contrasts of a report; `planned` is false for those the report chose itself; `missing` names the rest."""

    contrasts: tuple[Contrast, ...]
    planned: bool
    missing: tuple[str, ...]


def compare_all(arms: Sequence[Arm], plan: Plan) -> Comparisons:
    """Evaluate the planned contrasts; without a plan, all pairs of arms that differ in exactly one setting.

    Those that decided when rollouts ended were stopped at alpha over their number (`s2robot.benchmark.sequential`), and
    are judged as they were stopped. Over the others p is adjusted by Holm; what was planned and has no results yet
    counts too: a report half way through must not be the more lenient one.
    """
    if plan.contrasts:
        pairs, missing, awaited = _planned_pairs(arms, plan)
    else:
        pairs, missing, awaited = [(_pair_name(*pair), *pair, "") for pair in _neighbours(arms)], [], 0
        if len(pairs) > MAX_EXPLORATORY:
            missing = [f"no contrasts were planned, and picking among {len(pairs)} pairs of arms would mislead"]
            pairs = []
    deciding = len(plan.sequential)
    others = sum(stopping != "decides" for *_, stopping in pairs) + awaited
    resamples = {"decides": resamples_for(deciding, plan.alpha)}
    contrasts = [compare(*pair, resamples.get(pair[-1], resamples_for(others))) for pair in pairs]
    holms = iter(holm([contrast.pvalue for contrast in contrasts if not contrast.deciding] + [1.0] * awaited))
    adjusted = (
        replace(contrast, adjusted=min(1.0, contrast.pvalue * deciding), alpha=plan.alpha)
        if contrast.deciding
        else replace(contrast, adjusted=float(next(holms)))
        for contrast in contrasts
    )
    return Comparisons(tuple(adjusted), planned=bool(plan.contrasts), missing=tuple(missing))


def _planned_pairs(arms: Sequence[Arm], plan: Plan) -> tuple[list[tuple[str, Arm, Arm, Stopping]], list[str], int]:
    """The pairs of arms to compare, a sentence for each that lacks results, and how many of those decide nothing."""
    pairs: list[tuple[str, Arm, Arm, Stopping]] = []
    missing: list[str] = []
    awaited = 0
    evaluated = {arm.setting: arm for arm in arms}
    deciding = [planned for planned in plan.contrasts if planned.name in plan.sequential]
    raced = {setting for planned in deciding for pair in _matching_pairs(evaluated, planned) for setting in pair}
    for planned in plan.contrasts:
        present = _matching_pairs(evaluated, planned)
        have = {tuple(replace(setting, encoder="") for setting in pair) for pair in present}
        absent = [pair for pair in _matching_pairs(plan.settings, planned) if pair not in have]
        told_apart = varying([baseline for baseline, _ in [*present, *absent]], _unnamed(planned))
        for baseline, treatment in present:
            stopping: Stopping = "follows" if raced & {baseline, treatment} else ""
            if planned in deciding:
                stopping = "decides"
            name = _contrast_name(planned, baseline, told_apart)
            pairs.append((name, evaluated[baseline], evaluated[treatment], stopping))
        names = sorted(_contrast_name(planned, baseline, told_apart) for baseline, _ in absent)
        names = names or ([] if present else [planned.name])
        missing += [f"{name}: not both arms have results" for name in names]
        awaited += 0 if planned in deciding else len(names)
    return pairs, missing, awaited


def compare(name: str, baseline: Arm, treatment: Arm, stopping: Stopping = "", resamples: int = RESAMPLES) -> Contrast:
    """Compare two arms on the initial states that all their training seeds share; unpaired where there is none.

    Args:
        name: of the comparison.
        baseline: the arm compared with.
        treatment: the arm of interest.
        stopping: whether and how the number of states followed from outcomes, see `Contrast`; then the anytime-valid
            test and interval take the place of the exact test and of the bootstrap's interval.
        resamples: of the bootstrap.
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
    baseline: Arm, treatment: Arm, rates: tuple[float, float], states: int, left_out: int, stopping: Stopping
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
    for kind, consequence in (
        ("data", "were trained on different data: the difference may be the data's"),
        ("environment", "were evaluated in different environments: equal seeds may not be equal initial states"),
    ):
        prints = [sorted({cell.fingerprints.get(kind, "") for cell in arm.cells}) for arm in (baseline, treatment)]
        if prints[0] != prints[1]:
            shown = " and ".join("/".join(value[:8] or "unknown" for value in side) for side in prints)
            yield f"The arms {consequence} (fingerprints {shown})."
    if min(rates) >= 0.95 or max(rates) <= 0.05:
        yield "The task is saturated: at success this close to the limit it hardly tells arms apart."
    if errors := sum(cell.errors for arm in (baseline, treatment) for cell in arm.cells):
        yield f"Episodes that ended in an error of the simulator are left out: {errors}."


def _contrast_name(planned: PlannedContrast, baseline: Setting, told_apart: list[str]) -> str:
    return planned.name + (f" ({setting_label(baseline, told_apart)})" if told_apart else "")


def _matches(setting: Setting, selector: dict[str, Any]) -> bool:
    return all(getattr(setting, key) == value for key, value in selector.items())


def _unnamed(planned: PlannedContrast) -> list[str]:
    """Settings the contrast does not mention; the two arms of a pair must agree in them."""
    return [key for key in SELECTORS if key not in planned.baseline and key not in planned.treatment]


def _matching_pairs(settings: Iterable[Setting], planned: PlannedContrast) -> list[tuple[Setting, Setting]]:
    held = _unnamed(planned)
    return [
        (baseline, treatment)
        for baseline, treatment in itertools.permutations(settings, 2)
        if _matches(baseline, planned.baseline)
        and _matches(treatment, planned.treatment)
        and all(getattr(baseline, key) == getattr(treatment, key) for key in held)
    ]


def _neighbours(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Pairs of arms of one task that differ in exactly one setting, the cheaper one first."""
    pairs = []
    for pair in itertools.combinations(arms, 2):
        first, second = sorted(pair, key=lambda arm: arm.gmacs)
        if first.setting.task == second.setting.task and len(_differing(first, second)) == 1:
            pairs.append((first, second))
    return pairs


def _differing(first: Arm, second: Arm) -> list[str]:
    return [key for key in SELECTORS if getattr(first.setting, key) != getattr(second.setting, key)]


def _pair_name(baseline: Arm, treatment: Arm) -> str:
    differing = _differing(baseline, treatment)
    common = setting_label(baseline.setting, [key for key in SELECTORS if key not in differing])
    return (
        f"{setting_label(treatment.setting, differing)} against {setting_label(baseline.setting, differing)} ({common})"
    )
