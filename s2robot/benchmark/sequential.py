"""How many episodes each cell is given: all at once, or in batches until the planned comparison is decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from s2robot.benchmark.cells import Cell
from s2robot.benchmark.films import are_compared, selects
from s2robot.benchmark.output import count_episodes, read_results
from s2robot.config import BenchmarkConfig, require
from s2robot.statistics import anytime_comparison, paired_bootstrap, resamples_for

Race = tuple[dict[str, Any], list[Cell], list[Cell]]
"""A deciding contrast with the cells of its baseline and of its treatment."""


def make_races(config: BenchmarkConfig, contrasts: list[dict[str, Any]], cells: list[Cell]) -> list[Race]:
    """The contrasts that decide when to stop; empty where all episodes are run at once.

    Raises:
        ConfigError: a deciding contrast is not planned, or selects not exactly two arms.
    """
    if config.sequential.batch is None:
        return []
    names = [contrast["name"] for contrast in contrasts]
    deciding = config.sequential.contrasts or names
    for name in deciding:
        require(name in names, "sequential.contrasts", name, f"names of planned contrasts: {'; '.join(names)}")
    races = []
    for contrast in contrasts:
        if contrast["name"] not in deciding:
            continue
        baseline, treatment = (
            # By training seed, as the report has them: the bootstrap's draws follow the order.
            sorted((cell for cell in cells if selects(contrast[side], cell)), key=lambda cell: cell.training_seed)
            for side in ("baseline", "treatment")
        )
        arms = [{cell.arm.key + cell.task.label for cell in side} for side in (baseline, treatment)]
        one_pair = all(len(side) == 1 for side in arms) and are_compared(contrast, baseline[0], treatment[0])
        valid = "contrasts whose two sides select one arm of one task each, alike in all that neither side names"
        require(one_pair, "sequential.contrasts", contrast["name"], valid)
        races.append((contrast, baseline, treatment))
    return races


def stopping_rule(config: BenchmarkConfig, races: list[Race], decided: list[str]) -> dict[str, Any]:
    """What the report must know of the rule; `decided` are the names of contrasts."""
    return {
        "contrasts": [race[0]["name"] for race in races],
        "decided": decided,
        "batch": config.sequential.batch,
        "alpha": config.sequential.alpha,
        "budget": config.episodes,
    }


def next_episodes(config: BenchmarkConfig, output: Path, races: list[Race], cells: list[Cell]) -> dict[str, int]:
    """Cell name → episodes it should have by now; unchanged numbers mean that all is decided or spent."""
    batch = config.sequential.batch
    targets = {cell.name: config.episodes for cell in cells}
    if batch is None:
        return targets
    racing = {cell.name for _, *sides in races for side in sides for cell in side}
    done = {cell.name: count_episodes(output, cell, config.first_seed) for cell in cells}
    targets |= {name: max(done[name], min(batch, config.episodes)) for name in racing if name in targets}
    for contrast, baseline, treatment in races:
        both = [*baseline, *treatment]
        have = min(done[cell.name] for cell in both)
        if have == 0 or have >= config.episodes or is_decided(config, output, races, (contrast, baseline, treatment)):
            continue
        for cell in both:
            targets[cell.name] = max(targets[cell.name], min(config.episodes, (have // batch + 1) * batch))
    return targets


def is_decided(config: BenchmarkConfig, output: Path, races: list[Race], race: Race) -> bool:
    """Whether the report will show a difference: p at most the contrast's share of alpha (Bonferroni over contrasts).

    That p is the larger of the anytime-valid test's and the bootstrap's over training seeds: asking for both is the
    stricter rule, so it keeps the error rate of the first at whatever moment one stops.
    """
    baseline, treatment = race[1:]
    outcomes = _outcomes(output, [*baseline, *treatment])
    if not outcomes.size:
        return False
    sides = outcomes[: len(baseline)], outcomes[len(baseline) :]
    resamples = resamples_for(len(races), config.sequential.alpha)
    pvalue = max(anytime_comparison(*sides).pvalue, paired_bootstrap(*sides, resamples=resamples).pvalue)
    return pvalue * len(races) <= config.sequential.alpha


def _outcomes(output: Path, cells: list[Cell]) -> np.ndarray:
    """Outcomes [training seeds, states] by ascending evaluation seed, of the states that all cells ran."""
    tables = []
    for cell in cells:
        rows = (read_results(output, cell) or {}).get("episode_results", [])
        tables.append({row["seed"]: row["success"] for row in rows if row.get("error") is None})
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    return np.array([[table[seed] for seed in shared] for table in tables], dtype=float)
