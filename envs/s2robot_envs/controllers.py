"""Controllers of robots: every way to describe one, as robosuite 1.5 takes it."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from s2robot_envs.errors import EnvConfigError


def composite_controller(config: Any, robot: str, version: str | None = None) -> dict[str, Any]:
    """Convert a controller's description to the form of robosuite 1.5.

    Args:
        config: a composite controller of robosuite 1.5, the controller of an arm alone (all that robosuite 1.4 has),
            the name of either (`OSC_POSITION`, `BASIC`), or None for the robot's own.
        robot: robosuite's name of the robot.
        version: version of robosuite that wrote it, if known.

    Raises:
        EnvConfigError: robosuite 1.5 has no such controller.
    """
    from robosuite.controllers import load_composite_controller_config, load_part_controller_config
    from robosuite.controllers.composite.composite_controller_factory import (
        is_part_controller_config,
        refactor_composite_controller_config,
    )

    if isinstance(config, str) and is_part_controller_config({"type": config}):
        config = load_part_controller_config(default_controller=config)
    if config is None or isinstance(config, str):
        try:
            return load_composite_controller_config(controller=config, robot=robot)
        except (AssertionError, FileNotFoundError) as error:
            raise EnvConfigError(
                f"controller {config!r} is not a controller of robosuite {version_here()}; choices: "
                f"{', '.join(controller_names())}, or a file *.json"
            ) from error
    if isinstance(config, Mapping) and is_part_controller_config(dict(config)):
        part = _of_robosuite_1_4(config) if _is_1_4(config, version) else dict(config)
        part.setdefault("interpolation", None)  # robosuite has no default for it
        return refactor_composite_controller_config(part, robot, ["right", "left"] if is_bimanual(robot) else ["right"])
    if not isinstance(config, Mapping) or not isinstance(config.get("body_parts"), Mapping):
        said = config.get("type") if isinstance(config, Mapping) else config
        raise EnvConfigError(
            f"controller {said!r} is not a controller of robosuite {version_here()}; "
            f"choices: {', '.join(controller_names())}"
        )
    found = copy.deepcopy(dict(config))
    parts = dict(found["body_parts"])
    found["body_parts"] = {**parts.pop("arms", {}), **parts}
    return found


@cache
def is_bimanual(robot: str) -> bool:
    """Return whether one robot of this name has two arms; False if robosuite has none, which making it then says."""
    from robosuite.robots import REGISTERED_ROBOTS
    from robosuite.utils.robot_utils import check_bimanual

    return robot in REGISTERED_ROBOTS and bool(check_bimanual(robot))


def controller_names() -> list[str]:
    """Return robosuite's names of controllers: those of one arm, and those of a whole robot."""
    import robosuite
    from robosuite.controllers import ALL_COMPOSITE_CONTROLLERS, ALL_PART_CONTROLLERS

    settings = Path(robosuite.__file__).parent / "controllers" / "config" / "default" / "composite"
    whole = [name for name in ALL_COMPOSITE_CONTROLLERS if (settings / f"{name.lower()}.json").is_file()]
    return [*ALL_PART_CONTROLLERS, *whole]


def _is_1_4(part: Mapping[str, Any], version: str | None) -> bool:
    if "input_type" in part or "input_ref_frame" in part:
        return False
    return "control_delta" in part or (version is not None and re.match(r"0\.|1\.[0-4](\.|$)", version) is not None)


def _of_robosuite_1_4(part: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the settings of a 1.4 controller as in 1.5, which silently ignores the former names."""
    part = dict(part)
    delta = part.pop("control_delta", True)
    if part["type"] == "IK_POSE":
        raise EnvConfigError(f"controller IK_POSE of robosuite 1.4 differs from IK_POSE of robosuite {version_here()}")
    if part["type"].startswith("OSC"):
        part |= {"input_type": "delta" if delta else "absolute", "input_ref_frame": "world"}
    return part


def version_here() -> str:
    """Return the version of the installed robosuite."""
    import robosuite

    return str(robosuite.__version__)
