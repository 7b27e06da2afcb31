"""The grid: arms (what is compared) × tasks × training seeds = cells (what is run)."""

from __future__ import annotations

from s2robot.benchmark.arms import make_arms
from s2robot.benchmark.cells import Cell
from s2robot.config import BenchmarkConfig


def make_cells(config: BenchmarkConfig) -> list[Cell]:
    """The whole grid; cells that share an encoder are neighbours."""
    arms = make_arms(config)
    return [Cell(task, arm, seed) for task in config.task_list for arm in arms for seed in config.training_seeds]
