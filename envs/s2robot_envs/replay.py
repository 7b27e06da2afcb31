"""Recorded simulator states shown again: the observations of a recording at any size, from any camera."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from s2robot_envs.errors import EnvConfigError, WorkerError
from s2robot_envs.factory import make_env
from s2robot_envs.pool import run_in_order

if TYPE_CHECKING:
    from s2robot_envs.robosuite_env import RobosuiteEnv

Replayed = dict[str, Any]


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode to replay.

    Attributes:
        name: what errors call it.
        states: flattened simulator states, float64 [T, S].
        seed: the reset seed that sets the scene up again, where `RobosuiteEnv` made the recording.
        model_file: else the recorded scene itself, MJCF; robosuite's meshes and textures are found again.
    """

    name: str
    states: np.ndarray
    seed: int | None = None
    model_file: str | None = None


def replay_episode(env: RobosuiteEnv, recording: RecordedEpisode) -> Replayed:
    """Observe every recorded state.

    Returns:
        `images` camera -> uint8 [T, H, W, 3]; `proprioception` key -> float32 [T, d]; `renderer`, what drew them, or
        None without images.

    Raises:
        EnvConfigError: the recording has neither seed nor model, or its model or states do not fit the task.
    """
    if recording.seed is not None:
        env.reset_simulation(recording.seed)
    elif recording.model_file is not None:
        load_model(env, recording.model_file)
    else:
        raise EnvConfigError(f"{recording.name} has neither a seed nor a model_file, so its scene cannot be recreated")
    observations = []
    for state in recording.states:
        env.set_state(state)
        observations.append(env.observe())
    return {
        "images": {camera: np.stack([o[f"{camera}_image"] for o in observations]) for camera in env.image_sizes},
        "proprioception": {key: np.stack([o[key] for o in observations]) for key in env.proprioception},
        "renderer": env.renderer_name,
    }


def load_model(env: RobosuiteEnv, model_file: str) -> None:
    """Put a recorded scene in place of the environment's own.

    Raises:
        EnvConfigError: the model cannot be loaded, or is not one of this task and robot.
    """
    simulator = env.simulator
    model_file = as_robosuite_1_5(model_file)
    env.close_renderer()  # it draws the model that is about to go
    try:
        simulator.reset_from_xml_string(simulator.edit_model_xml(model_file))
    except Exception as error:  # XML, MuJoCo and robosuite each raise their own
        raise EnvConfigError(
            f"the recorded model_file is not a {env.task.name} scene that this robosuite can load "
            f"({type(error).__name__}: {error})"
        ) from error


def as_robosuite_1_5(model_file: str) -> str:
    """A scene recorded by robosuite 1.4 under the names that 1.5 gives its parts; newer scenes as they are."""
    if "fixed_mount0_base" in model_file:
        return model_file
    # Quoted names only: `gripper0_right_gripper` is 1.4's own and becomes `gripper0_right_right_gripper`.
    renamed = re.sub(r'"gripper(\d)_', r'"gripper\1_right_', model_file)
    renamed = re.sub(r'"mount(\d)_', r'"fixed_mount\1_', renamed)
    root = ElementTree.fromstring(renamed.replace("/assets/mounts/", "/assets/bases/"))
    for body in root.iter("body"):
        # The frame of the arm's commands, new in 1.5: replaying does not move the arm, so its place is irrelevant.
        if re.fullmatch(r"robot\d_base", body.get("name", "")):
            ElementTree.SubElement(body, "site", name=body.get("name", "").replace("base", "right_center"))
    return ElementTree.tostring(root, encoding="unicode")


def replay(
    env_kwargs: Mapping[str, Any], recordings: Iterable[RecordedEpisode], *, workers: int | None = None
) -> Iterator[Replayed]:
    """Replay recordings in parallel processes; the results come in the recordings' order.

    At most 2 × `workers` recordings and results are in memory, and `recordings` is read no faster than that.

    Args:
        env_kwargs: arguments of `make_env`: `task`, and those of `EnvSettings`; JSON-able.
        recordings: what to replay.
        workers: processes; None for one per core, 1 to stay in this process.

    Yields:
        `replay_episode`'s dictionary for each recording.

    Raises:
        EnvConfigError: impossible arguments, or a recording that does not fit the task.
        WorkerError: a worker raised or was killed; names the recording.
    """
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1:
        raise EnvConfigError(f"workers is {workers}; it must be at least 1")
    settings = json.dumps(dict(env_kwargs))
    if workers == 1:
        return _replay_here(settings, recordings)
    return _replay_in_processes(settings, recordings, workers)


def _make(settings: str) -> RobosuiteEnv:
    return cast("RobosuiteEnv", make_env(**json.loads(settings)))


def _replay_here(settings: str, recordings: Iterable[RecordedEpisode]) -> Generator[Replayed]:
    with contextlib.closing(_make(settings)) as env:
        for recording in recordings:
            with _naming(recording.name):
                result = replay_episode(env, recording)
            yield result


def _replay_in_processes(settings: str, recordings: Iterable[RecordedEpisode], workers: int) -> Generator[Replayed]:
    with contextlib.closing(run_in_order(_replay_in_worker, settings, recordings, workers)) as results:
        for recording, future in results:
            with _naming(recording.name):
                result = future.result()
            yield result


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerError(
            f"a worker process was killed (out of memory?) while replaying {name} or an episode near it; "
            "use fewer workers"
        ) from error
    except EnvConfigError as error:
        raise EnvConfigError(f"replaying {name}: {error}") from error
    except Exception as error:
        raise WorkerError(f"replaying {name} failed with {type(error).__name__}: {error}") from error


@functools.cache
def _worker_env(settings: str) -> RobosuiteEnv:
    return _make(settings)  # a worker serves one replay: one environment for all its recordings


def _replay_in_worker(settings: str, recording: RecordedEpisode) -> Replayed:
    return replay_episode(_worker_env(settings), recording)
