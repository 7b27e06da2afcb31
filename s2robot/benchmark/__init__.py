"""The benchmark grid: cells that share demonstrations, budget, head width and initial states.

cells.py              an arm, a cell, what identifies them
arms.py               the product of the factors, the controls, the list
controls.py           what a multi-scale encoder must beat
planned_contrasts.py  the comparisons that are stated, or follow from the grid
grid.py               all of these, made once
selection.py          which cells a contrast means, or a list of numbers
plan.py               benchmark.json, before anything runs
stages.py             demonstrations, training, rollouts: made once
runner.py             every cell, then the report
executors.py          here or on Ray
output.py             one folder per cell, one row per episode
sequential.py         optional: batches until decided
dry_run.py            cells, cost, time, disk, power
films.py              initial states to film
calibration.py        the base arm alone, on calibration seeds
preflight.py          what is to run has its expert, cameras and weights
"""

from s2robot.benchmark.calibration import calibrate
from s2robot.benchmark.cells import Cell
from s2robot.benchmark.dry_run import TaskFacts, describe
from s2robot.benchmark.grid import Grid, make_grid
from s2robot.benchmark.preflight import check_runnable, download_weights
from s2robot.benchmark.runner import run_benchmark

__all__ = [
    "Cell",
    "Grid",
    "TaskFacts",
    "calibrate",
    "check_runnable",
    "describe",
    "download_weights",
    "make_grid",
    "run_benchmark",
]
