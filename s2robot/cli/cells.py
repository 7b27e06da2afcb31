"""The benchmark where it meets the simulator, and as a Hydra application for sweeps over cells.

    python -m s2robot.cli.cells -m 'cells=range(0,4)' hydra/launcher=submitit_slurm output=outputs/benchmark

runs each cell, of which dry_run=true prints the numbers, as a job of its own (with `pip install 's2robot[slurm]'`, on
SLURM); `s2robot benchmark` with the same words then finds them done and writes the report.
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from s2robot.benchmark import TaskFacts, calibrate, describe, run_benchmark
from s2robot.benchmark.calibration import blocks_text
from s2robot.cli.demonstrations import collect_demonstrations
from s2robot.cli.verbs import Output
from s2robot.config import CONFIG_DIR, BenchmarkConfig, register, resolve
from s2robot.interfaces import S2RobotError
from s2robot_envs import S2RobotEnvError, default_num_envs, make_vector_env
from s2robot_envs.tasks import get_task


def run_cells(config: BenchmarkConfig) -> Output:
    """Do what the settings ask for: a dry run, a calibration, some cells, or the whole benchmark."""
    num_envs = config.num_envs or default_num_envs()
    if config.dry_run:
        text = describe(config, task_facts, num_envs)
        return Output(text, {"plan": text.splitlines()})
    if config.calibrate:
        blocks = calibrate(config, collect_demonstrations, make_vector_env, num_envs)
        return Output(blocks_text(config, blocks), {"calibration": blocks})
    folder = run_benchmark(config, collect_demonstrations, make_vector_env, num_envs)
    if folder is None:
        return Output(f"cells {config.cells} are done; without cells= the report is written", {"cells": config.cells})
    return Output(f"{(folder / 'report.md').read_text()}\nreport: {folder}", {"report": str(folder)})


def task_facts(task: str) -> TaskFacts:
    """What a dry run wants to know of a task.

    Raises:
        S2RobotEnvError: unknown task.
    """
    spec = get_task(task)
    return TaskFacts(spec.horizon, tuple(spec.cameras))


@hydra.main(config_path=str(CONFIG_DIR), config_name="benchmark", version_base="1.3")
def main(settings: DictConfig) -> None:
    """Hydra application: the cells that `cells=` names."""
    try:
        print(run_cells(resolve(settings)).text)
    except (S2RobotError, S2RobotEnvError) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # the launcher notes it against this job and runs the others
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    from s2robot.backbones import BACKBONES

    register(BACKBONES)
    main()
