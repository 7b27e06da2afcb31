"""What a robosuite environment can observe: its cameras and its observables (robosuite's name for proprioception)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.tasks import TaskSpec

OBJECT = "object"  # robomimic's key of all true object poses together, robosuite's `object-state`
_POSE = re.compile(r"robot\d+_((right|left)_)?(eef_pos|eef_quat|gripper_qpos)")
_HAND = re.compile(r"robot\d+_.*hand")


def cameras_of(env: Any, spec: TaskSpec) -> tuple[str, ...]:
    """Return the cameras that are observed by default: the task's own, or what a model with other robots has.

    Those are the task's first camera and every camera at a hand.
    """
    available = tuple(env.sim.model.camera_names)
    if set(spec.cameras) <= set(available):
        return spec.cameras
    first = spec.cameras[0] if spec.cameras[0] in available else available[0]
    return (first, *(name for name in available if _HAND.fullmatch(name) and name != first))


def observables_of(env: Any, spec: TaskSpec, asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the observables that are observed: those asked for, else the task's own, else the pose of every hand.

    Raises:
        EnvConfigError: the environment does not have one that was asked for; the message names the choices.
    """
    available = observable_names(env)
    if isinstance(asked, str):  # a string is iterable too: each letter would be taken as a name
        raise EnvConfigError(f"proprioception={asked!r} is not a list of observations; write ({asked!r},)")
    if asked is not None:
        for name in asked:
            if name not in available:
                raise EnvConfigError(unknown_name(f"observation of {spec.name}", name, available))
        return tuple(asked)
    if set(spec.proprioception) <= set(available):
        return spec.proprioception
    return tuple(sorted(name for name in available if _POSE.fullmatch(name)))


def observable_names(env: Any) -> list[str]:
    """Return the names of everything that can be observed besides cameras."""
    shown = {name: observable.modality for name, observable in env._observables.items() if _is_shown(observable)}
    return [*shown, *([OBJECT] if "object" in shown.values() else [])]


def read_observables(env: Any, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the current values of observables, float32 [d] each.

    robosuite computes some from others (`joint_pos_cos` from `joint_pos`), also from later ones, so that all are
    computed twice if one of `keys` may need it.
    """
    if all(_POSE.fullmatch(key) for key in keys):
        return {key: _vector(env._observables[key]._sensor({})) for key in keys}
    values: dict[str, Any] = {}
    vectors = {name: observable for name, observable in env._observables.items() if observable.modality != "image"}
    for name, observable in [*vectors.items(), *vectors.items()]:
        values[name] = observable._sensor(values)
    objects = [
        name for name, observable in vectors.items() if observable.modality == "object" and _is_shown(observable)
    ]
    found = {name: _vector(values[name]) for name in keys if name != OBJECT}
    if OBJECT in keys:
        found[OBJECT] = np.concatenate([_vector(values[name]) for name in objects])
    return {key: found[key] for key in keys}


def _is_shown(observable: Any) -> bool:
    """Return whether robosuite itself observes it, with its cameras apart; some only serve to compute others."""
    return observable.is_active() and observable.modality != "image"


def _vector(value: Any) -> np.ndarray:
    return np.atleast_1d(np.asarray(value, dtype=np.float32))


def action_bounds(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and largest action, float32 [A] each.

    They are those of robosuite, except that an absolute position or angle has no bounds: robosuite states those of a
    controller that takes differences.
    """
    low, high = (np.array(bound, dtype=np.float32) for bound in env.action_spec)
    start = 0
    for robot in env.robots:
        controller = robot.composite_controller
        for name, (first, last) in controller._action_split_indexes.items():
            if getattr(controller.part_controllers.get(name), "input_type", None) == "absolute":
                low[start + first : start + last], high[start + first : start + last] = -np.inf, np.inf
        start += robot.action_dim
    return low, high
