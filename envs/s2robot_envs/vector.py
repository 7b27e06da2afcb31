"""`make_vector_env`: choose the number of processes, start them, and divide cores and memory among them."""

from __future__ import annotations

import functools
import multiprocessing
import os
from pathlib import Path
from typing import Unpack

import gymnasium

from s2robot_envs.errors import EnvConfigError
from s2robot_envs.factory import make_env
from s2robot_envs.processes import ProcessVectorEnv
from s2robot_envs.settings import EnvSettings, check_names

START_METHODS = ("forkserver", "spawn")
MEMORY_PER_ENVIRONMENT = 1e9  # bytes: 0.7e9 measured for Lift, 1.0e9 for TwoArmTransport, at 448 pixels


def make_vector_env(
    task: str,
    num_envs: int | None = None,
    *,
    start_method: str = "forkserver",
    on_failure: str = "raise",
    timeout: float | None = None,
    **settings: Unpack[EnvSettings],
) -> ProcessVectorEnv:
    """Make `num_envs` copies of an environment, each in its own process, each wrapped in `ActionChunk`.

    Scripts that call this need the usual `if __name__ == "__main__":` guard of `multiprocessing`.

    Args:
        task: the same as for `make_env`.
        num_envs: number of environments, each in its own process; None for one per core, or fewer if memory is short.
        start_method: `forkserver` (workers start in a fraction of a second) or `spawn`. `fork` is not offered, because
            OpenGL contexts and threads do not survive it.
        on_failure: `raise` closes everything when a worker raises, dies or hangs; `replace` starts a new worker and
            reports the failure in `info["error"]`, see `ProcessVectorEnv`.
        timeout: seconds after which a worker counts as hung; None waits forever.
        settings: the same as for `make_env`, but there is always an `ActionChunk`, even with To = Ta = 1, the defaults.

    Returns:
        A `ProcessVectorEnv`.

    Raises:
        EnvConfigError: an argument is not valid.
        WorkerError: a process died while starting.
    """
    check_names(settings, ("num_envs", "start_method", "on_failure", "timeout"))
    num_envs = default_num_envs() if num_envs is None else num_envs
    if not isinstance(num_envs, int) or num_envs < 1:
        raise EnvConfigError(f"num_envs is {num_envs!r}; it must be a whole number of at least 1")
    if start_method not in START_METHODS:
        raise EnvConfigError(f"start_method is {start_method!r}; choices: {', '.join(START_METHODS)}")
    chunked: EnvSettings = {"observation_steps": 1, "action_steps": 1, **settings}
    factory = functools.partial(_make_in_worker, num_envs, task, **chunked)
    prepare_fork_server()
    return ProcessVectorEnv([factory] * num_envs, start_method, on_failure, timeout)


def default_num_envs() -> int:
    """Return one environment per usable core, or fewer if they do not fit into four fifths of the available memory."""
    return max(1, min(len(os.sched_getaffinity(0)), int(0.8 * available_memory() / MEMORY_PER_ENVIRONMENT)))


def available_memory() -> float:
    """Return the bytes that processes can still use without swapping (Linux's MemAvailable)."""
    entries = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(entries["MemAvailable"].split()[0]) * 1024.0


def prepare_fork_server() -> None:
    """Make the fork server load robosuite once for all workers; has no effect if the server is already running."""
    # Workers import `__main__` anyway; in the server it is imported once instead of once per worker.
    multiprocessing.set_forkserver_preload(["__main__", "s2robot_envs.preload"])


def limit_worker_threads(num_workers: int) -> None:
    """In a worker process, limit software OpenGL to the worker's share of the cores; elsewhere do nothing."""
    if multiprocessing.parent_process() is not None:
        threads = len(os.sched_getaffinity(0)) // num_workers
        # Mesa's llvmpipe reads this when its first context is made. 0 renders in the calling thread, which is faster
        # than one helper thread.
        os.environ.setdefault("LP_NUM_THREADS", str(threads if threads > 1 else 0))


def _make_in_worker(num_envs: int, task: str, **settings: Unpack[EnvSettings]) -> gymnasium.Env:
    limit_worker_threads(num_envs)
    return make_env(task, **settings)
