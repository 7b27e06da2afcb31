"""Scripted experts: state-based controllers that act through the same actions as a policy."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.robosuite_env import RobosuiteEnv

POSITION_UNIT = 0.05  # metres commanded by an action of 1
ROTATION_UNIT = 0.5  # radians commanded by an action of 1
OPEN, CLOSE = -1.0, 1.0

# Orientation of the grip site, in the robot's base frame, when the gripper points straight down.
POINTING_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


class Expert(abc.ABC):
    """A scripted solution of one task."""

    @abc.abstractmethod
    def reset(self, env: RobosuiteEnv) -> None:
        """Forget the last episode; call it after `env.reset`."""

    @abc.abstractmethod
    def act(self, env: RobosuiteEnv) -> np.ndarray:
        """The action for the current state, float32 [A] in [-1, 1], without noise."""


class LiftExpert(Expert):
    """Above the cube, down, close, up."""

    HOVER = 0.08  # metres above the cube while moving sideways
    CLOSING_STEPS = 6

    def reset(self, env: RobosuiteEnv) -> None:
        """Forget the last episode."""
        self._steps_closed = 0

    def act(self, env: RobosuiteEnv) -> np.ndarray:
        """See `Expert.act`."""
        gripper, cube = grip_position(env), body_position(env, "cube_main")
        offset = cube - gripper
        if self._steps_closed > 0 and np.linalg.norm(offset) > 0.05:
            self._steps_closed = 0  # the cube slipped out: begin again
        if self._steps_closed == 0 and np.linalg.norm(offset) > 0.012:
            aligned = np.linalg.norm(offset[:2]) < 0.015
            return arm_action(env, cube if aligned else above(cube, self.HOVER), OPEN)
        self._steps_closed += 1
        lift = self._steps_closed > self.CLOSING_STEPS
        return arm_action(env, above(cube, 0.1) if lift else cube, CLOSE)


EXPERTS: dict[str, type[Expert]] = {"Lift": LiftExpert}


def make_expert(task: str) -> Expert:
    """The scripted expert of a task.

    Raises:
        EnvConfigError: the task has none; the message lists those that do.
    """
    if task not in EXPERTS:
        raise EnvConfigError(unknown_name("task with a scripted expert", task, EXPERTS))
    return EXPERTS[task]()


def above(position: np.ndarray, height: float) -> np.ndarray:
    """The point `height` metres above a position [3]."""
    return position + np.array([0.0, 0.0, height])


def body_position(env: RobosuiteEnv, body: str) -> np.ndarray:
    """World position of a body, float64 [3], metres."""
    return env.simulator.sim.data.get_body_xpos(body).copy()


def grip_position(env: RobosuiteEnv, robot: int = 0) -> np.ndarray:
    """World position between the fingertips of a robot, float64 [3], metres."""
    data: Any = env.simulator.sim.data
    return data.site_xpos[env.simulator.robots[robot].eef_site_id["right"]].copy()


def grip_rotation(env: RobosuiteEnv, robot: int = 0) -> np.ndarray:
    """World orientation of the grip site of a robot, rotation matrix [3, 3]."""
    data: Any = env.simulator.sim.data
    return data.site_xmat[env.simulator.robots[robot].eef_site_id["right"]].reshape(3, 3).copy()


def arm_action(
    env: RobosuiteEnv,
    target: np.ndarray,
    gripper: float,
    *,
    rotation: np.ndarray | None = None,
    robot: int = 0,
) -> np.ndarray:
    """Proportional action of one arm towards a pose.

    Args:
        env: the environment.
        target: world position for the grip site, [3], metres.
        gripper: `OPEN` or `CLOSE`.
        rotation: world orientation for the grip site, [3, 3]; None to point straight down.
        robot: which arm.

    Returns:
        float32 [7] in [-1, 1].
    """
    base = env.simulator.robots[robot].base_ori  # the controller works in the robot's base frame
    rotation = base @ POINTING_DOWN if rotation is None else rotation
    translation = base.T @ (target - grip_position(env, robot)) / POSITION_UNIT
    # The controller turns at most half the way a command asks for within a step; asking once is stable.
    turn = base.T @ rotation_vector(rotation @ grip_rotation(env, robot).T) / ROTATION_UNIT
    return np.clip([*translation, *turn, gripper], -1.0, 1.0).astype(np.float32)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Axis times angle [radians] of a rotation matrix, [3]."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(matrix).as_rotvec()
