"""Run a benchmark: the plan first, then every cell that has not all its episodes, then the report."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from s2robot.benchmark.cells import Cell
from s2robot.benchmark.executors import run_jobs
from s2robot.benchmark.films import choose_films
from s2robot.benchmark.grid import Grid, make_grid
from s2robot.benchmark.output import (
    PARQUET_FILE,
    count_episodes,
    drop_error,
    read_error,
    read_results,
    set_aside_unplanned,
    write_error,
    write_parquet,
    write_results,
)
from s2robot.benchmark.plan import change_document, store_plan
from s2robot.benchmark.selection import select_cells
from s2robot.benchmark.sequential import Race, is_decided, make_races, next_episodes, stopping_rule
from s2robot.benchmark.stages import Collect, Stages, demonstrations_key
from s2robot.config import BenchmarkConfig, TaskConfig
from s2robot.evaluation import MakeVectorEnv
from s2robot.interfaces import S2RobotError
from s2robot.report import write_report
from s2robot.report.plan_document import PLAN_FILE, CellError, PlannedContrast
from s2robot.system.files import locked


@dataclass(frozen=True)
class CellJob:
    """Give `cell` its first `episodes` episodes, and film some of their seeds."""

    cell: Cell
    episodes: int
    films: tuple[int, ...] = ()


@dataclass
class Runner:
    """What a job runs, here or on another machine of the same file system.

    Attributes:
        stages: makes or finds what a cell needs.
        output: the benchmark's folder.
        user_errors: exceptions recorded by their message alone, as `S2RobotError` is; any other is recorded with its
            traceback.
    """

    stages: Stages
    output: Path
    user_errors: tuple[type[Exception], ...] = ()

    def collect(self, task: TaskConfig) -> str | None:
        """Record a task's demonstrations; return the error, if any."""
        return self._guarded(lambda: self.stages.demonstrations(task))

    def run(self, job: CellJob) -> str | None:
        """Run one cell and write its results; return the error, if any, and record it."""
        self.stages.start_clock()
        error = self._guarded(lambda: self._write(job))
        if error:
            write_error(self.output, job.cell, error)
        else:
            drop_error(self.output, job.cell)
        return error

    def film(self, job: CellJob) -> str | None:
        """Film some episodes of a cell that has its results; return the error, if any."""
        self.stages.start_clock()
        return self._guarded(lambda: self._write(job))

    def _guarded(self, work: Callable[[], object]) -> str | None:
        try:
            work()
        except Exception as error:  # a crash of one cell must not cost the others
            says_it_all = isinstance(error, (S2RobotError, *self.user_errors))
            return str(error) if says_it_all else traceback.format_exc(limit=-5)
        return None

    def _write(self, job: CellJob) -> None:
        documents = self.stages.rollouts(job.cell, job.episodes)
        films = self.stages.film(job.cell, job.films)
        write_results(self.output, job.cell, documents, films, self.stages.seconds)


def run_benchmark(
    config: BenchmarkConfig,
    collect: Collect,
    make_vector_env: MakeVectorEnv,
    num_envs: int,
    user_errors: tuple[type[Exception], ...] = (),
    grid: Grid | None = None,
) -> Path | None:
    """Run every cell that has not all its episodes yet, then write `results.parquet` and the report.

    A failing cell is recorded with its error and the rest go on; the next run tries it again.

    Args:
        config: benchmark settings.
        collect: records demonstrations, see `Collect`.
        make_vector_env: makes environments, see `s2robot.evaluation`.
        num_envs: number of parallel environments in one cell.
        user_errors: of `collect` and `make_vector_env`, see `Runner`.
        grid: result of `make_grid(config)`; None computes it here.

    Returns:
        The folder of the report (`report.md`, `report.html`, plots); None where only some `cells` were asked for.

    Raises:
        ConfigError: a setting is impossible, or the output holds another plan.
        ReportError: the plan in the output is damaged.
        S2RobotError: a cell failed; all else is done and written by then.
    """
    output = Path(config.output).resolve()
    grid = grid or make_grid(config)
    cells = grid.cells
    chosen = select_cells(config, cells)
    store_plan(config, grid)
    races = make_races(config, grid.contrasts, cells)
    with locked(output / PLAN_FILE):
        for cell in cells:
            set_aside_unplanned(output, cell, range(config.first_seed, config.first_seed + config.episodes))
    if races:  # from the start: a report half way through must know of it
        change_document(config, sequential=stopping_rule(config, races, []))
    runner = Runner(Stages(config, collect, make_vector_env, num_envs), output, user_errors)
    failed = _run_rounds(config, runner, races, chosen)
    _film(config, runner, grid.contrasts, chosen)
    _record_outcome(config, cells, races)
    report = finish(config, cells) if len(chosen) == len(cells) else None
    if failed:
        name, error = next(iter(failed.items()))
        rest = ""
        if report:
            print((report / "report.md").read_text(encoding="utf-8"))
            rest = f"the rest is reported in {report}; "
        raise S2RobotError(f"{len(failed)} of {len(chosen)} cells failed; {rest}the first error is of {name}: {error}")
    return report


def finish(config: BenchmarkConfig, cells: Sequence[Cell]) -> Path:
    """Write `results.parquet` and the report of the cells that have results.

    Raises:
        S2RobotError: no cell has.
    """
    output = Path(config.output).resolve()
    if all(read_results(output, cell) is None for cell in cells):
        raise S2RobotError(f"every cell of the benchmark failed; the first error: {read_error(output, cells[0])}")
    with locked(output / "report"):
        if write_parquet(output, cells) is None:
            needed = "it needs pyarrow (`pip install 's2robot[parquet]'`)"
            print(f"{PARQUET_FILE} is not written, because {needed}; install it and run again")
        return write_report([output], output / "report").parent


def _record_outcome(config: BenchmarkConfig, cells: Sequence[Cell], races: list[Race]) -> None:
    """Write into `benchmark.json` which cells failed and which races are decided."""
    output = Path(config.output).resolve()
    lacking = lacking_episodes(config, output, races, cells)
    for cell in cells:
        if cell.name not in lacking:  # its error is of an earlier run, or of one that was to give it more episodes
            drop_error(output, cell)
    errors = {cell.name: error for cell in cells if (error := read_error(output, cell)) is not None}
    changes: dict[str, Any] = {"failed": tuple(CellError(name, error) for name, error in errors.items())}
    if races:
        decided = [
            race.contrast.name
            for race in races
            if _has_results(output, race) and is_decided(config, output, races, race)
        ]
        changes["sequential"] = stopping_rule(config, races, decided)
    elif not lacking:  # amended to a fixed number, which all have: no result decided any more when rollouts ended
        changes["sequential"] = None
    change_document(config, **changes)


def lacking_episodes(config: BenchmarkConfig, output: Path, races: list[Race], cells: Sequence[Cell]) -> dict[str, int]:
    """Name → episodes it should have by now, of the cells that do not have them."""
    targets = next_episodes(config, output, races, cells)
    done = {cell.name: count_episodes(output, cell, config.first_seed) for cell in cells}
    return {name: target for name, target in targets.items() if done[name] < target}


def _run_rounds(config: BenchmarkConfig, runner: Runner, races: list[Race], cells: list[Cell]) -> dict[str, str]:
    """Run cells until each has the episodes it should have; sequential stopping takes several rounds.

    Returns:
        The errors of the cells that failed, by their names.
    """
    failed: dict[str, str] = {}
    for cell in cells:
        if (count := count_episodes(runner.output, cell, config.first_seed)) >= config.episodes:
            print(f"{cell.name}: already done, {count} episodes")
    while True:
        lacking = lacking_episodes(config, runner.output, races, cells)
        jobs = [CellJob(cell, lacking[cell.name]) for cell in cells if cell.name in lacking and cell.name not in failed]
        if not jobs:
            return failed
        failed |= _run_round(config, runner, jobs, total=len(cells))
        failed |= _without_results(config, runner, [job for job in jobs if job.cell.name not in failed])


def _without_results(config: BenchmarkConfig, runner: Runner, jobs: list[CellJob]) -> dict[str, str]:
    """Record an error for cells that ended without one and without their episodes: they would be run for ever.

    A worker with another version of an installed package gives the cell another name, and writes its results there.
    """
    failed = {}
    for job in jobs:
        if (count := count_episodes(runner.output, job.cell, config.first_seed)) < job.episodes:
            failed[job.cell.name] = (
                f"the run ended without an error, but has {count} of {job.episodes} episodes here; check that every "
                "worker has the same output folder and the same versions of the installed packages"
            )
            write_error(runner.output, job.cell, failed[job.cell.name])
    return failed


def _run_round(config: BenchmarkConfig, runner: Runner, jobs: list[CellJob], total: int) -> dict[str, str]:
    """Collect what is missing, then run the jobs; return the errors of the cells that failed, by name."""
    tasks = {demonstrations_key(job.cell.task): job.cell.task for job in jobs}
    for _ in run_jobs(config, runner.collect, list(tasks.values())):
        pass  # an error comes again, and is recorded, with the cells that need these demonstrations
    failed = {}
    with tqdm(total=total, initial=total - len(jobs), unit="cell", desc="cells") as bar:
        for job, error in run_jobs(config, runner.run, jobs):
            bar.update()
            if error:
                failed[job.cell.name] = error
                write_error(runner.output, job.cell, error)
            state = f"failed: {error.strip().splitlines()[-1]}" if error else "done"
            tqdm.write(f"{job.cell.name}: {state}")
    return failed


def _film(config: BenchmarkConfig, runner: Runner, contrasts: Sequence[PlannedContrast], cells: list[Cell]) -> None:
    """Film the initial states that divide the arms of each contrast; what cannot be filmed costs no result."""
    by_name = {cell.name: cell for cell in cells}
    jobs = []
    for name, seeds in choose_films(config, runner.output, contrasts, cells).items():
        document = read_results(runner.output, by_name[name]) or {}
        missing = set(seeds) - {video["seed"] for video in document["videos"]}
        if missing:
            jobs.append(CellJob(by_name[name], len(document["episode_results"]), tuple(sorted(missing))))
    for job, error in run_jobs(config, runner.film, jobs):
        if error:
            print(f"{job.cell.name} could not be filmed: {error.strip().splitlines()[-1]}")


def _has_results(output: Path, race: Race) -> bool:
    return all(read_results(output, cell) is not None for cell in race.cells)
