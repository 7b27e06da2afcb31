"""The scripted expert of Stack."""

from __future__ import annotations

import numpy as np

from s2robot_envs.control import (
    CLOSE,
    OPEN,
    QUARTER_TURN,
    Expert,
    Motion,
    Pose,
    RobotArm,
    above,
    body_position,
    grasp,
    hold,
    move,
    turned,
)
from s2robot_envs.robosuite_env import RobosuiteEnv


class StackExpert(Expert):
    """Grasp the small cube, put it on the large one, let go, and move away."""

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arm = RobotArm(env)
        rotation = self._grip(env, arm)

        def cube(height: float = 0.0) -> Pose:
            return Pose(above(body_position(env, "cubeA_main"), height), rotation)

        def carried(height: float) -> Pose:
            """Return the grip pose that holds the small cube `height` metres above the large one (centre to centre)."""
            held_at = arm.position - body_position(env, "cubeA_main")
            return Pose(above(body_position(env, "cubeB_main") + held_at, height), rotation)

        def lost() -> bool:
            return arm.distance(body_position(env, "cubeA_main")) > 0.05

        yield from move(arm, lambda: cube(0.1), OPEN, tolerance=0.03)
        yield from move(arm, cube, OPEN)
        yield from grasp(arm, cube)
        start = arm.position
        yield from move(arm, lambda: Pose(above(start, 0.12), rotation), CLOSE, tolerance=0.03, stop=lost)
        yield from move(arm, lambda: carried(0.1), CLOSE, stop=lost)
        stacked = 0.02 + 0.025  # half sizes of the cubes in metres
        yield from move(arm, lambda: carried(stacked + 0.003), CLOSE, tolerance=0.006, stop=lost)
        if lost():
            return
        released = arm.position
        yield from hold(arm, lambda: Pose(released, rotation), OPEN, 8)
        yield from hold(arm, lambda: Pose(above(released, 0.15), rotation), OPEN, 15)

    @staticmethod
    def _grip(env: RobosuiteEnv, arm: RobotArm) -> np.ndarray:
        """Return the home rotation, or a quarter turn from it if the large cube would be in a finger's way.

        The closing fingers turn the small cube into alignment, so its own heading does not matter. A grip that followed
        the cube's faces would turn by up to a half turn and jump between neighbouring states, which policies learn
        badly.
        """
        between = body_position(env, "cubeB_main") - body_position(env, "cubeA_main")
        home = arm.pointing_down
        along, across = abs(home[:2, 0] @ between[:2]), abs(home[:2, 1] @ between[:2])
        blocked = np.hypot(along, across) < 0.1 and across < 0.05 and across < along
        return turned(home, QUARTER_TURN) if blocked else home
