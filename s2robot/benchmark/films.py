"""Which initial states to film: for each contrast those that divide its two arms, in both arms."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from s2robot.benchmark.cells import Cell
from s2robot.benchmark.output import read_outcomes
from s2robot.benchmark.selection import compared_pairs
from s2robot.config import BenchmarkConfig
from s2robot.report.plan_document import PlannedContrast


def choose_films(
    config: BenchmarkConfig, output: Path, contrasts: Iterable[PlannedContrast], cells: Sequence[Cell]
) -> dict[str, list[int]]:
    """Cell name → evaluation seeds to film, `config.videos` for each contrast, of the first training seed.

    First the states that only one of the arms solved, in turn, then those that both failed.
    """
    first = [cell for cell in cells if cell.training_seed == config.training_seeds[0]]
    films: dict[str, set[int]] = {}
    for contrast in contrasts:
        for baseline, treatment in compared_pairs(contrast, first):
            seeds = _telling(read_outcomes(output, baseline), read_outcomes(output, treatment), config.videos)
            for cell in (baseline, treatment):
                films.setdefault(cell.name, set()).update(seeds)
    return {name: sorted(seeds) for name, seeds in films.items() if seeds}


def _telling(baseline: dict[int, bool], treatment: dict[int, bool], count: int) -> list[int]:
    shared = sorted(baseline.keys() & treatment.keys())
    only_treated = [seed for seed in shared if treatment[seed] and not baseline[seed]]
    only_base = [seed for seed in shared if baseline[seed] and not treatment[seed]]
    neither = [seed for seed in shared if not baseline[seed] and not treatment[seed]]
    turns = itertools.zip_longest(only_treated, only_base)
    divided = [seed for pair in turns for seed in pair if seed is not None]
    return (divided + neither)[:count]
