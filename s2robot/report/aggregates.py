"""Success over all tasks and training runs: the interquartile mean, which a single odd run does not move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from s2robot.report.arm_results import SELECTORS, ArmResult, Setting, setting_label
from s2robot.statistics import Interval, interquartile_mean

MIN_RUNS = 4  # of fewer runs the interquartile mean is the mean


@dataclass(frozen=True)
class Aggregate:
    """One encoder, readout and policy over several training runs.

    Attributes:
        setting: settings of its arms, with an empty task; `demonstrations` is 0 if no task has several numbers of them.
        tasks: number of tasks.
        runs: training runs of all tasks together.
        mean: success averaged over the runs.
        iqm: mean of the middle half of the runs' success rates (Agarwal et al. 2021, arXiv 2108.13264).
        interval: nominal 95% interval of the interquartile mean: bootstrap over the training runs of each task.
    """

    setting: Setting
    tasks: int
    runs: int
    mean: float
    iqm: float
    interval: Interval


def aggregate(arms: Sequence[ArmResult]) -> list[Aggregate]:
    """Every setting that was run on all tasks of the report, at least `MIN_RUNS` times in all; the highest first."""
    tasks = {arm.setting.task for arm in arms}
    one_number_each = len({(arm.setting.task, arm.setting.demonstrations) for arm in arms}) == len(tasks)
    groups: dict[Setting, list[ArmResult]] = {}
    for arm in arms:
        setting = replace(arm.setting, task="", encoder="")
        groups.setdefault(replace(setting, demonstrations=0) if one_number_each else setting, []).append(arm)
    whole = [
        _summary(setting, group)
        for setting, group in groups.items()
        if {arm.setting.task for arm in group} == tasks and sum(len(arm.cells) for arm in group) >= MIN_RUNS
    ]
    return sorted(whole, key=lambda found: -found.iqm)


def aggregate_label(found: Aggregate) -> str:
    """What was run: policy, backbone, scales, readout, demonstrations where a task has several numbers, variant."""
    names = [name for name in SELECTORS if name != "demonstrations" or found.setting.demonstrations]
    return setting_label(found.setting, names)


def _redrawn(rates: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Runs of one task redrawn [resamples, runs], their spread widened to be unbiased (Rao & Wu 1988)."""
    runs = len(rates)
    widened = rates.mean() + (rates - rates.mean()) * (runs / max(1, runs - 1)) ** 0.5
    return widened[rng.integers(runs, size=(resamples, runs))]


def _summary(setting: Setting, arms: Sequence[ArmResult], resamples: int = 2000) -> Aggregate:
    runs = [np.array([cell.rate for cell in arm.cells]) for arm in arms]
    rng = np.random.default_rng(0)
    draws = np.concatenate([_redrawn(rates, resamples, rng) for rates in runs], axis=1)
    cut = int(0.25 * draws.shape[1])
    middle = np.sort(draws, axis=1)[:, cut : draws.shape[1] - cut].mean(axis=1)
    rates = np.concatenate(runs)
    low, high = np.clip(np.quantile(middle, [0.025, 0.975]), 0, 1)
    return Aggregate(
        setting=setting,
        tasks=len({arm.setting.task for arm in arms}),
        runs=len(rates),
        mean=float(rates.mean()),
        iqm=interquartile_mean(rates),
        interval=Interval(float(low), float(high)),
    )
