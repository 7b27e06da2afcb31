"""How many episodes each cell is given: all at once, or in batches until the planned comparison is decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2robot.benchmark.cells import Cell
from s2robot.benchmark.output import count_episodes, read_outcomes
from s2robot.benchmark.selection import cells_matching
from s2robot.config import BenchmarkConfig, require
from s2robot.report.plan_document import PlannedContrast, StoppingRecord, differing
from s2robot.statistics import anytime_comparison, paired_bootstrap, resamples_for


@dataclass(frozen=True)
class Race:
    """A deciding contrast with the cells of its two arms, by ascending training seed."""

    contrast: PlannedContrast
    baseline: tuple[Cell, ...]
    treatment: tuple[Cell, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Those of both arms, the baseline's first."""
        return (*self.baseline, *self.treatment)


def make_races(config: BenchmarkConfig, contrasts: Sequence[PlannedContrast], cells: Sequence[Cell]) -> list[Race]:
    """The contrasts that decide when to stop; empty where all episodes are run at once.

    Raises:
        ConfigError: a deciding contrast is not planned, or selects not exactly two arms.
    """
    if config.sequential.batch is None:
        return []
    names = [contrast.name for contrast in contrasts]
    deciding = config.sequential.contrasts or names
    for name in deciding:
        require(name in names, "sequential.contrasts", name, f"names of planned contrasts: {'; '.join(names)}")
    races = []
    for contrast in contrasts:
        if contrast.name not in deciding:
            continue
        baseline, treatment = (
            # By training seed, as the report has them: the bootstrap's draws follow the order.
            tuple(sorted(cells_matching(selector, cells), key=lambda cell: cell.training_seed))
            for selector in (contrast.baseline, contrast.treatment)
        )
        arms = [{cell.arm.key + cell.task.label for cell in side} for side in (baseline, treatment)]
        one_pair = all(len(side) == 1 for side in arms)
        one_pair = one_pair and not differing(contrast.held, baseline[0].setting, treatment[0].setting)
        valid = "contrasts whose sides each select one arm of one task, and differ only in settings that they name"
        require(one_pair, "sequential.contrasts", contrast.name, valid)
        races.append(Race(contrast, baseline, treatment))
    return races


def stopping_rule(config: BenchmarkConfig, races: list[Race], decided: list[str]) -> StoppingRecord:
    """What the report must know of the rule; `decided` are the names of contrasts."""
    assert config.sequential.batch is not None  # else there are no races
    return StoppingRecord(
        contrasts=tuple(race.contrast.name for race in races),
        decided=tuple(decided),
        batch=config.sequential.batch,
        alpha=config.sequential.alpha,
        budget=config.episodes,
    )


def next_episodes(config: BenchmarkConfig, output: Path, races: list[Race], cells: Sequence[Cell]) -> dict[str, int]:
    """Cell name → episodes it should have by now; unchanged numbers mean that all is decided or spent."""
    batch = config.sequential.batch
    targets = {cell.name: config.episodes for cell in cells}
    if batch is None:
        return targets
    racing = {cell.name for race in races for cell in race.cells}
    done = {cell.name: count_episodes(output, cell, config.first_seed) for cell in cells}
    targets |= {name: max(done[name], min(batch, config.episodes)) for name in racing if name in targets}
    for race in races:
        have = min(done[cell.name] for cell in race.cells)
        if have == 0 or have >= config.episodes or is_decided(config, output, races, race):
            continue
        for cell in race.cells:
            targets[cell.name] = max(targets[cell.name], min(config.episodes, (have // batch + 1) * batch))
    return targets


def is_decided(config: BenchmarkConfig, output: Path, races: list[Race], race: Race) -> bool:
    """Whether the report will show a difference: p at most the contrast's share of alpha (Bonferroni over contrasts).

    That p is the larger of the anytime-valid test's and the bootstrap's over training seeds: asking for both is the
    stricter rule, so it keeps the error rate of the first at whatever moment one stops.
    """
    outcomes = _outcomes(output, race.cells)
    if not outcomes.size:
        return False
    sides = outcomes[: len(race.baseline)], outcomes[len(race.baseline) :]
    resamples = resamples_for(len(races), config.sequential.alpha)
    pvalue = max(anytime_comparison(*sides).pvalue, paired_bootstrap(*sides, resamples=resamples).pvalue)
    return pvalue * len(races) <= config.sequential.alpha


def _outcomes(output: Path, cells: Sequence[Cell]) -> np.ndarray:
    """Outcomes [training seeds, states] by ascending evaluation seed, of the states that all cells ran."""
    tables = [read_outcomes(output, cell) for cell in cells]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    return np.array([[table[seed] for seed in shared] for table in tables], dtype=float)
