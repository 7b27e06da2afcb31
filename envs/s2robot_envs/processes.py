"""A vector environment with one process per environment, which can replace a process that dies, raises or hangs."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import (
    CloudpickleWrapper,
    batch_space,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

from s2robot_envs.errors import ActionError, EnvConfigError, WorkerError, unknown_name

ON_FAILURE = ("raise", "replace")
_STARTING = 120.0  # seconds that a new process gets for its first answer, even if `timeout` is shorter
_CLOSING = 5.0  # seconds that a worker gets to close its simulator before it is killed
_REAPING = 30.0  # longest wait in seconds for a process to end after its pipe has closed; a busy system is slow at it

MakeEnv = Callable[[], gymnasium.Env]


class RecordingInfos(VectorEnv):
    """Let recordings in `info["frames"]` differ in length; gymnasium assumes one shape for all environments."""

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        env_info = dict(env_info)
        frames = env_info.pop("frames", None)
        vector_infos = super()._add_info(vector_infos, env_info, env_num)
        if frames is not None:
            vector_infos.setdefault("frames", np.full(self.num_envs, None, dtype=object))[env_num] = frames
        return vector_infos


class ProcessVectorEnv(RecordingInfos):
    """Environments in separate processes, with observations in shared memory and without autoreset.

    - **Resets**: the caller decides when each environment starts which seed. `reset(seed=[...], options={"reset_mask":
      mask})` resets the environments whose entry of the bool mask [N] is True; other entries of `seed` are ignored and
      may be None. Environments whose episode is over idle (see `ActionChunk`).
    - **Info**: entries of `info` are arrays [N]. While recording, `info["frames"]` is an object array of uint8
      [n, H, W, 3]; an entry is None if that environment recorded nothing.
    - **Failures**: a worker fails when it raises, dies, or does not answer within `timeout`. With `on_failure="raise"`,
      everything is closed and a `WorkerError` is raised. With `"replace"`, the worker is killed and replaced by a new
      one, which idles until it is reset. If any worker failed in a call, `info["error"]` is an object array with the
      reason for each failed environment, whose observation and other entries of `info` are then meaningless. The other
      environments are not affected.

    Args:
        factories: functions that make one environment each; they must be picklable.
        start_method: `forkserver` or `spawn`.
        on_failure: `raise` or `replace`.
        timeout: seconds to wait for an answer; a new process gets at least 120 for its first answer. None waits
            forever.

    Raises:
        EnvConfigError: `on_failure` is unknown, or `timeout` is not positive.
        WorkerError: a worker failed while starting, or later with `on_failure="raise"`; the message names its index and
            seed.
        ActionError: `step` got actions of the wrong shape or with NaN; no action was executed.
    """

    def __init__(
        self,
        factories: Sequence[MakeEnv],
        start_method: str,
        on_failure: str = "raise",
        timeout: float | None = None,
    ) -> None:
        self._workers: list[_Worker] = []
        if on_failure not in ON_FAILURE:
            raise EnvConfigError(unknown_name("on_failure", on_failure, ON_FAILURE))
        if timeout is not None and not timeout > 0:
            raise EnvConfigError(f"timeout is {timeout!r}; it must be a positive number of seconds, or None")
        self.num_envs = len(factories)
        self._factories = factories
        self._context = multiprocessing.get_context(start_method)
        self._on_failure = on_failure
        self._timeout = timeout
        self._seeds: list[int | None] = [None] * self.num_envs
        self._idle: set[int] = set()  # replaced workers that have not been reset yet

        model = factories[0]()
        self.metadata = {**model.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.render_mode = model.render_mode
        self.single_observation_space = model.observation_space
        self.single_action_space = model.action_space
        model.close()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        # gymnasium's type hint requires the module `multiprocessing`, but a context has all that is used of it.
        self._memory = create_shared_memory(self.single_observation_space, self.num_envs, self._context)  # type: ignore[arg-type]
        self._observations = read_from_shared_memory(self.single_observation_space, self._memory, self.num_envs)
        self._workers = [self._start_worker(index) for index in range(self.num_envs)]
        _, failures = self._exchange(dict.fromkeys(range(self.num_envs), ("ready", None)))
        if failures:
            self._fail(failures)

    @property
    def processes(self) -> list[BaseProcess]:
        """The current worker processes."""
        return [worker.process for worker in self._workers]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes, see the class; the caller's `options` is not changed."""
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)))
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed or [None] * self.num_envs
        if len(seeds) != self.num_envs or mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise EnvConfigError(
                f"reset needs {self.num_envs} seeds and a bool reset_mask of the same length with at least one True; "
                f"got {len(seeds)} seeds and a reset_mask {mask.dtype} {mask.shape}"
            )
        chosen = [int(index) for index in np.flatnonzero(mask)]
        for index in chosen:
            self._seeds[index] = seeds[index]
        self._idle.difference_update(chosen)
        answers, failures = self._exchange({i: ("reset", {"seed": seeds[i], "options": options}) for i in chosen})
        infos = self._infos(answers, failures)
        return deepcopy(self._observations), infos

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Execute the action chunks [N, Ta, A], all environments at the same time."""
        array = np.asarray(actions)
        if array.shape != self.action_space.shape:
            raise ActionError(f"actions have shape {array.shape}; expected {self.action_space.shape} (N, Ta, A)")
        finite = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        if not finite.all():
            index = int(np.argmin(finite))
            raise ActionError(f"the actions for environment {index} (seed {self._seeds[index]}) hold NaN or infinity")
        running = [index for index in range(self.num_envs) if index not in self._idle]
        answers, failures = self._exchange({index: ("step", array[index]) for index in running})
        outcomes = {"reward": np.zeros(self.num_envs), **{key: np.zeros(self.num_envs, bool) for key in ("end", "cut")}}
        for index, (reward, terminated, truncated, _) in answers.items():
            outcomes["reward"][index], outcomes["end"][index], outcomes["cut"][index] = reward, terminated, truncated
        infos = self._infos({index: answer[-1] for index, answer in answers.items()}, failures)
        return deepcopy(self._observations), outcomes["reward"], outcomes["end"], outcomes["cut"], infos

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method, or read an attribute, of every environment.

        Raises:
            WorkerError: an environment failed; raised with any `on_failure`, because there is no answer to return.
        """
        answers, failures = self._exchange(dict.fromkeys(range(self.num_envs), ("call", (name, args, kwargs))))
        if failures:
            self._fail(failures)
        return tuple(answers[index] for index in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Close the simulators; a worker that does not do so within seconds is killed."""
        for worker in self._workers:
            worker.send(("close", None))
        deadline = time.monotonic() + _CLOSING
        for worker in self._workers:
            worker.stop(max(0.0, deadline - time.monotonic()))

    def _start_worker(self, index: int) -> _Worker:
        return _Worker(self._context, index, self._factories[index], self._memory)

    def _exchange(self, commands: Mapping[int, tuple[str, Any]]) -> tuple[dict[int, Any], dict[int, str]]:
        """Send commands and wait for all answers; return the answers and the reasons of failures, by index."""
        if self.closed:
            raise WorkerError("this vector environment is closed")
        for index, command in commands.items():
            self._workers[index].send(command)
        start = time.monotonic()
        answers, failures = {}, {}
        for index in commands:
            try:
                answers[index] = self._workers[index].receive(start, self._timeout)
            except _WorkerFailedError as error:
                failures[index] = str(error)
        named = {i: f"environment {i} (seed {self._seeds[i]}) {reason}" for i, reason in failures.items()}
        if failures and self._on_failure == "raise":
            self._fail(named)
        return answers, named

    def _infos(self, answers: Mapping[int, dict[str, Any]], failures: Mapping[int, str]) -> dict[str, Any]:
        """Return the infos [N] of the environments that answered, and replace failed workers."""
        infos: dict[str, Any] = {}
        for index, info in answers.items():
            infos = self._add_info(infos, info, index)
        for index, reason in failures.items():
            infos.setdefault("error", np.full(self.num_envs, None, dtype=object))[index] = reason
            self._workers[index].stop(0)
            self._workers[index] = self._start_worker(index)
            self._idle.add(index)
        return infos

    def _fail(self, failures: Mapping[int, str]) -> None:
        for worker in self._workers:
            worker.stop(0)
        self.close()
        raise WorkerError("; ".join(failures.values()))


class _WorkerFailedError(Exception):
    """A worker did not answer; the message says what it raised or how it died."""


class _Worker:
    """One process and the pipe to it. `send` never fails; a failure shows in `receive`."""

    def __init__(self, context: BaseContext, index: int, factory: MakeEnv, memory: Any) -> None:
        self._pipe, far_end = context.Pipe()
        arguments = (index, CloudpickleWrapper(factory), far_end, memory)
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]  # every context has it
            target=_serve, args=arguments, daemon=True, name=f"environment-{index}"
        )
        self.process.start()
        self._answered = False
        far_end.close()  # so that the pipe breaks when the process dies

    def send(self, command: tuple[str, Any]) -> None:
        try:
            self._pipe.send(command)
        except OSError:  # the process ended; the error that it sent last may still be in the pipe for `receive`
            return

    def receive(self, asked: float, timeout: float | None) -> Any:
        """Wait for the answer to the command that was sent at time `asked`."""
        if timeout is not None:
            timeout = timeout if self._answered else max(timeout, _STARTING)
            if not self._pipe.poll(max(0.0, asked + timeout - time.monotonic())):
                raise _WorkerFailedError(f"did not answer within {timeout:g} s")
        try:
            succeeded, value = self._pipe.recv()
        except (EOFError, OSError):
            self.process.join(timeout=_REAPING)  # the pipe closes a moment before the process has its exit code
            hint = "; -9 usually means that the machine ran out of memory: use fewer environments or smaller images"
            code = self.process.exitcode
            raise _WorkerFailedError(f"died with exit code {code}{hint if code == -9 else ''}") from None
        if not succeeded:
            raise _WorkerFailedError(f"raised {value}")
        self._answered = True
        return value

    def stop(self, patience: float) -> None:
        """Give the process `patience` seconds to end, then kill it, even if it is stopped (SIGSTOP)."""
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._pipe.close()


def _serve(index: int, factory: MakeEnv, pipe: Connection, memory: Any) -> None:
    """Run a worker process: make the environment and answer commands until one fails."""
    env = None
    try:
        env = factory()
        while True:
            command, data = pipe.recv()
            if command == "close":
                break
            pipe.send((True, _answer(env, command, data, index, memory)))
    except (KeyboardInterrupt, EOFError, ConnectionError):  # the main process is ending or has ended
        pass
    except Exception as error:
        traceback.print_exc()
        pipe.send((False, f"{type(error).__name__}: {error}"))
    finally:
        if env is not None:
            env.close()


def _answer(env: gymnasium.Env, command: str, data: Any, index: int, memory: Any) -> Any:
    match command:
        case "ready":
            return None
        case "reset":
            observation, info = env.reset(**data)
            write_to_shared_memory(env.observation_space, index, observation, memory)
            return info
        case "step":
            observation, *rest = env.step(data)
            write_to_shared_memory(env.observation_space, index, observation, memory)
            return rest
        case _:
            name, args, kwargs = data
            attribute = getattr(env, name) if hasattr(env, name) else env.get_wrapper_attr(name)
            return attribute(*args, **kwargs) if callable(attribute) else attribute
