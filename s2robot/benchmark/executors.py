"""Where jobs run: one after the other in this process, or on a Ray cluster.

Both promise the same: every job is run until it returns, and its outcome is in files, so that nothing is lost or
counted twice when a worker dies. On SLURM each job is a process of its own, see `s2robot.cli.cells`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from s2robot.config import BenchmarkConfig
from s2robot.system.extras import import_extra

Job = TypeVar("Job")


def run_jobs(
    config: BenchmarkConfig, run: Callable[[Job], str | None], jobs: Sequence[Job]
) -> Iterator[tuple[Job, str | None]]:
    """Run every job and yield each with its error (None for success) as it ends.

    `run` must catch what the job itself does wrong; on Ray it is pickled to the workers.

    Raises:
        MissingLibraryError: engine=ray without Ray.
    """
    if config.engine == "ray":
        yield from _run_on_ray(config, run, jobs)
    else:
        for job in jobs:
            yield job, run(job)


def _run_on_ray(
    config: BenchmarkConfig, run: Callable[[Job], str | None], jobs: Sequence[Job]
) -> Iterator[tuple[Job, str | None]]:
    ray = import_extra("ray", "ray")
    if not ray.is_initialized():
        ray.init()  # RAY_ADDRESS, a cluster that `ray start` made on this machine, or a new one here
    # A worker that dies takes no result with it: its job starts again, elsewhere, and goes on where the files end.
    # Errors of the job itself never reach Ray.
    settings = {"num_cpus": config.ray_cpus, "num_gpus": _gpus(config, ray), "max_retries": config.retries}

    @ray.remote(**settings)
    def run_job(job: Job) -> str | None:
        return run(job)

    pending = {run_job.remote(job): job for job in jobs}
    while pending:
        (done,), _ = ray.wait(list(pending), num_returns=1)
        job = pending.pop(done)
        try:
            error = ray.get(done)
        except ray.exceptions.RayError as failure:
            error = f"Ray gave up after {config.retries} retries: {type(failure).__name__}: {failure}"
        yield job, error


def _gpus(config: BenchmarkConfig, ray: Any) -> float:
    if config.ray_gpus is not None:
        return config.ray_gpus
    if config.device == "auto":
        return 1.0 if ray.cluster_resources().get("GPU") else 0.0
    return 1.0 if config.device.startswith("cuda") else 0.0
