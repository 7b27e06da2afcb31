"""The environment in which a policy will be evaluated, and whether it fits the data: asked before training."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from s2robot.cli.recorded import (
    rebuilding_settings,
    recorded_task,
    require_evaluable_as_recorded,
    with_control_frequency,
)
from s2robot.config import TrainConfig
from s2robot.config.environment import NO_TASK, ROBOT_OPTIONS
from s2robot.data import open_dataset
from s2robot.data.actions import controllers_for, input_of_controllers, input_of_keys, recorded_environment_kept
from s2robot.data.appearance import look_of
from s2robot.data.base import DemonstrationDataset
from s2robot.data.libero import is_libero
from s2robot.data.ranges import outside, takes_unit_actions
from s2robot.data.selection import select_episodes
from s2robot.interfaces import ConfigError, unknown_name

if TYPE_CHECKING:
    from s2robot_envs.base import ImageEnv

_ROBOSUITE, _GYM = 1, 2  # robomimic's EnvType


def environment_of(config: TrainConfig) -> dict[str, Any] | None:
    """Return the environment that a checkpoint records, as arguments of `make_env` without cameras and horizon.

    - `task=` names it, or the dataset does: as `s2robot` does, or as robosuite and robomimic do (`env_args`).
    - It is made once, and its cameras, observations and actions are compared with the data.

    Returns:
        None for what the dataset itself records, also if that is nothing.

    Raises:
        ConfigError: options of an environment are given without a task, or the environment that `task=` names cannot
            be made.
        DatasetError: the environment does not fit the data; the message names all that differs.
    """
    config.require_task()
    if config.task == NO_TASK:
        return {}
    if config.task is None:
        require_evaluable_as_recorded(config.dataset)
    with open_dataset(
        config.dataset, cameras=config.cameras, flip=config.flip, action_key=config.action_keys
    ) as dataset:
        keys = config.proprioception
        keys = dataset.select_proprioception(dataset.seen_by_default() if keys is None else keys)
        if config.task is not None:
            environment: dict[str, Any] | None = _named_environment(config, dataset, keys)
        else:
            environment = _recorded_environment(dataset, keys)
        chosen = select_episodes(dataset, config.selection)[: config.num_demonstrations]
        kept = recorded_environment_kept(dataset, config.task, config.controller)
        env_args, changed = controllers_for(dataset, config.controller_input) if kept else (dataset.env_args, {})
        if environment is None:
            _say_how_to_tie(dataset)
            if takes_unit_actions(env_args):
                _say_out_of_range(dataset, chosen)
            return None
        environment = {**environment, **changed}
        env = _made(dataset, environment, needed=config.task is not None)
        if env is None:
            return None
        try:
            cameras = None if config.cameras is None else list(config.cameras)
            _require_fit(dataset, chosen, env, dataset.select_cameras(cameras), keys)
            _require_input(config, dataset, env)
        finally:
            env.close()
    return environment


def _named_environment(config: TrainConfig, dataset: DemonstrationDataset, keys: list[str]) -> dict[str, Any]:
    """Return the environment of `task=`; what this package recorded of the same task stays, and of another the look."""
    named, own = config.environment(keys), dataset.env_args.get("s2robot", {})
    options = {name: value for name, value in named.items() if name in ("gym", *ROBOT_OPTIONS)}
    same = {name: value for name, value in own.items() if name not in ("cameras", "image_size")}
    return {**named, **(same if own.get("task") == config.task else look_of(own)), **options}


def _recorded_environment(dataset: DemonstrationDataset, keys: Sequence[str]) -> dict[str, Any] | None:
    """Return the environment of robosuite that a dataset describes; None if it describes none, or needs no change."""
    env_args = dataset.env_args
    if env_args.get("type") != _ROBOSUITE or not env_args.get("env_kwargs"):
        return None
    if importlib.util.find_spec("robosuite") is None:
        print(
            f"{dataset.path}: robosuite is not installed, so that the recorded environment is neither checked nor "
            "recorded; to evaluate the policy, name it there: task=…",
            file=sys.stderr,
        )
        return None
    if own := env_args.get("s2robot"):
        return dict(own) if is_libero(env_args) else _with_observables(own, keys)
    env_args = with_control_frequency(dataset)
    task = recorded_task(env_args)
    if task is None:
        return None
    settings = _settings_of(dataset, env_args, task)
    if settings is None:
        return None
    look = {"render_profile": "full", "variant": {}}  # robosuite's own
    return {"task": task, **look, **settings, "proprioception": list(keys)}


def _with_observables(own: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any] | None:
    """Return an environment of ours that observes all of `keys`; None if it does so already."""
    from s2robot_envs.registered import PREFIX, task_spec
    from s2robot_envs.tasks import TASKS

    task = own.get("task", "")
    if "proprioception" in own or not (task in TASKS or task.startswith(PREFIX)):
        return None
    if set(keys) <= set(task_spec(task).proprioception):
        return None
    return {**own, "proprioception": list(keys)}


def _settings_of(dataset: DemonstrationDataset, env_args: Mapping[str, Any], task: str) -> dict[str, Any] | None:
    from s2robot_envs import S2RobotEnvError

    try:
        return rebuilding_settings(env_args, task)
    except S2RobotEnvError as error:
        _say_not_evaluated(dataset, error)
        return None


def _made(dataset: DemonstrationDataset, environment: Mapping[str, Any], needed: bool) -> ImageEnv | None:
    """Make the environment without cameras; None, with a line on stderr, if it cannot be made and is not `needed`."""
    from s2robot_envs import S2RobotEnvError, make_env

    longest = max(dataset.lengths)
    others = {name: value for name, value in environment.items() if name not in ("proprioception", "image_size")}
    try:
        return make_env(**{"horizon": longest, **others, "cameras": ()})  # type: ignore[return-value]  # no ActionChunk
    except S2RobotEnvError as error:
        if needed:
            raise ConfigError(str(error)) from error
        _say_not_evaluated(dataset, error)
        return None


def _say_not_evaluated(dataset: DemonstrationDataset, error: Exception) -> None:
    print(
        f"{dataset.path}: the recorded environment cannot be made here, so that the policy is not evaluated in it "
        f"({error}); task=… names another one",
        file=sys.stderr,
    )


def _say_how_to_tie(dataset: DemonstrationDataset) -> None:
    """Name the settings for an environment of gymnasium that others recorded: it may need a package and options."""
    env_args = dataset.env_args
    if env_args.get("type") != _GYM or "s2robot" in env_args or not env_args.get("env_name"):
        return
    name, kwargs = env_args["env_name"], env_args.get("env_kwargs")
    options = f" 'gym.kwargs={json.dumps(kwargs)}'" if kwargs else ""
    print(
        f"{dataset.path}: records gymnasium's environment {name}; to evaluate the policy in it, give "
        f"task=gym:{name}{options}, or task=gym:<module>:{name} if a package registers it",
        file=sys.stderr,
    )


def _require_fit(
    dataset: DemonstrationDataset, chosen: list[int], env: ImageEnv, cameras: Sequence[str], keys: Sequence[str]
) -> None:
    found = [
        *_cameras_apart(dataset, env, cameras),
        *_keys_apart(dataset, chosen[0], env, keys),
        *_actions_apart(dataset, chosen, env),
    ]
    if found:
        raise dataset.error(
            f"does not fit the environment {env.name}: {'; '.join(found)}. Choose others (cameras=, proprioception=), "
            f"name another environment (task=), or train without one (task={NO_TASK})"
        )


def _require_input(config: TrainConfig, dataset: DemonstrationDataset, env: ImageEnv) -> None:
    """Check that the controllers of the environment take increments or poses as the chosen actions are.

    Recorded controllers are made so; those of `task=` and `controller=` are as these settings say.
    """
    made = input_of_controllers(env.env_args())
    wanted = config.controller_input or input_of_keys(dataset.action_keys)
    if made is not None and wanted not in (None, made):
        raise dataset.error(
            f"the chosen actions are {wanted}, but the controllers of the environment {env.name} take "
            f"{made} ones; name controllers that take them (controller=), or train without an environment "
            f"(task={NO_TASK})"
        )


def _cameras_apart(dataset: DemonstrationDataset, env: ImageEnv, cameras: Sequence[str]) -> list[str]:
    found = [
        unknown_name("camera", name, env.available_cameras) for name in cameras if name not in env.available_cameras
    ]
    for name in cameras:
        height, width = dataset.image_size(name)
        if height != width:
            found.append(f"images of {name} are {height} x {width} pixels, and the environment makes square ones")
    return found


def _keys_apart(dataset: DemonstrationDataset, index: int, env: ImageEnv, keys: Sequence[str]) -> list[str]:
    offered = env.offered()
    recorded = dataset.episode(index, cameras=[], proprioception=list(keys)).proprioception
    found = [unknown_name("observation", key, offered) for key in keys if key not in offered]
    return found + [
        f"{key} has {recorded[key].shape[1]} numbers, and {offered[key]} in the environment"
        for key in keys
        if key in offered and offered[key] != recorded[key].shape[1]
    ]


def _actions_apart(dataset: DemonstrationDataset, chosen: list[int], env: ImageEnv) -> list[str]:
    space: Any = env.action_space
    if space.shape != (dataset.action_width,):
        return [f"actions have {dataset.action_width} numbers, and {space.shape[0]} in the environment"]
    if problem := env.unclear_actions():
        return [problem]
    _say_out_of_range(dataset, chosen, space.low, space.high)
    return []


def _say_out_of_range(dataset: DemonstrationDataset, chosen: list[int], low: Any = -1.0, high: Any = 1.0) -> None:
    episodes = (dataset.episode(index, cameras=[], proprioception=[]).actions for index in chosen)
    if found := outside(episodes, low, high):
        print(
            f"{dataset.path}: actions out of range, which the environment cuts off: {'; '.join(found)}", file=sys.stderr
        )
