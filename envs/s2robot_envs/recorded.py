"""Compare what determines the robots' motion in a recorded environment and in another one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from s2robot_envs import simulator
from s2robot_envs.controllers import composite_controller, version_here
from s2robot_envs.errors import EnvConfigError
from s2robot_envs.tasks import CONTROL_FREQUENCY, TaskSpec

ROBOSUITE = 1  # robomimic's EnvType.ROBOSUITE_TYPE

# Arguments of `robosuite.make` that change only images, rewards, observations or the length of an episode.
_NO_MOTION = re.compile(
    r"env_name|has_.*|use_(camera|object|touch|tactile)_obs|camera_.*|render.*|reward_.*|horizon|ignore_done|hard_reset|"
    r"seed|translucent_robot|postprocess_visual_obs"
)
_FORMER_NAMES = {"mount_types": "base_types"}  # of robosuite before 1.5
_FORMER_ARRANGEMENTS = {"single-arm-opposed": "opposed", "single-arm-parallel": "parallel", "bimanual": "single-robot"}

# Arguments of controllers that robosuite itself passes, or that have no effect.
_NOT_CHOSEN = {
    "policy_freq",
    "lite_physics",
    "load_urdf",
    "bullet_server_id",
    "eef_rot_offset",
    "ref_name",
    "control_ori",
}
_NEEDS = {  # setting of a controller -> (another setting, the values with which it has an effect)
    "kp_limits": ("impedance_mode", ("variable", "variable_kp")),
    "damping_ratio_limits": ("impedance_mode", ("variable",)),
    "ramp_ratio": ("interpolation", ("linear",)),
}


def differences(recorded: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Compare what determines the robots' motion in two environment descriptions of robosuite (`env_args`).

    Controllers of all versions are compared in the form of robosuite 1.5, with robosuite's defaults for settings that
    are not given. Arguments that are not recorded at all (see `unrecorded`) are not compared.

    Returns:
        One text per difference, `control_freq: recorded 10, here 20`; empty if both environments move alike.

    Raises:
        EnvConfigError: a recorded controller is not one of robosuite 1.5.
    """
    theirs, mine = motion(recorded), motion(ours)
    missing = set(unrecorded(recorded))
    names = [
        name
        for name in [*theirs, *(name for name in mine if name not in theirs)]
        if name.partition(" ")[0] not in missing and not _same(theirs.get(name), mine.get(name))
    ]
    # The settings of two kinds of controllers are not comparable.
    kinds = tuple(name.removesuffix("type") for name in names if name.endswith((" right type", " left type")))
    names = [name for name in names if name.endswith(" type") or not name.startswith(kinds or " ")]
    return [f"{name}: recorded {_shown(theirs, name)}, here {_shown(mine, name)}" for name in names]


def recorded_settings(env_args: Mapping[str, Any], spec: TaskSpec) -> dict[str, Any]:
    """Return the settings of `make_env` for a recorded environment of robosuite; empty if they are the task's own.

    Raises:
        EnvConfigError: a recorded controller is not one of robosuite 1.5.
    """
    found: dict[str, Any] = {}
    recorded = motion(env_args)
    missing = unrecorded(env_args)
    own = {"robots": [simulator.ROBOT] * spec.num_robots, "control_freq": CONTROL_FREQUENCY}
    for name, value in own.items():
        if name not in missing and not _same(recorded[name], value):
            found[name] = recorded[name]
    if "controller_configs" not in missing:
        robots = recorded["robots"]
        mine = motion({**env_args, "env_kwargs": {"robots": robots, "controller_configs": [None] * len(robots)}})
        names = {name for name in {**recorded, **mine} if name.startswith("controller_configs")}
        if not all(_same(recorded.get(name), mine.get(name)) for name in names):
            configs = _per_robot(env_args["env_kwargs"]["controller_configs"], len(robots))
            version = env_args.get("env_version")
            found["controller"] = [
                composite_controller(config, robot, version) for config, robot in zip(configs, robots, strict=True)
            ]
    further = {
        name: value
        for name, value in recorded.items()
        if name not in own
        and not name.startswith("controller_configs")
        and not _same(value, spec.robosuite_kwargs.get(name))
    }
    return {**found, **({"robosuite": further} if further else {})}


def recorded_controllers(env_args: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the recorded controllers of each robot as robosuite 1.5 takes them; None if none are recorded.

    `recorded_settings` leaves them out where the robot's own move alike, though their frame of reference may differ.

    Raises:
        EnvConfigError: a recorded controller is not one of robosuite 1.5.
    """
    kwargs = env_args.get("env_kwargs") or {}
    if kwargs.get("controller_configs") is None:
        return None
    robots = _per_robot(kwargs.get("robots") or "Panda", None)
    configs = _per_robot(kwargs["controller_configs"], len(robots))
    version = env_args.get("env_version")
    return [composite_controller(config, robot, version) for config, robot in zip(configs, robots, strict=True)]


def unrecorded(env_args: Mapping[str, Any]) -> list[str]:
    """Return those of `robots`, `controller_configs` and `control_freq` that the description does not record."""
    kwargs = env_args.get("env_kwargs") or {}
    return [name for name in ("robots", "controller_configs", "control_freq") if kwargs.get(name) is None]


def motion(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that determines the robots' motion, flat: `robots`, `control_freq`, `controller_configs robot0 …`.

    Raises:
        EnvConfigError: a recorded controller is not one of robosuite 1.5.
    """
    simulator.import_robosuite()
    kwargs = {_FORMER_NAMES.get(name, name): value for name, value in (env_args.get("env_kwargs") or {}).items()}
    robots = _per_robot(kwargs.pop("robots", None) or "Panda", None)
    controllers = _per_robot(kwargs.pop("controller_configs", None), len(robots))
    flat: dict[str, Any] = {"robots": robots, "control_freq": kwargs.pop("control_freq", None) or CONTROL_FREQUENCY}
    for index, (robot, config) in enumerate(zip(robots, controllers, strict=False)):
        found = composite_controller(config, robot, env_args.get("env_version"))
        flat |= {f"controller_configs robot{index} {name}": v for name, v in _controller(found, len(robots)).items()}
    defaults = _defaults(str(env_args.get("env_name")))
    for name, value in kwargs.items():
        if not _NO_MOTION.fullmatch(name) and not _same(value, defaults.get(name)):
            flat[name] = _FORMER_ARRANGEMENTS.get(str(value), value)
    if flat.get("env_configuration") == "opposed" and len(robots) == 2:
        del flat["env_configuration"]  # robosuite's default for two robots
    return flat


def _controller(config: Mapping[str, Any], num_robots: int) -> dict[str, Any]:
    """Return the settings of a composite controller that have an effect, by `<part> <setting>`."""
    flat = {"type": config.get("type")}
    if config.get("composite_controller_specific_configs"):
        flat["composite_controller_specific_configs"] = config["composite_controller_specific_configs"]
    for name, part in config["body_parts"].items():
        if name in ("right", "left") and isinstance(part, Mapping):
            flat |= {f"{name} {key}": value for key, value in _part(part, num_robots).items()}
        elif part is not None:  # torso, head, base, legs: compared as they are written
            flat[name] = part
    return flat


def _part(part: Mapping[str, Any], num_robots: int) -> dict[str, Any]:
    kind = str(part.get("type"))
    values = {**_controller_defaults(kind), "interpolation": None, "ramp_ratio": 0.2}
    values |= {name: value for name, value in part.items() if name in values}
    if values["interpolation"] == "null":  # as robosuite's own files write it
        values["interpolation"] = None
    for name, (other, needed) in _NEEDS.items():
        if values.get(other) not in needed:
            values.pop(name, None)
    if kind.startswith("OSC") and values["input_type"] == "delta" and num_robots == 1:
        del values["input_ref_frame"]  # a single robot is not rotated: its base and the world have the same axes
    if kind.startswith("OSC") and values["input_type"] == "absolute":
        for name in ("input_max", "input_min", "output_max", "output_min"):
            del values[name]
    if kind == "JOINT_VELOCITY" and not isinstance(values["kp"], list):
        values["kp"] = f"{values['kp']} times the range of the actuator"  # unlike a list, which is taken as it is
    gripper = part.get("gripper") or {}
    return {"type": kind, **values, "gripper": {"type": "GRIP", "use_action_scaling": True, **gripper}}


def _controller_defaults(kind: str) -> dict[str, Any]:
    from robosuite.controllers.parts import arm, generic

    classes = {
        "OSC_POSE": arm.OperationalSpaceController,
        "OSC_POSITION": arm.OperationalSpaceController,
        "JOINT_POSITION": generic.JointPositionController,
        "JOINT_VELOCITY": generic.JointVelocityController,
        "JOINT_TORQUE": generic.JointTorqueController,
    }
    if kind == "IK_POSE":
        from robosuite.controllers.parts.arm.ik import InverseKinematicsController

        classes[kind] = InverseKinematicsController
    if kind not in classes:
        raise EnvConfigError(f"controller {kind!r} is not one that robosuite {version_here()} has for an arm")
    return {
        name: parameter.default
        for name, parameter in inspect.signature(classes[kind]).parameters.items()
        if parameter.default is not parameter.empty and name not in _NOT_CHOSEN and not name.startswith("interpolator")
    }


def _defaults(env_name: str) -> dict[str, Any]:
    """Return the default arguments of a robosuite environment, including those that it passes to its base classes."""
    from robosuite.environments.base import REGISTERED_ENVS

    found: dict[str, Any] = {}
    for cls in inspect.getmro(REGISTERED_ENVS.get(env_name, object)):
        if "__init__" in vars(cls) and cls is not object:
            for name, parameter in inspect.signature(vars(cls)["__init__"]).parameters.items():
                if parameter.default is not parameter.empty:
                    found.setdefault(name, parameter.default)
    return found


def _per_robot(value: Any, count: int | None) -> list[Any]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * count if count is not None and len(values) == 1 else values


def _same(first: Any, second: Any) -> bool:
    """Return whether two settings mean the same; one number stands for the same number at every joint or axis."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(value, second[name]) for name, value in first.items())
    if _is_numeric(first) and _is_numeric(second):
        try:
            return bool(np.equal(*np.broadcast_arrays(np.asarray(first, float), np.asarray(second, float))).all())
        except ValueError:
            return False
    return _alone(first) == _alone(second)


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_numeric(entry) for entry in value)
    return isinstance(value, int | float | np.ndarray) and not isinstance(value, bool)


def _alone(value: Any) -> Any:
    """Replace several equal values by one, as `robosuite.make` accepts it."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        values = [_alone(entry) for entry in value]
        return values[0] if values and all(entry == values[0] for entry in values) else values
    return value


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "nothing"
