"""Connect the benchmark to the simulator, and run its cells as a Hydra application for sweeps.

    python -m s2robot.cli.cells -m 'cells=range(0,4)' hydra/launcher=submitit_slurm output=outputs/benchmark

runs each cell as a job of its own (on SLURM, with `pip install 's2robot[slurm]'`). dry_run=true prints the numbers of
the cells. `s2robot benchmark` with the same words then finds the cells done and writes the report.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from s2robot.benchmark import (
    TaskFacts,
    calibrate,
    check_runnable,
    describe,
    download_weights,
    make_grid,
    run_benchmark,
)
from s2robot.benchmark.calibration import blocks_text
from s2robot.cli.choices import register_choices
from s2robot.cli.demonstrations import collect_demonstrations
from s2robot.cli.outcome import Output
from s2robot.cli.recorded import require_evaluable_as_recorded
from s2robot.cli.words import prepare_arguments
from s2robot.config import CONFIG_DIR, BenchmarkConfig, CollectConfig, resolve
from s2robot.interfaces import S2RobotError, WeightsError
from s2robot_envs import S2RobotEnvError, Variant, default_num_envs, make_env, make_vector_env
from s2robot_envs.collection import collection_seed
from s2robot_envs.experts import make_expert
from s2robot_envs.registered import task_spec
from s2robot_envs.rendering import get_render_profile
from s2robot_envs.tasks import get_task


def run_cells(config: BenchmarkConfig) -> Output:
    """Run what the settings select: a dry run, a calibration, some cells, or the whole benchmark."""
    num_envs = config.num_envs or default_num_envs()
    if config.dry_run:
        text = _dry_run(config, num_envs)
        return Output(text, {"plan": text.splitlines()})
    # A calibration runs the base arm alone, where the stated contrasts would find nothing to compare.
    grid = make_grid(replace(config, contrasts=[]) if config.calibrate else config)
    download_weights(check_runnable(config, check_collection, grid))
    if config.calibrate:
        blocks = calibrate(config, collect_demonstrations, make_vector_env, num_envs, grid)
        return Output(blocks_text(config, blocks), {"calibration": blocks})
    folder = run_benchmark(config, collect_demonstrations, make_vector_env, num_envs, (S2RobotEnvError,), grid)
    if folder is None:
        return Output(
            f"cells {config.cells} are done; run again without cells= to write the report", {"cells": config.cells}
        )
    return Output(f"{(folder / 'report.md').read_text(encoding='utf-8')}\nreport: {folder}", {"report": str(folder)})


def _dry_run(config: BenchmarkConfig, num_envs: int) -> str:
    """Describe the plan and the weights that the run needs; missing weights do not prevent a dry run."""
    grid = make_grid(config)
    try:
        downloads = check_runnable(config, check_collection, grid)
        needed = f"weights that the run downloads first: {', '.join(downloads)}" if downloads else ""
    except WeightsError as error:
        needed = f"before the run: {error}"
    return f"{describe(config, task_facts, num_envs, grid)}\n{needed}".rstrip()


def task_facts(task: str) -> TaskFacts:
    """Return the facts of a task that a dry run needs.

    Raises:
        S2RobotEnvError: the task is unknown.
    """
    spec = task_spec(task)
    return TaskFacts(spec.horizon, tuple(spec.cameras))


def check_collection(config: CollectConfig) -> None:
    """Check the settings that `collect_demonstrations` will use; build a simulator only to check unlisted cameras.

    Raises:
        S2RobotEnvError: the task, camera, profile or variant is unknown, or the task has no expert.
        DatasetError: demonstrations that are there already would be evaluated in another environment than their own.
    """
    if Path(config.out).exists():
        require_evaluable_as_recorded(config.out)
    foreign = ":" in config.task  # a task that is not of our table, see `make_env`
    if not foreign:
        Variant.parse(config.variant).check(get_task(config.task))
    make_expert(config.task, config.expert)
    collection_seed(config.seed, 0)
    get_render_profile(config.render_profile)
    if foreign or not set(config.cameras or ()) <= set(get_task(config.task).cameras):
        make_env(config.task, cameras=config.cameras, variant=config.variant, gym=config.gym).close()


@hydra.main(config_path=str(CONFIG_DIR), config_name="benchmark", version_base="1.3")
def main(settings: DictConfig) -> None:
    """Run the cells that `cells=` names; the Hydra application."""
    try:
        print(run_cells(resolve(settings)).text)
    except (S2RobotError, S2RobotEnvError) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # Hydra's launcher records the error for this job and runs the others
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    register_choices()
    try:
        prepare_arguments("benchmark")
    except S2RobotError as error:
        sys.exit(f"error: {error}")
    main()
