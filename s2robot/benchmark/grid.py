"""The grid: arms (what is compared) × tasks × training seeds = cells (what is run), and the planned contrasts."""

from __future__ import annotations

from dataclasses import dataclass

from s2robot.benchmark.arms import make_arms
from s2robot.benchmark.cells import Arm, Cell
from s2robot.benchmark.planned_contrasts import planned_contrasts
from s2robot.config import BenchmarkConfig
from s2robot.report.plan_document import PlannedContrast


@dataclass(frozen=True)
class Grid:
    """All that a benchmark compares; made once, from its settings, and handed on.

    Attributes:
        arms: each computation once; the first one is the base arm.
        cells: arms × tasks × training seeds; cells that share an encoder are adjacent.
        contrasts: planned before anything runs.
    """

    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    contrasts: tuple[PlannedContrast, ...]


def make_grid(config: BenchmarkConfig) -> Grid:
    """The grid of the settings.

    Raises:
        ConfigError: an entry of `readouts`, `policies`, `arms` or `contrasts` is malformed, a contrast compares no arms
            of the grid, or images are too small for a scale.
    """
    arms = make_arms(config)
    cells = [Cell(task, arm, seed) for task in config.task_list for arm in arms for seed in config.training_seeds]
    return Grid(tuple(arms), tuple(cells), tuple(planned_contrasts(config, arms, cells)))
