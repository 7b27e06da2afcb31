"""Actions of robosuite's controllers that take increments, as the absolute poses that they command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from s2robot_envs.errors import EnvConfigError


def require_increments(simulator: Any) -> None:
    """Check that some arm takes increments of its pose, which have absolute poses.

    Raises:
        EnvConfigError: none does; the message names the controllers.
    """
    robots = getattr(simulator, "robots", [])
    if not all(hasattr(robot, "composite_controller") for robot in robots) or not list(_arms(simulator)):
        parts = [part for robot in robots for part in getattr(robot, "part_controllers", {}).values()]
        raise EnvConfigError(
            "absolute_actions=true needs robosuite 1.5 and an operational-space controller that takes increments, with "
            f"fixed gains; the controllers here are {', '.join(type(part).__name__ for part in parts) or 'others'}"
        )


def absolute_action(simulator: Any, action: np.ndarray) -> np.ndarray:
    """Return what a controller that takes absolute poses must get to do the same in the simulator's current state.

    The pose of each arm becomes its goal, in the controller's own frame of reference: position [m], and rotation as
    axis-angle [rad]. Other numbers, such as grippers, stay.

    Args:
        simulator: robosuite's environment; its goals are changed, its state is not.
        action: an action [A] of increments, as its controllers take it.
    """
    absolute = np.array(action, dtype=np.float64)
    for first, robot, part, start, end in _arms(simulator):
        robot.composite_controller.update_state()
        part.update(force=True)  # without force, it keeps what it saw before the state was set
        part.set_goal(np.asarray(action, dtype=np.float64)[first + start : first + end])
        absolute[first + start : first + start + 3] = part.goal_pos
        if part.use_ori:
            absolute[first + start + 3 : first + end] = Rotation.from_matrix(part.goal_ori).as_rotvec()
    return absolute


def _arms(simulator: Any) -> Iterator[tuple[int, Any, Any, int, int]]:
    """Yield the first number of each robot's action, the robot, its arm's controller, and the arm's numbers in it."""
    first = 0
    for robot in simulator.robots:
        for name, (start, end) in robot.composite_controller._action_split_indexes.items():
            part = robot.part_controllers[name]
            fixed = getattr(part, "impedance_mode", None) == "fixed" and hasattr(part, "goal_ori")
            if name in robot.arms and fixed and part.input_type == "delta":
                yield first, robot, part, start, end
        first += robot.action_dim
