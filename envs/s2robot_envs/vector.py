"""Vector environments: one process each, shared memory, and failures that name the environment and its seed."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState

from s2robot_envs.errors import ActionError, EnvConfigError, WorkerError
from s2robot_envs.factory import make_env
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
    observation_steps: int = 1,
    action_steps: int = 1,
    start_method: str = "forkserver",
) -> ProcessVectorEnv:
    """Make `num_envs` copies of an environment, each in its own process, each wrapped in `ActionChunk`.

    Scripts that call this need the usual `if __name__ == "__main__":` guard of `multiprocessing`.

    Args:
        task: a key of `s2robot_envs.TASKS`.
        num_envs: number of processes; None for one per core, as far as memory allows.
        cameras: as for `make_env`, like the next four.
        image_size: pixels per side.
        render_profile: `fast` or `full`.
        horizon: steps until truncation.
        variant: as for `make_env`.
        observation_steps: To of the `ActionChunk`, which is always there, also for To = Ta = 1.
        action_steps: Ta.
        start_method: `forkserver` (workers start in a fraction of a second) or `spawn`. Never `fork`: OpenGL
            contexts and threads do not survive it.

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
        observation_steps=observation_steps,
        action_steps=action_steps,
    )
    prepare_fork_server()
    return ProcessVectorEnv([factory] * num_envs, start_method)


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


class ProcessVectorEnv(AsyncVectorEnv):
    """`AsyncVectorEnv` without autoreset: the caller decides when each environment starts which seed.

    `reset(seed=[...], options={"reset_mask": mask})` resets where the bool [N] mask is True; entries of `seed`
    elsewhere are ignored and may be None. Environments whose episode is over idle (see `ActionChunk`). Entries of
    `info` are arrays [N]; `info["frames"]`, present when recording, is an object array of uint8 [n, H, W, 3], None
    where an environment recorded nothing.

    Raises (from every method):
        ActionError: actions of the wrong shape or with NaN; nothing was executed.
        WorkerError: a worker raised or was killed; names its index and seed. The vector environment is closed.
    """

    def __init__(self, factories: Sequence[Any], start_method: str) -> None:
        self._seeds: list[int | None] = [None] * len(factories)
        super().__init__(factories, context=start_method, autoreset_mode=AutoresetMode.DISABLED)

    def reset_async(self, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None) -> None:
        """As in gymnasium; the caller's `options` is left as it was."""
        options = None if options is None else dict(options)
        mask = np.ones(self.num_envs, bool) if options is None else options.get("reset_mask", np.ones(self.num_envs))
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is not None and len(seeds) == self.num_envs:
            self._seeds = [new if reset else old for new, old, reset in zip(seeds, self._seeds, mask, strict=True)]
        with self._naming_failures():
            super().reset_async(seed, options)

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """As in gymnasium."""
        with self._naming_failures():
            return super().reset_wait(timeout)

    def step_async(self, actions: np.ndarray) -> None:
        """As in gymnasium, after checking the actions [N, Ta, A]."""
        array = np.asarray(actions)
        if array.shape != self.action_space.shape:
            raise ActionError(f"actions have shape {array.shape}; expected {self.action_space.shape} (N, Ta, A)")
        finite = np.isfinite(array).all(axis=(1, 2))
        if not finite.all():
            index = int(np.argmin(finite))
            raise ActionError(f"the actions for environment {index} (seed {self._seeds[index]}) hold NaN or infinity")
        with self._naming_failures():
            super().step_async(actions)

    def step_wait(self, timeout: float | None = None) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As in gymnasium."""
        with self._naming_failures():
            return super().step_wait(timeout)

    def call_async(self, name: str, /, *args: object, **kwargs: object) -> None:
        """As in gymnasium."""
        with self._naming_failures():
            super().call_async(name, *args, **kwargs)

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """As in gymnasium."""
        with self._naming_failures():
            return super().call_wait(timeout)

    def _check_spaces(self) -> None:
        with self._naming_failures():
            super()._check_spaces()

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        # gymnasium assumes that arrays of all environments have one shape; recordings differ in length.
        env_info = dict(env_info)
        frames = env_info.pop("frames", None)
        vector_infos = super()._add_info(vector_infos, env_info, env_num)
        if frames is not None:
            vector_infos.setdefault("frames", np.full(self.num_envs, None, dtype=object))[env_num] = frames
        return vector_infos

    @contextlib.contextmanager
    def _naming_failures(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:  # a pipe broke: some process is gone
            reason = self._describe_dead_workers()
            self._shut_down()
            raise WorkerError(reason) from error
        except Exception as error:
            # gymnasium re-raises a worker's exception after dropping that worker's pipe
            raised = [index for index, pipe in enumerate(self.parent_pipes) if pipe is None]
            if not raised:
                raise
            self._shut_down()
            index = raised[-1]
            kind = type(error).__name__
            raise WorkerError(f"environment {index} (seed {self._seeds[index]}) raised {kind}: {error}") from error

    def _describe_dead_workers(self) -> str:
        dead = []
        for index, process in enumerate(self.processes):
            process.join(timeout=0.2)  # a pipe closes a moment before its process is reaped
            if process.exitcode is not None:
                dead.append(f"environment {index} (seed {self._seeds[index]}) died with exit code {process.exitcode}")
        hint = "-9 usually means that the machine ran out of memory: use fewer environments or smaller images"
        return f"{'; '.join(dead) or 'a worker closed its connection'} ({hint})"

    def _shut_down(self) -> None:
        self._state = AsyncState.DEFAULT  # else gymnasium waits for the call that failed
        self.close(terminate=True)
