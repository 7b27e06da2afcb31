"""`make_vector_env`: how many processes, how they start, and how they share cores and memory."""

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
        task: as for `make_env`.
        num_envs: number of processes; None for one per core, as far as memory allows.
        start_method: `forkserver` (workers start in a fraction of a second) or `spawn`. Never `fork`: OpenGL
            contexts and threads do not survive it.
        on_failure: `raise` ends everything when a worker raises, dies or hangs; `replace` starts a new one and says so
            in `info["error"]`, see `ProcessVectorEnv`.
        timeout: seconds after which a worker counts as hung; None waits for ever.
        settings: as for `make_env`; the `ActionChunk` is always there, also for To = Ta = 1, the defaults.

    Returns:
        A `ProcessVectorEnv`.

    Raises:
        EnvConfigError: an impossible argument.
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
    """One environment per usable core, but no more than fit into four fifths of the available memory."""
    return max(1, min(len(os.sched_getaffinity(0)), int(0.8 * available_memory() / MEMORY_PER_ENVIRONMENT)))


def available_memory() -> float:
    """Bytes that processes can still take without swapping (Linux's MemAvailable)."""
    entries = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(entries["MemAvailable"].split()[0]) * 1024.0


def prepare_fork_server() -> None:
    """Have the fork server, where it is not running yet, load robosuite once for all workers."""
    # `__main__` first: workers import it anyway, and in the server that happens once instead of in each of them.
    multiprocessing.set_forkserver_preload(["__main__", "s2robot_envs.preload"])


def limit_worker_threads(num_workers: int) -> None:
    """Inside a worker process: share the cores, so that software OpenGL's threads do not fight each other."""
    if multiprocessing.parent_process() is not None:
        threads = len(os.sched_getaffinity(0)) // num_workers
        # Mesa's llvmpipe reads it with its first context; 0 draws in the calling thread, which beats one helper.
        os.environ.setdefault("LP_NUM_THREADS", str(threads if threads > 1 else 0))


def _make_in_worker(num_envs: int, task: str, **settings: Unpack[EnvSettings]) -> gymnasium.Env:
    limit_worker_threads(num_envs)
    return make_env(task, **settings)
