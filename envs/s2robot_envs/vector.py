"""`make_vector_env`: how many processes, how they start, and how they share cores and memory."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium

from s2robot_envs.errors import EnvConfigError
from s2robot_envs.factory import make_env
from s2robot_envs.processes import ProcessVectorEnv
from s2robot_envs.variants import Variant

START_METHODS = ("forkserver", "spawn")
MEMORY_PER_ENVIRONMENT = 1e9  # bytes: 0.7e9 measured for Lift, 1.0e9 for TwoArmTransport, at 448 pixels


def make_vector_env(
    task: str,
    num_envs: int | None = None,
    *,
    cameras: Sequence[str] | None = None,
    image_size: int | Mapping[str, int | Sequence[int]] = 448,
    render_profile: str = "fast",
    horizon: int | None = None,
    variant: Variant | Mapping[str, Any] | None = None,
    gym: Mapping[str, Any] | None = None,
    observation_steps: int = 1,
    action_steps: int = 1,
    start_method: str = "forkserver",
    on_failure: str = "raise",
    timeout: float | None = None,
) -> ProcessVectorEnv:
    """Make `num_envs` copies of an environment, each in its own process, each wrapped in `ActionChunk`.

    Scripts that call this need the usual `if __name__ == "__main__":` guard of `multiprocessing`.

    Args:
        task: as for `make_env`.
        num_envs: number of processes; None for one per core, as far as memory allows.
        cameras: as for `make_env`, like the next five.
        image_size: pixels per side.
        render_profile: `fast` or `full`.
        horizon: steps until truncation.
        variant: as for `make_env`.
        gym: as for `make_env`.
        observation_steps: To of the `ActionChunk`, which is always there, also for To = Ta = 1.
        action_steps: Ta.
        start_method: `forkserver` (workers start in a fraction of a second) or `spawn`. Never `fork`: OpenGL
            contexts and threads do not survive it.
        on_failure: `raise` ends everything when a worker raises, dies or hangs; `replace` starts a new one and says so
            in `info["error"]`, see `ProcessVectorEnv`.
        timeout: seconds after which a worker counts as hung; None waits for ever.

    Returns:
        A `ProcessVectorEnv`.

    Raises:
        EnvConfigError: an impossible argument.
        WorkerError: a process died while starting.
    """
    num_envs = default_num_envs() if num_envs is None else num_envs
    if not isinstance(num_envs, int) or num_envs < 1:
        raise EnvConfigError(f"num_envs is {num_envs!r}; it must be a whole number of at least 1")
    if start_method not in START_METHODS:
        raise EnvConfigError(f"start_method is {start_method!r}; choices: {', '.join(START_METHODS)}")
    factory = functools.partial(
        _make_in_worker,
        num_envs,
        task,
        cameras=cameras,
        image_size=image_size,
        render_profile=render_profile,
        horizon=horizon,
        variant=variant,
        gym=gym,
        observation_steps=observation_steps,
        action_steps=action_steps,
    )
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


def _make_in_worker(num_envs: int, task: str, **kwargs: Any) -> gymnasium.Env:
    limit_worker_threads(num_envs)
    return make_env(task, **kwargs)
