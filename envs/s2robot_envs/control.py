"""Building blocks of the scripted experts: the base class, one arm's pose, and motions as generators of actions.

Positions are in metres in the world frame. Rotations are matrices [3, 3] of the grip site, which is between the
fingertips: x is the axis along which the fingers open, z points out of the hand.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from s2robot_envs.errors import EnvConfigError

if TYPE_CHECKING:
    from s2robot_envs.robosuite_env import RobosuiteEnv

POSITION_UNIT = 0.05  # metres commanded by an action of 1
ROTATION_UNIT = 0.5  # radians commanded by an action of 1
OPEN, CLOSE = -1.0, 1.0
QUARTER_TURN = np.pi / 2

# The grip site of a gripper that points straight down and opens along the world's y axis.
POINTING_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


Motion = Iterator[np.ndarray]  # actions; each is computed for the state at the time of `next`


class Expert(abc.ABC):
    """A scripted solution of one task: it makes one attempt after another until the episode ends."""

    def reset(self, env: Any) -> None:
        """Begin an episode of an `ImageEnv`, whose state the expert reads from then on; call it after `env.reset`."""
        self._actions = self._attempts(env)

    def act(self) -> np.ndarray:
        """Return the action for the environment's current state, float32 [A] in [-1, 1], without noise."""
        return next(self._actions)

    def _attempts(self, env: Any) -> Motion:
        while True:
            yield from self.attempt(env)

    @abc.abstractmethod
    def attempt(self, env: Any) -> Motion:
        """Try once, from any state: yield at least one action, each for the state at the time of `next`."""


class Pose(NamedTuple):
    """A target pose of the grip site: position [3] and rotation [3, 3]."""

    position: np.ndarray
    rotation: np.ndarray


class RobotArm:
    """One arm of an environment.

    Args:
        env: the environment.
        robot: index of the arm's robot.

    Raises:
        EnvConfigError: the environment has other robots, another controller or control frequency.
    """

    def __init__(self, env: RobosuiteEnv, robot: int = 0) -> None:
        if env.robot_settings.chosen():
            raise EnvConfigError(
                "the scripted experts move a Panda by robosuite's own controller, 20 times per second; "
                f"they cannot move {env.task.name} with {env.robot_settings.chosen()}"
            )
        self._data = env.simulator.sim.data
        self._robot = env.simulator.robots[robot]
        self._site = self._robot.eef_site_id["right"]
        self._fingers = self._robot._ref_gripper_joint_pos_indexes["right"]

    @property
    def position(self) -> np.ndarray:
        """Grip position [3]."""
        return self._data.site_xpos[self._site].copy()

    @property
    def rotation(self) -> np.ndarray:
        """Grip rotation [3, 3]."""
        return self._data.site_xmat[self._site].reshape(3, 3).copy()

    @property
    def width(self) -> float:
        """Distance between the fingers in metres: 0.08 when fully open."""
        return float(np.abs(self._data.qpos[self._fingers]).sum())

    @property
    def pointing_down(self) -> np.ndarray:
        """The grip rotation [3, 3] that points straight down with the wrist in its home position."""
        return self._robot.base_ori @ POINTING_DOWN

    def opening_along(self, direction: float) -> np.ndarray:
        """Return the grip rotation [3, 3] that points down and opens along a heading (radians), by the shorter turn."""
        home = self.pointing_down
        return turned(home, smallest_turn(direction - heading(home[:, 0]), np.pi))

    def distance(self, position: np.ndarray) -> float:
        """Return the distance in metres from the grip site to a position."""
        return float(np.linalg.norm(position - self.position))

    def action(self, target: Pose, gripper: float) -> np.ndarray:
        """Return a proportional step towards a pose, float32 [7] in [-1, 1]."""
        base = self._robot.base_ori  # the controller works in the robot's base frame
        translation = base.T @ (target.position - self.position) / POSITION_UNIT
        turn = base.T @ Rotation.from_matrix(target.rotation @ self.rotation.T).as_rotvec() / ROTATION_UNIT
        return np.clip([*translation, *turn, gripper], -1.0, 1.0).astype(np.float32)


def move(
    arm: RobotArm,
    target: Callable[[], Pose],
    gripper: float,
    *,
    tolerance: float = 0.01,
    timeout: int = 80,
    stop: Callable[[], bool] = lambda: False,
) -> Motion:
    """Move until the grip is within `tolerance` metres and 0.1 rad of a (moving) target.

    Gives up after `timeout` steps, or as soon as `stop` holds (say, because the object was dropped).
    """
    for _ in range(timeout):
        pose = target()
        angle = Rotation.from_matrix(pose.rotation @ arm.rotation.T).magnitude()
        if stop() or (arm.distance(pose.position) < tolerance and angle < 0.1):
            return
        yield arm.action(pose, gripper)


def hold(arm: RobotArm, target: Callable[[], Pose], gripper: float, steps: int) -> Motion:
    """Stay at a target for a number of steps."""
    for _ in range(steps):
        yield arm.action(target(), gripper)


def grasp(arm: RobotArm, target: Callable[[], Pose]) -> Motion:
    """Close the fingers at a target until something stops them (20 steps at most)."""
    for step in range(20):
        width = arm.width
        yield arm.action(target(), CLOSE)
        if step > 2 and width - arm.width < 0.0005:
            return


def both(arms: Sequence[RobotArm], targets: Sequence[Pose], gripper: float) -> np.ndarray:
    """Return the step of two arms, each towards its own pose, float32 [14]."""
    return np.concatenate([arm.action(target, gripper) for arm, target in zip(arms, targets, strict=True)])


def above(position: np.ndarray, height: float) -> np.ndarray:
    """Return the point `height` metres above a position [3]."""
    return position + np.array([0.0, 0.0, height])


def turned(rotation: np.ndarray, angle: float) -> np.ndarray:
    """Turn a rotation [3, 3] about the world's vertical axis by an angle in radians."""
    return Rotation.from_euler("z", angle).as_matrix() @ rotation


def heading(axis: np.ndarray) -> float:
    """Return the angle in radians between a vector's horizontal part and the world's x axis."""
    return float(np.arctan2(axis[1], axis[0]))


def smallest_turn(angle: float, period: float) -> float:
    """Return the angle nearest to zero that equals `angle` up to multiples of `period` (a symmetry)."""
    return (angle + period / 2) % period - period / 2


def body_position(env: RobosuiteEnv, body: str) -> np.ndarray:
    """Return the world position of a body, float64 [3], in metres."""
    return env.simulator.sim.data.get_body_xpos(body).copy()


def body_rotation(env: RobosuiteEnv, body: str) -> np.ndarray:
    """Return the world orientation of a body as a rotation matrix [3, 3]."""
    return env.simulator.sim.data.get_body_xmat(body).reshape(3, 3).copy()


def site_position(env: RobosuiteEnv, site: str) -> np.ndarray:
    """Return the world position of a site, float64 [3], in metres."""
    return env.simulator.sim.data.get_site_xpos(site).copy()
