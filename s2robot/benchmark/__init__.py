"""The benchmark grid: cells that share demonstrations, budget, head width and initial states.

grid.py      arms × tasks × training seeds      controls.py    what a multi-scale encoder must beat
plan.py      the contrasts, before anything runs stages.py      demonstrations, training, rollouts: made once
runner.py    every cell, then the report         engines.py     here or on Ray
results.py   one row per episode                 sequential.py  optional: batches until decided
dry_run.py   cells, cost, time, disk, power      films.py        initial states to film
calibration.py  the base arm alone, on calibration seeds
preflight.py what is to run has its expert, cameras and weights
"""

from s2robot.benchmark.calibration import calibrate
from s2robot.benchmark.dry_run import TaskFacts, describe
from s2robot.benchmark.grid import Cell, make_cells
from s2robot.benchmark.plan import planned_contrasts
from s2robot.benchmark.preflight import check_runnable, download_weights
from s2robot.benchmark.runner import run_benchmark

__all__ = [
    "Cell",
    "TaskFacts",
    "calibrate",
    "check_runnable",
    "describe",
    "download_weights",
    "make_cells",
    "planned_contrasts",
    "run_benchmark",
]
