"""The scripted expert of NutAssemblySquare."""

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
    body_rotation,
    grasp,
    heading,
    hold,
    move,
    site_position,
    smallest_turn,
    turned,
)
from s2robot_envs.robosuite_env import RobosuiteEnv


class NutAssemblySquareExpert(Expert):
    """Grasp the nut by its handle, align its hole with the peg, lower it, and let go."""

    # The nut fits at four angles, but one of them points the handle away from the robot, out of the arm's reach.
    FITS = (QUARTER_TURN, 2 * QUARTER_TURN, 3 * QUARTER_TURN)

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arm = RobotArm(env)
        across = arm.opening_along(heading(body_rotation(env, "SquareNut_main")[:, 1]))

        def handle(height: float = 0.0) -> Pose:
            """Return the grip pose on the handle, a little towards its end so that the fingers clear the nut's body."""
            along = body_rotation(env, "SquareNut_main")[:, 0]
            return Pose(above(site_position(env, "SquareNut_handle_site") + 0.006 * along, height), across)

        def lost() -> bool:
            return arm.distance(body_position(env, "SquareNut_main")) > 0.12

        yield from move(arm, lambda: handle(0.08), OPEN, tolerance=0.015)
        yield from move(arm, handle, OPEN, tolerance=0.012, timeout=30)
        yield from grasp(arm, handle)
        start = arm.position
        yield from move(arm, lambda: Pose(above(start, 0.06), across), CLOSE, tolerance=0.02)
        if lost() or body_rotation(env, "SquareNut_main")[2, 2] < 0.97:  # missed, or hanging askew: drop it
            yield from hold(arm, lambda: Pose(above(start, 0.06), across), OPEN, 6)
            return
        yield from move(arm, lambda: Pose(above(start, 0.2), across), CLOSE, tolerance=0.04)
        fit = min(self.FITS, key=lambda angle: abs(self._turn(env, arm, angle)))

        def carried(height: float) -> Pose:
            """Return the grip pose that aligns the nut with the peg, `height` metres above the peg's centre."""
            held_at = arm.position - body_position(env, "SquareNut_main")
            rotation = turned(arm.pointing_down, self._turn(env, arm, fit))
            return Pose(above(body_position(env, "peg1") + held_at, height), rotation)

        yield from move(arm, lambda: carried(0.13), CLOSE, tolerance=0.008, stop=lost)
        yield from move(arm, lambda: carried(0.0), CLOSE, tolerance=0.02, timeout=40, stop=lost)
        released = Pose(arm.position, arm.rotation)
        yield from hold(arm, lambda: released, OPEN, 6)
        yield from hold(arm, lambda: Pose(above(released.position, 0.15), arm.pointing_down), OPEN, 20)

    @staticmethod
    def _turn(env: RobosuiteEnv, arm: RobotArm, fit: float) -> float:
        """Return the wrist's turn from its home position that brings the held nut to the heading `fit` (radians)."""
        nut = heading(body_rotation(env, "SquareNut_main")[:, 0])
        wrist = heading(arm.rotation[:, 0]) - heading(arm.pointing_down[:, 0])
        return smallest_turn(wrist - nut + fit, 2 * np.pi)
