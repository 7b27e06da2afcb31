"""Which recorded array of actions is used, and whether its numbers are increments or absolute targets."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from s2robot.data.base import DemonstrationDataset
from s2robot.data.files import described
from s2robot.interfaces import DatasetError

DELTA, ABSOLUTE = "delta", "absolute"
INPUTS = (DELTA, ABSOLUTE)
"""How a controller takes its actions: increments of the current pose, or the pose itself (robosuite's `input_type`)."""

_BY_WORD = {"abs": ABSOLUTE, "absolute": ABSOLUTE, "rel": DELTA, "relative": DELTA, "delta": DELTA}
_ROBOSUITE = 1  # robomimic's EnvType of robosuite


def input_of_keys(keys: Sequence[str]) -> str | None:
    """Return `delta` or `absolute` if the names of arrays of actions say so, as robomimic's do; None if they do not.

    >>> input_of_keys(["action_dict/abs_pos", "action_dict/gripper"]), input_of_keys(["actions"])
    ('absolute', None)
    """
    words = [word for key in keys for word in re.split(r"[^a-z]+", key.lower())]
    found = {_BY_WORD[word] for word in words if word in _BY_WORD}
    return found.pop() if len(found) == 1 else None


def input_of_controllers(env_args: Mapping[str, Any]) -> str | None:
    """Return how the recorded controllers of robosuite take poses; None if they differ or none takes poses."""
    found = {_input_of(arm) for _, arm in _pose_controllers(_recorded(env_args))}
    return found.pop() if len(found) == 1 else None


def with_input(env_args: Mapping[str, Any], wanted: str) -> dict[str, Any]:
    """Return the environment description with controllers that take poses as `wanted`; nothing else is changed."""
    changed = copy.deepcopy(dict(env_args))
    # Before robosuite 1.5, a controller without the setting takes increments.
    old = re.match(r"0\.|1\.[0-4](\.|$)", str(env_args.get("env_version", ""))) is not None
    for former, arm in _pose_controllers(_recorded(changed)):
        if former or (old and "input_type" not in arm):
            arm["control_delta"] = wanted == DELTA
        else:
            arm["input_type"] = wanted
    return changed


def other_actions(dataset: DemonstrationDataset, index: int) -> dict[str, np.ndarray]:
    """Return the arrays of actions besides the format's own, as recorded; `unread` names those that are not sound."""
    found, demo, length = {}, dataset.demos[index], dataset.lengths[index]
    damaged: tuple[type[Exception], ...] = (DatasetError, *dataset.read_errors)
    for key in list(dataset.action_arrays)[1:]:
        try:
            values = np.asarray(dataset.read_actions(index, key))
            dataset.numbers(demo, key, values)
        except damaged as error:
            dataset.unread[demo, key] = f"it cannot be read ({described(error)})"
            continue
        if len(values) == length:
            found[key] = values
        else:
            dataset.unread[demo, key] = f"it has {len(values)} steps, but the episode has {length}"
    return found


def controllers_for(dataset: DemonstrationDataset, stated: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the dataset's environment description with controllers that take its chosen actions.

    Args:
        dataset: the dataset, with its chosen arrays of actions.
        stated: how the controllers take them; None = as the names of the arrays say, else as recorded.

    Returns:
        The description, and the settings of `make_env` that differ from the recorded ones; empty if nothing differs.

    Raises:
        DatasetError: `stated` is given, but no controller is recorded that takes poses.
    """
    recorded = input_of_controllers(dataset.env_args)
    if stated is not None and recorded is None:
        raise dataset.error(
            f"controller_input={stated} is not possible: no operational-space controllers are recorded, or several "
            "that differ; name the environment and its controllers: task=… controller=…"
        )
    wanted = stated or input_of_keys(dataset.action_keys)
    if recorded is None or wanted in (None, recorded):
        return dataset.env_args, {}
    env_args = with_input(dataset.env_args, wanted)
    return env_args, {"controller": _configs(env_args)}


def recorded_environment_kept(dataset: DemonstrationDataset, task: str | None, controller: Any) -> bool:
    """Return whether a policy is evaluated with the recorded controllers, given the settings of those names."""
    return controller is None and task in (None, dataset.env_args.get("s2robot", {}).get("task"))


def changed_controllers(env_args: Mapping[str, Any]) -> str:
    """Say in words what `controllers_for` changed, given the changed description."""
    now = input_of_controllers(env_args)
    before = ABSOLUTE if now == DELTA else DELTA
    return f"the recorded controllers take {before} actions, the chosen ones are {now}; evaluation makes them so"


def _configs(env_args: Mapping[str, Any]) -> Any:
    """Return the recorded controllers of robosuite, as recorded: one for all robots, or a list."""
    return (env_args.get("env_kwargs") or {}).get("controller_configs")


def refuse_absolute_in_disguise(dataset: DemonstrationDataset, actions: Sequence[np.ndarray]) -> None:
    """Check that the actions of a controller that takes increments are within the limits at which it clips.

    Diffusion Policy's converted files hold absolute poses, but describe the environment from before the conversion.

    Raises:
        DatasetError: an arm's action is outside in most of the steps.
    """
    if input_of_controllers(dataset.env_args) != DELTA:
        return
    limit = max(_limit(arm) for _, arm in _pose_controllers(_recorded(dataset.env_args)))
    outside = np.concatenate([np.abs(values).max(1) > limit * 1.01 for values in actions])
    if outside.mean() > 0.5:
        raise dataset.error(
            f"the recorded controller takes increments and clips them at ±{limit:g}, but the actions exceed that in "
            f"{outside.mean():.0%} of the steps. If they are absolute poses, give controller_input=absolute; if they "
            "are increments, controller_input=delta"
        )


def _recorded(env_args: Mapping[str, Any]) -> list[Any]:
    configs = _configs(env_args) if env_args.get("type", _ROBOSUITE) == _ROBOSUITE else None
    return configs if isinstance(configs, list) else [configs]


def _pose_controllers(configs: Sequence[Any]) -> Iterator[tuple[bool, Any]]:
    """Yield each operational-space controller of an arm, and whether it is in the form of robosuite before 1.5."""
    for config in configs:
        if not isinstance(config, Mapping):
            continue
        parts = config.get("body_parts", {"": config})
        arms = {**(parts.get("arms") or {}), **parts}
        for arm in arms.values():
            if isinstance(arm, Mapping) and str(arm.get("type")).startswith("OSC"):
                yield "control_delta" in arm and "input_type" not in arm, arm


def _input_of(arm: Mapping[str, Any]) -> str:
    absolute = arm.get("input_type") == ABSOLUTE or ("input_type" not in arm and arm.get("control_delta") is False)
    return ABSOLUTE if absolute else DELTA


def _limit(arm: Mapping[str, Any]) -> float:
    try:
        return float(np.abs([np.max(arm.get("input_max", 1)), np.min(arm.get("input_min", -1))]).max())
    except (TypeError, ValueError):
        return np.inf
