"""The scripted expert of Lift."""

from __future__ import annotations

from s2robot_envs.control import CLOSE, OPEN, Expert, Motion, Pose, RobotArm, above, body_position, grasp, move
from s2robot_envs.robosuite_env import RobosuiteEnv


class LiftExpert(Expert):
    """Move above the cube, descend, close the fingers, and lift."""

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arm = RobotArm(env)

        def cube(height: float = 0.0) -> Pose:
            return Pose(above(body_position(env, "cube_main"), height), arm.pointing_down)

        yield from move(arm, lambda: cube(0.08), OPEN, tolerance=0.03)
        yield from move(arm, cube, OPEN, tolerance=0.012)
        yield from grasp(arm, cube)
        while arm.distance(cube().position) < 0.05:
            yield arm.action(cube(0.1), CLOSE)
