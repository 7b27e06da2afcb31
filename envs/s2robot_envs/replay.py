"""Replay recorded simulator states: the observations of a recording at any size, from any camera."""

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

from s2robot_envs.absolute import absolute_action, require_increments
from s2robot_envs.errors import EnvConfigError, WorkerError
from s2robot_envs.factory import make_env
from s2robot_envs.libero_env import LiberoEnv
from s2robot_envs.pool import run_in_order

if TYPE_CHECKING:
    from s2robot_envs.robosuite_env import RobosuiteEnv

Replayed = dict[str, Any]


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode to replay.

    Attributes:
        name: name of the episode in error texts.
        states: flattened simulator states, float64 [T, S].
        seed: reset seed that recreates the scene, if `RobosuiteEnv` made the recording.
        model_file: the recorded scene (MJCF), needed if there is no seed; the paths of robosuite's meshes and textures
            are adapted to this machine.
        actions: actions [T, A] whose absolute poses are wanted too; None = they are not.
    """

    name: str
    states: np.ndarray
    seed: int | None = None
    model_file: str | None = None
    actions: np.ndarray | None = None


def replay_episode(env: RobosuiteEnv | LiberoEnv, recording: RecordedEpisode) -> Replayed:
    """Observe every recorded state.

    Returns:
        `images`: camera -> uint8 [T, H, W, 3]; `proprioception`: key -> float32 [T, d]; `renderer`: OpenGL's renderer
        and version, or None without images; `actions_abs` float64 [T, A] if the recording has actions.

    Raises:
        EnvConfigError: the recording has neither seed nor model, or its model or states do not fit the task.
    """
    if recording.seed is not None:
        env.reset_simulation(recording.seed)
    elif recording.model_file is None:
        raise EnvConfigError(f"{recording.name} has neither a seed nor a model_file, so its scene cannot be recreated")
    elif isinstance(env, LiberoEnv):
        env.load_scene(recording.model_file)
    else:
        load_model(env, recording.model_file)
    observations, absolute = [], []
    if recording.actions is not None:
        require_increments(env.simulator)
    for step, state in enumerate(recording.states):
        env.set_state(state)
        observations.append(env.observe())
        if recording.actions is not None:
            absolute.append(absolute_action(env.simulator, recording.actions[step]))
    return {
        **({"actions_abs": np.stack(absolute)} if absolute else {}),
        "images": {camera: np.stack([o[f"{camera}_image"] for o in observations]) for camera in env.image_sizes},
        "proprioception": {key: np.stack([o[key] for o in observations]) for key in env.proprioception},
        "renderer": env.renderer_name,
    }


def load_model(env: RobosuiteEnv, model_file: str) -> None:
    """Replace the environment's scene by a recorded one.

    Raises:
        EnvConfigError: the model cannot be loaded, or belongs to another task or robot.
    """
    simulator = env.simulator
    if not model_file.lstrip().startswith("<"):
        raise EnvConfigError(
            f"the recorded model_file is {model_file[:60]!r}, which is not a scene (MJCF): robosuite 1.0 wrote the "
            "name of a file there, and its scenes do not fit robosuite 1.5; record or convert the demonstrations with "
            "robosuite 1.4 or newer"
        )
    try:
        model_file = as_robosuite_1_5(model_file)
    except ElementTree.ParseError as error:
        raise EnvConfigError(f"the recorded model_file is not a scene (MJCF) that can be read: {error}") from error
    env.close_renderer()  # it belongs to the model that is replaced
    try:
        simulator.reset_from_xml_string(simulator.edit_model_xml(model_file))
    except Exception as error:  # XML, MuJoCo and robosuite raise many types
        raise EnvConfigError(
            f"the recorded model_file is not a {env.task.name} scene that this robosuite can load "
            f"({type(error).__name__}: {error})"
        ) from error


def as_robosuite_1_5(model_file: str) -> str:
    """Rename the parts of a scene recorded by robosuite 1.4 as 1.5 names them; newer scenes are returned unchanged."""
    if '"robot0_right_center"' in model_file:  # a site that every robot of 1.5 has, and none of 1.4
        return model_file
    # Match at the opening quote, so that each name is changed once: 1.4's `gripper0_right_gripper` must become
    # `gripper0_right_right_gripper`.
    renamed = re.sub(r'"gripper(\d)_', r'"gripper\1_right_', model_file)
    renamed = re.sub(r'"mount(\d)_', r'"fixed_mount\1_', renamed)
    root = ElementTree.fromstring(renamed.replace("/assets/mounts/", "/assets/bases/"))
    for body in root.iter("body"):
        # 1.5 requires a site for the frame of the arm's commands. Its pose is irrelevant, because replaying sets states
        # and never commands the arm.
        if re.fullmatch(r"robot\d_base", body.get("name", "")):
            ElementTree.SubElement(body, "site", name=body.get("name", "").replace("base", "right_center"))
    for body in root.iter("body"):
        # The Panda of 1.4.0 has no such geom, and 1.5 asks for it by name. This one touches and weighs nothing.
        missing = f"{body.get('name')}_collision"
        if re.fullmatch(r"robot\d_link7", body.get("name", "")) and body.find(f"geom[@name='{missing}']") is None:
            nothing = {"type": "sphere", "size": "0.001", "contype": "0", "conaffinity": "0", "group": "0", "mass": "0"}
            ElementTree.SubElement(body, "geom", {"name": missing, **nothing})
    return ElementTree.tostring(root, encoding="unicode")


def replay(
    env_kwargs: Mapping[str, Any], recordings: Iterable[RecordedEpisode], *, workers: int | None = None
) -> Iterator[Replayed]:
    """Replay recordings in parallel processes; the results come in the recordings' order.

    At most 2 × `workers` recordings and results are in memory, and `recordings` is read no faster than that.

    Args:
        env_kwargs: arguments of `make_env`: `task`, and those of `EnvSettings`; JSON-able.
        recordings: the recordings to replay.
        workers: number of processes; None for one per core, 1 to stay in this process.

    Yields:
        `replay_episode`'s dictionary for each recording.

    Raises:
        EnvConfigError: an argument is not valid, or a recording does not fit the task.
        WorkerError: a worker raised or was killed; the message names the recording.
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
    return _make(settings)  # a worker serves one replay, so one environment serves all its recordings


def _replay_in_worker(settings: str, recording: RecordedEpisode) -> Replayed:
    return replay_episode(_worker_env(settings), recording)
