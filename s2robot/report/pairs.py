"""Which arms are compared: those of the plan, or neighbours where nothing was planned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from s2robot.report.arm_results import SELECTORS, ArmResult, Setting, setting_label, varying
from s2robot.report.plan import Plan, StoppingRule
from s2robot.report.plan_document import PlannedContrast


class Pair(NamedTuple):
    """Two arms to compare.

    Attributes:
        name: name of the comparison.
        baseline: the arm compared with.
        treatment: the arm of interest.
        rule: by which this comparison decided when rollouts ended.
        follows: whether another one did, of one of its arms.
        awaited: which planned training seeds have results, where not all have.
    """

    name: str
    baseline: ArmResult
    treatment: ArmResult
    rule: StoppingRule | None = None
    follows: bool = False
    awaited: str = ""


class PlannedPairs(NamedTuple):
    """What a plan compares.

    Attributes:
        pairs: whose two arms have results.
        missing: a sentence for each comparison that lacks an arm.
        awaited: how many of those decide nothing; Holm's correction counts them.
    """

    pairs: list[Pair]
    missing: list[str]
    awaited: int


def planned_pairs(arms: Sequence[ArmResult], plan: Plan) -> PlannedPairs:
    """The pairs of arms that the plan compares."""
    found: list[Pair] = []
    missing: list[str] = []
    awaited = 0
    evaluated = {arm.setting: arm for arm in arms}
    for planned in plan.contrasts:
        present = [
            (baseline, treatment)
            for baseline, treatment in planned.pairs(evaluated)
            if _same_benchmark(evaluated[baseline], evaluated[treatment])
        ]
        have = {(baseline.plain, treatment.plain) for baseline, treatment in present}
        absent = [pair for pair in planned.pairs(plan.settings) if pair not in have]
        names = _names(planned, [*present, *absent])
        for name, (baseline, treatment) in zip(names, present, strict=False):
            sides = evaluated[baseline], evaluated[treatment]
            rule = plan.stopping_rule(planned, *sides)
            found.append(Pair(name, *sides, rule, awaited=_awaited(plan, *sides)))
        lacking = sorted(names[len(present) :]) or ([] if present else [planned.name])
        missing += [f"{name}: not both arms have results" for name in lacking]
        undecided = [pair for pair in absent if not any(rule.decides(planned, *pair) for rule in plan.rules)]
        unknown = not (absent or present or any(planned in rule.contrasts for rule in plan.rules))
        awaited += len(undecided) + unknown
    raced = {setting for pair in found if pair.rule for setting in (pair.baseline.setting, pair.treatment.setting)}
    found = [
        pair._replace(follows=not pair.rule and bool(raced & {pair.baseline.setting, pair.treatment.setting}))
        for pair in found
    ]
    return PlannedPairs(found, missing, awaited)


def neighbours(arms: Sequence[ArmResult]) -> list[Pair]:
    """Pairs of arms of one task that differ in exactly one setting, the cheaper one first."""
    pairs = []
    for both in itertools.combinations(arms, 2):
        first, second = sorted(both, key=lambda arm: arm.gmacs)
        if first.setting.task == second.setting.task and len(_differing(first, second)) == 1:
            pairs.append(Pair(_pair_name(first, second), first, second))
    return pairs


def _same_benchmark(baseline: ArmResult, treatment: ArmResult) -> bool:
    """Of arms that several benchmarks have, with other weights or settings, those of one benchmark are compared."""
    marked = baseline.setting.mark or treatment.setting.mark
    return not marked or bool(baseline.folders & treatment.folders)


def _awaited(plan: Plan, baseline: ArmResult, treatment: ArmResult) -> str:
    """What the arms have of their planned training seeds; empty where they have all."""
    lacking = []
    for side, arm in (("baseline", baseline), ("treatment", treatment)):
        planned = plan.training_seeds(arm)
        have = planned & {cell.training_seed for cell in arm.cells}
        if len(have) < len(planned):
            lacking.append(f"{len(have)} of {len(planned)} planned training seeds of the {side}")
    return " and ".join(lacking)


def _names(planned: PlannedContrast, pairs: Sequence[tuple[Setting, Setting]]) -> list[str]:
    """The contrast's name for each pair, with the settings that tell the pairs apart."""
    baselines, treatments = [baseline for baseline, _ in pairs], [treatment for _, treatment in pairs]
    common = varying(baselines, planned.held)
    of_baseline = _telling(baselines, [key for key in planned.treatment if key not in planned.baseline], common)
    of_treatment = _telling(treatments, [key for key in planned.baseline if key not in planned.treatment], [])
    names = []
    for baseline, treatment in pairs:
        parts = [setting_label(baseline, common)]
        parts += [f"baseline {setting_label(baseline, of_baseline)}"] if of_baseline else []
        parts += [f"treatment {setting_label(treatment, of_treatment)}"] if of_treatment else []
        details = "; ".join(filter(None, parts))
        names.append(f"{planned.name} ({details})" if details else planned.name)
    return names


def _telling(settings: Sequence[Setting], free: Sequence[str], shown: Sequence[str]) -> list[str]:
    """What the contrast leaves open on one side and differs between its pairs."""
    marked = len({setting.mark for setting in settings}) > 1 and "variant" not in shown
    return list(dict.fromkeys([*varying(settings, free), *(["variant"] if marked else [])]))


def _differing(first: ArmResult, second: ArmResult) -> list[str]:
    return varying([first.setting, second.setting], SELECTORS)


def _pair_name(baseline: ArmResult, treatment: ArmResult) -> str:
    differing = _differing(baseline, treatment)
    common = setting_label(baseline.setting, [key for key in SELECTORS if key not in differing])
    return (
        f"{setting_label(treatment.setting, differing)} against {setting_label(baseline.setting, differing)} ({common})"
    )
