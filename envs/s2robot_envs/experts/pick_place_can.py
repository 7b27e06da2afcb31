"""The scripted expert of PickPlaceCan."""

from __future__ import annotations

from s2robot_envs.control import CLOSE, OPEN, Expert, Motion, Pose, RobotArm, above, body_position, grasp, hold, move
from s2robot_envs.robosuite_env import RobosuiteEnv


class PickPlaceCanExpert(Expert):
    """Grasp the can from above, carry it over the walls into its bin, let go, and move away."""

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arm = RobotArm(env)
        rotation = arm.pointing_down
        # Aim for the bin's corner nearest to the robot, because its middle is at the limit of the arm's reach.
        goal = env.simulator.target_bin_placements[env.simulator.object_id] - [0.045, 0.055, 0.0]

        def can(height: float = 0.01) -> Pose:
            return Pose(above(body_position(env, "Can_main"), height), rotation)

        def carried(height: float) -> Pose:
            """Return the grip pose that holds the can `height` metres above its goal."""
            return Pose(above(goal, height) + arm.position - body_position(env, "Can_main"), rotation)

        def lost() -> bool:
            return arm.distance(body_position(env, "Can_main")) > 0.08

        yield from move(arm, lambda: can(0.12), OPEN, tolerance=0.03)
        yield from move(arm, can, OPEN, tolerance=0.012)
        yield from grasp(arm, can)
        start = arm.position
        yield from move(arm, lambda: Pose(above(start, 0.22), rotation), CLOSE, tolerance=0.05, stop=lost)
        yield from move(arm, lambda: carried(0.22), CLOSE, tolerance=0.04, stop=lost)
        yield from move(arm, lambda: carried(0.09), CLOSE, tolerance=0.03, stop=lost)
        released = arm.position
        yield from hold(arm, lambda: Pose(released, rotation), OPEN, 4)
        yield from hold(arm, lambda: Pose(above(released, 0.2), rotation), OPEN, 25)
