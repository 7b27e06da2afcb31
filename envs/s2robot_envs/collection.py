"""Record demonstrations of a scripted expert: one episode, or many in parallel processes but in a fixed order."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from s2robot_envs.errors import EnvConfigError, S2RobotEnvError, WorkerError
from s2robot_envs.factory import make_env
from s2robot_envs.pool import run_in_order
from s2robot_envs.tasks import TASKS

if TYPE_CHECKING:
    from s2robot_envs.base import ImageEnv
    from s2robot_envs.control import Expert

# Environment seeds below this are for collecting; evaluation seeds start here. So no policy is evaluated on an initial
# state that it was trained on.
FIRST_EVALUATION_SEED = 100_000
ATTEMPTS_PER_SEED = 10_000

HOPELESS_AFTER = 50  # attempts; an expert that solves fewer than one in 50 is assumed to be broken

# A recording ends when the task has stayed solved for this many further steps. So a policy learns to hold the solved
# state, and a momentary success does not count.
STEPS_AFTER_SUCCESS = 5


def collection_seed(seed: int, attempt: int) -> int:
    """Return the environment seed of one attempt: each collection seed (0-9) owns 10 000, all below 100 000.

    Raises:
        EnvConfigError: the seed or the attempt is out of range.
    """
    collections = FIRST_EVALUATION_SEED // ATTEMPTS_PER_SEED
    if not 0 <= seed < collections:
        raise EnvConfigError(f"collection seed is {seed}; choices: 0 to {collections - 1}")
    if not 0 <= attempt < ATTEMPTS_PER_SEED:
        raise EnvConfigError(f"collection seed {seed} has no more attempts after {ATTEMPTS_PER_SEED}; use another seed")
    return seed * ATTEMPTS_PER_SEED + attempt


def packages(task: str, expert: str | None = None) -> dict[str, str]:
    """Return the installed packages that provide task and expert, such as {"task MyLift": "my-package 1.2"}.

    This package is left out.

    Args:
        task: a task that has an expert.
        expert: the same as for `collect`; an expert given as `module:Name` has no package.

    Raises:
        EnvConfigError: the task has no expert.
    """
    from s2robot_envs.experts import EXPERTS, expert_name

    chosen = [(TASKS, task)] if expert is not None else [(TASKS, task), (EXPERTS, expert_name(task))]
    named = {f"{registry.kind} {name}": registry.provider(name) for registry, name in chosen}
    return {what: provider for what, provider in named.items() if provider is not None}


def collect_episode(env: ImageEnv, expert: Expert, seed: int, noise: float) -> dict[str, Any]:
    """Record one episode of an expert.

    Noise N(0, noise²) is added to the executed action, but the label is the expert's clean action for the current
    state. So the recording shows states off the expert's path, and how to return to it.
    The recording ends at the horizon, or once the task has stayed solved for `STEPS_AFTER_SUCCESS` further steps.

    Args:
        env: a plain environment, without `ActionChunk`.
        expert: the expert of the environment's task.
        seed: the environment's reset seed; the noise is derived from it too.
        noise: standard deviation of the noise, in action units.

    Returns:
        A dictionary whose arrays have one length T; observation t is the one before action t.

        - `actions`: the labels, float32 [T, A].
        - `executed_actions`: the actions with noise, float32 [T, A].
        - `rewards`: the reward after each action, float32 [T].
        - `images`: camera -> uint8 [T, H, W, 3].
        - `proprioception`: key -> float32 [T, d].
        - `states`: float64 [T, S], or None if the simulator gives none.
        - `model_file`: MJCF, or None.
        - `renderer`: OpenGL's renderer and version, or None.
        - `success`: whether the task is solved at the end.
        - `seed`: the seed.
    """
    env.reset_simulation(seed)
    expert.reset(env)
    rng = np.random.default_rng([seed, 1])
    columns: dict[str, list[Any]] = {"actions": [], "executed_actions": [], "rewards": [], "states": []}
    observations: list[dict[str, np.ndarray]] = []
    solved_for = 0  # consecutive steps at which the task was solved
    while env.steps_left and solved_for <= STEPS_AFTER_SUCCESS:
        action = expert.act()
        executed = np.clip(action + rng.normal(0.0, noise, action.shape), -1.0, 1.0).astype(np.float32)
        observations.append(env.observe())
        state = env.state()
        if state is not None:
            columns["states"].append(state)
        reward, _ = env.simulate(executed)
        columns["actions"].append(action)
        columns["executed_actions"].append(executed)
        columns["rewards"].append(np.float32(reward))
        solved_for = solved_for + 1 if env.info()["is_success"] else 0
    return {
        **{key: np.stack(values) if values else None for key, values in columns.items()},
        "images": {camera: np.stack([o[f"{camera}_image"] for o in observations]) for camera in env.image_sizes},
        "proprioception": {key: np.stack([o[key] for o in observations]) for key in env.proprioception},
        "model_file": env.model_xml(),
        "renderer": env.renderer_name,
        "success": env.info()["is_success"],
        "seed": seed,
    }


def collect(
    task: str,
    num: int,
    *,
    seed: int = 0,
    noise: float = 0.15,
    workers: int | None = None,
    first_attempt: int = 0,
    expert: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield `num` successful episodes of a task's expert, the same ones in the same order for any `workers`.

    On the same machine the episodes repeat bit for bit; on another machine they differ by rounding
    (docs/architecture.md). Attempt k runs on environment seed `collection_seed(seed, k)`. Failed attempts are dropped
    but counted. At most 2 × `workers` episodes are in memory besides the one that the caller holds.

    Args:
        task: a task that has an expert.
        num: number of successful episodes to yield.
        seed: seed of the collection, 0 to 9; collections with different seeds share no environment seed.
        noise: standard deviation of the noise in the executed action.
        workers: number of processes; None for one per core, 1 to stay in this process.
        first_attempt: attempt to start with; to continue an interrupted collection, give the `attempts` of its last
            episode.
        expert: an expert other than the task's own, as `module:Name`; see `make_expert`.
        env_kwargs: further arguments of `make_env`, JSON-able; see `EnvSettings`.

    Yields:
        `collect_episode`'s dictionary plus `attempts`, the number of attempts up to and including this episode.

    Raises:
        EnvConfigError: an argument is not valid, or no attempts are left.
        WorkerError: an attempt raised or its process was killed; the message names the seed.
        S2RobotEnvError: the expert fails so often that collecting makes no sense.
    """
    from s2robot_envs.experts import make_expert

    make_expert(task, expert)
    collection_seed(seed, first_attempt)
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    for name, value, lowest in (("num", num, 0), ("workers", workers, 1), ("noise", noise, 0.0)):
        if not value >= lowest:
            raise EnvConfigError(f"{name} is {value}; it must be at least {lowest}")
    job = _Job(task, seed, noise, json.dumps(dict(env_kwargs or {})), expert)
    attempts = range(first_attempt, ATTEMPTS_PER_SEED)
    if workers == 1:
        results: Generator[dict[str, Any] | None] = _record_here(job, attempts)
    else:
        results = _record_in_processes(job, attempts, workers)
    return _successes(job, results, num, first_attempt)


@dataclass(frozen=True)
class _Job:
    """The settings that all attempts of a collection share; sent to the workers."""

    task: str
    seed: int
    noise: float
    env_kwargs: str  # JSON
    expert: str | None

    def make(self) -> tuple[ImageEnv, Expert]:
        from s2robot_envs.experts import make_expert

        env = cast("ImageEnv", make_env(self.task, **json.loads(self.env_kwargs)))
        return env, make_expert(self.task, self.expert)

    def run(self, env: ImageEnv, expert: Expert, attempt: int) -> dict[str, Any] | None:
        """Record one attempt; return None for a failure, to save the transfer of its images between processes."""
        episode = collect_episode(env, expert, collection_seed(self.seed, attempt), self.noise)
        return episode if episode["success"] else None


def _successes(
    job: _Job, results: Generator[dict[str, Any] | None], num: int, first_attempt: int
) -> Iterator[dict[str, Any]]:
    kept = 0
    with contextlib.closing(results):
        for tried, episode in enumerate(results, start=1) if num > 0 else ():
            if episode is not None:
                kept += 1
                yield {**episode, "attempts": first_attempt + tried}
            if kept == num:
                return
            if tried >= HOPELESS_AFTER and kept < tried / HOPELESS_AFTER:
                raise S2RobotEnvError(
                    f"the {job.task} expert solved {kept} of {tried} attempts with noise={job.noise}; "
                    "lower the noise, or check the expert"
                )
    if kept < num:
        raise EnvConfigError(
            f"collection seed {job.seed} ran out of attempts after {kept} of {num} episodes; use another seed"
        )


def _record_here(job: _Job, attempts: range) -> Generator[dict[str, Any] | None]:
    env, expert = job.make()
    try:
        for attempt in attempts:
            with _naming_seed(job, attempt):
                episode = job.run(env, expert, attempt)
            yield episode
    finally:
        env.close()


def _record_in_processes(job: _Job, attempts: range, workers: int) -> Generator[dict[str, Any] | None]:
    with contextlib.closing(run_in_order(_run_in_worker, job, attempts, workers)) as results:
        for attempt, future in results:
            with _naming_seed(job, attempt):
                episode = future.result()
            yield episode


@contextlib.contextmanager
def _naming_seed(job: _Job, attempt: int) -> Iterator[None]:
    where = f"collecting {job.task} on environment seed {collection_seed(job.seed, attempt)}"
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerError(f"a worker process was killed (out of memory?) while {where} or a seed near it") from error
    except Exception as error:
        raise WorkerError(f"{where} failed with {type(error).__name__}: {error}") from error


@functools.cache
def _worker_resources(job: _Job) -> tuple[ImageEnv, Expert]:
    return job.make()  # a worker serves one job, so one environment serves all its attempts


def _run_in_worker(job: _Job, attempt: int) -> dict[str, Any] | None:
    env, expert = _worker_resources(job)
    return job.run(env, expert, attempt)
