"""Which initial states to film: for each contrast those that divide its two arms, in both arms."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from s2robot.benchmark.cells import Cell
from s2robot.benchmark.output import read_results
from s2robot.config import BenchmarkConfig
from s2robot.report.arm_results import SELECTORS


def choose_films(
    config: BenchmarkConfig, output: Path, contrasts: list[dict[str, Any]], cells: list[Cell]
) -> dict[str, list[int]]:
    """Cell name → evaluation seeds to film, `config.videos` for each contrast, of the first training seed.

    First the states that only one of the arms solved, in turn, then those that both failed.
    """
    first = [cell for cell in cells if cell.training_seed == config.training_seeds[0]]
    films: dict[str, set[int]] = {}
    for contrast in contrasts:
        for baseline, treatment in compared_pairs(contrast, first):
            seeds = _telling(_outcomes(output, baseline), _outcomes(output, treatment), config.videos)
            for cell in (baseline, treatment):
                films.setdefault(cell.name, set()).update(seeds)
    return {name: sorted(seeds) for name, seeds in films.items() if seeds}


def compared_pairs(contrast: dict[str, Any], cells: list[Cell]) -> list[tuple[Cell, Cell]]:
    """Baseline and treatment of every comparison that the contrast stands for, among cells of one training seed."""
    baselines, treatments = ([cell for cell in cells if selects(contrast[s], cell)] for s in ("baseline", "treatment"))
    pairs = itertools.product(baselines, treatments)
    return [pair for pair in pairs if pair[0] is not pair[1] and are_compared(contrast, *pair)]


def are_compared(contrast: dict[str, Any], baseline: Cell, treatment: Cell) -> bool:
    """Whether the report compares the two: they agree in all settings that neither side of the contrast names."""
    held = [key for key in SELECTORS if key not in contrast["baseline"] and key not in contrast["treatment"]]
    return all(baseline.setting[key] == treatment.setting[key] for key in held)


def selects(selector: dict[str, Any], cell: Cell) -> bool:
    """Whether a cell has all the settings of one side of a contrast."""
    return all(cell.setting[key] == value for key, value in selector.items())


def _outcomes(output: Path, cell: Cell) -> dict[int, bool]:
    rows = (read_results(output, cell) or {}).get("episode_results", [])
    return {row["seed"]: row["success"] for row in rows if row.get("error") is None}


def _telling(baseline: dict[int, bool], treatment: dict[int, bool], count: int) -> list[int]:
    shared = sorted(baseline.keys() & treatment.keys())
    only_treated = [seed for seed in shared if treatment[seed] and not baseline[seed]]
    only_base = [seed for seed in shared if baseline[seed] and not treatment[seed]]
    neither = [seed for seed in shared if not baseline[seed] and not treatment[seed]]
    turns = itertools.zip_longest(only_treated, only_base)
    divided = [seed for pair in turns for seed in pair if seed is not None]
    return (divided + neither)[:count]
