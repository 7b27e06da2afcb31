"""Whether the environment that this package makes is the one that a dataset was recorded in."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from s2robot.data import open_dataset
from s2robot.data.base import DemonstrationDataset


def with_control_frequency(dataset: DemonstrationDataset) -> dict[str, Any]:
    """The recorded `env_args`, with the control frequency that the times of the states give if none is recorded.

    robosuite's own recordings (`demo.hdf5`) do not record it, but each state begins with its time in seconds.
    """
    env_args = dict(dataset.env_args)
    kwargs = env_args.get("env_kwargs")
    if not isinstance(kwargs, dict) or kwargs.get("control_freq") is not None or "env_name" not in env_args:
        return env_args
    states = dataset.episode(0, cameras=[], proprioception=[]).states
    apart = 0.0 if states is None or len(states) < 2 else float(np.median(np.diff(states[:, 0])))
    if apart <= 0:
        return env_args
    frequency = round(1 / apart, 3)
    frequency = int(frequency) if frequency == int(frequency) else frequency
    _say(dataset, f"control_freq is not recorded; the states are {apart:.4g} s apart, so {frequency} is assumed")
    return {**env_args, "env_kwargs": {**kwargs, "control_freq": frequency}}


def recorded_task(env_args: Mapping[str, Any]) -> str | None:
    """Name here of the task that others recorded; None if the description names none.

    An environment of robosuite is a task of our table, or `robosuite:<name>`.
    """
    from s2robot_envs.recorded import ROBOSUITE
    from s2robot_envs.registered import task_of

    name = env_args.get("env_name")
    if not isinstance(name, str) or not name:
        return None
    return task_of(name) if env_args.get("type", ROBOSUITE) == ROBOSUITE else name


def rebuilding_settings(env_args: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Settings of `make_env` for the recorded robots, controllers and control frequency.

    Empty where they are ours, and for other environments than robosuite's.

    Raises:
        S2RobotEnvError: unknown task, or a recorded controller is not one of robosuite 1.5.
    """
    from s2robot_envs.families import DEFAULT, family_of
    from s2robot_envs.recorded import ROBOSUITE, recorded_settings
    from s2robot_envs.registered import task_spec

    if family_of(task) != DEFAULT or env_args.get("type", ROBOSUITE) != ROBOSUITE:
        return {}
    return recorded_settings(env_args, task_spec(task))


def require_recorded_environment(
    dataset: DemonstrationDataset, recorded: Mapping[str, Any], ours: Mapping[str, Any], action_width: int
) -> None:
    """Refuse an environment in which the recorded actions would move the robots otherwise.

    What the dataset does not say is assumed to be as in `ours`, and named on stderr.

    Args:
        dataset: the recordings.
        recorded: their environment description.
        ours: the description of the environment made here.
        action_width: numbers per action of that environment.

    Raises:
        DatasetError: names every difference, with the recorded value and ours.
    """
    from s2robot_envs.recorded import ROBOSUITE, differences, unrecorded

    found = []
    if ours.get("type") == ROBOSUITE:
        found = differences(recorded, ours)
        for name in unrecorded(recorded):
            said = "the robot's own" if name == "controller_configs" else ours["env_kwargs"][name]
            _say(dataset, f"{name} is not recorded; assumed: {said}")
    if dataset.action_width != action_width:
        found.append(f"numbers per action: recorded {dataset.action_width}, here {action_width}")
    if found:
        raise dataset.error(
            f"was recorded in another environment than this version of s2robot can make. {'; '.join(found)}"
        )


def require_evaluable_as_recorded(path: str) -> None:
    """Refuse a dataset whose `s2robot` settings, which evaluation uses, make another environment than it records.

    Nothing is checked without robosuite, or if the task is not known here.

    Raises:
        DatasetError: names every difference, with the recorded value and ours; or the dataset cannot be opened.
    """
    with open_dataset(path) as dataset:
        if importlib.util.find_spec("robosuite") is None:
            return
        from s2robot_envs.recorded import ROBOSUITE, differences
        from s2robot_envs.registered import PREFIX, task_spec
        from s2robot_envs.settings import ROBOT_SETTINGS
        from s2robot_envs.simulator import RobotSettings, robosuite_kwargs
        from s2robot_envs.tasks import TASKS

        recorded, own = dataset.env_args, dataset.env_args.get("s2robot", {})
        task = own.get("task", "")
        if recorded.get("type") != ROBOSUITE or not recorded.get("env_kwargs"):
            return
        if task not in TASKS and not task.startswith(PREFIX):
            return
        settings = RobotSettings(**{name: own.get(name) for name in ROBOT_SETTINGS})
        kwargs = robosuite_kwargs(task_spec(task), own.get("horizon") or 1, settings)
        found = differences(recorded, {**recorded, "env_version": None, "env_kwargs": kwargs})
        if found:
            raise dataset.error(
                "records another environment than its settings for evaluation make; render it again. "
                + "; ".join(found)
            )


def _say(dataset: DemonstrationDataset, text: str) -> None:
    print(f"{dataset.path}: {text}", file=sys.stderr)
