"""Physical units of actions, if the dataset records the controllers that executed them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ActionPart:
    """Columns of an action that belong together, such as the position of one arm.

    Attributes:
        name: name of the error, with its unit: `position_error_m`, `rotation_error_rad`, `gripper_error`.
        columns: columns of the action.
        scale: factors from the action's values to metres or radians, one per column.
    """

    name: str
    columns: slice
    scale: np.ndarray

    @property
    def is_rotation(self) -> bool:
        """Whether the columns are an axis-angle, as robosuite's controllers take rotations."""
        return self.name.endswith("rad")

    def error(self, predicted: np.ndarray, demonstrated: np.ndarray) -> float:
        """Return the mean distance between actions [..., A]: positions in m, rotations (angle) in rad, or commands."""
        mine, theirs = (values[..., self.columns].reshape(-1, len(self.scale)) for values in (predicted, demonstrated))
        if self.is_rotation:
            from scipy.spatial.transform import Rotation  # takes most of a second, which few runs need

            first, second = (Rotation.from_rotvec(values * self.scale) for values in (mine, theirs))
            return float((first.inv() * second).magnitude().mean())
        return float(np.linalg.norm((mine - theirs) * self.scale, axis=-1).mean())


def action_parts(env_args: Mapping[str, Any], action_width: int) -> list[ActionPart]:
    """Return position, rotation and gripper of each robot, from the controllers that robosuite recorded.

    Supported are operational-space controllers with one arm per robot (`OSC_POSE`, `OSC_POSITION`), in the formats of
    robosuite before 1.5 and since. For anything else, or if the widths do not add up, the list is empty and errors are
    reported in the environment's own units only.
    """
    controllers = _controllers(env_args.get("env_kwargs") or {})
    if not controllers or action_width % len(controllers):
        return []
    width = action_width // len(controllers)
    parts: list[ActionPart] = []
    for index, controller in enumerate(controllers):
        prefix = f"robot{index}_" if len(controllers) > 1 else ""
        found = _parts_of(controller, width, prefix, index * width)
        if not found:
            return []
        parts += found
    return parts


def _controllers(kwargs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the arm controller of each robot; empty if one is not understood."""
    recorded = kwargs.get("controller_configs")
    robots = kwargs.get("robots")
    count = len(robots) if isinstance(robots, list) else 1
    per_robot = recorded if isinstance(recorded, list) else [recorded] * count
    arms = []
    for controller in per_robot:
        if not isinstance(controller, Mapping):
            return []
        if "body_parts" in controller:  # robosuite 1.5: a composite of parts
            parts = list(controller["body_parts"].values())
            if len(parts) != 1 or not isinstance(parts[0], Mapping):
                return []
            controller = parts[0]
        arms.append(controller)
    return arms


def _parts_of(controller: Mapping[str, Any], width: int, prefix: str, first: int) -> list[ActionPart]:
    arm = {"OSC_POSE": 6, "OSC_POSITION": 3}.get(str(controller.get("type")), 0)
    if not arm or width - arm not in (0, 1):
        return []
    scale = _scale(controller, arm)
    if scale is None:
        return []
    parts = [ActionPart(f"{prefix}position_error_m", slice(first, first + 3), scale[:3])]
    if arm == 6:
        parts.append(ActionPart(f"{prefix}rotation_error_rad", slice(first + 3, first + 6), scale[3:]))
    if width > arm:  # a command from -1 (open) to 1 (closed)
        parts.append(ActionPart(f"{prefix}gripper_error", slice(first + arm, first + width), np.ones(1)))
    return parts


def _scale(controller: Mapping[str, Any], arm: int) -> np.ndarray | None:
    """Return metres or radians per unit of each arm column; None if they are not recorded."""
    if controller.get("input_type", "delta") == "absolute" or controller.get("control_delta") is False:
        return np.ones(arm)
    try:
        output = np.subtract(_wide(controller["output_max"], arm), _wide(controller["output_min"], arm))
        taken = np.subtract(_wide(controller["input_max"], arm), _wide(controller["input_min"], arm))
        scale = output / taken
    except (KeyError, TypeError, ValueError):
        return None
    return scale if np.isfinite(scale).all() else None


def _wide(values: Any, arm: int) -> np.ndarray:
    """Expand to one value per column; `values` is one number for all columns or one per column."""
    return np.broadcast_to(np.asarray(values, dtype=float), (arm,))
