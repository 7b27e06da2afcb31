"""The scripted expert of Door."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from s2robot_envs.control import (
    CLOSE,
    OPEN,
    Expert,
    Motion,
    Pose,
    RobotArm,
    body_position,
    body_rotation,
    grasp,
    move,
)
from s2robot_envs.robosuite_env import RobosuiteEnv


class DoorExpert(Expert):
    """Grasp the lever from the front, turn it down until the latch is free, and pull the door open."""

    # In the latch's frame (x along the lever, y into the door, z up): the gripper points into the door and opens
    # along z, and holds the lever near its end.
    GRIP = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
    LEVER_END = np.array([0.11, -0.10, 0.0])

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arm = RobotArm(env)

        def lever(out: float = 0.0, turn: float = 0.0) -> Pose:
            """Return the grip pose on the lever: `out` metres in front of it, turned `turn` radians further down."""
            frame = body_rotation(env, "Door_latch") @ Rotation.from_euler("y", turn).as_matrix()
            point = body_position(env, "Door_latch") + frame @ (self.LEVER_END - [0.0, out, 0.0])
            return Pose(point, frame @ self.GRIP)

        def angle(joint: str) -> float:
            return float(env.simulator.sim.data.get_joint_qpos(joint))

        def holding() -> bool:
            return arm.distance(lever().position) < 0.06

        yield from move(arm, lambda: lever(out=0.1), OPEN, tolerance=0.03)
        yield from move(arm, lever, OPEN, tolerance=0.015)
        yield from grasp(arm, lever)
        while angle("Door_latch_joint") < 1.2 and angle("Door_hinge") < 0.05 and holding():
            yield arm.action(lever(turn=0.5), CLOSE)
        while holding():
            yield arm.action(lever(out=0.06, turn=0.2), CLOSE)
