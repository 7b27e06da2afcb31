"""The scripted expert of TwoArmLift."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from s2robot_envs.control import (
    CLOSE,
    OPEN,
    Expert,
    Motion,
    Pose,
    RobotArm,
    above,
    body_rotation,
    both,
    heading,
    site_position,
)
from s2robot_envs.robosuite_env import RobosuiteEnv


class TwoArmLiftExpert(Expert):
    """Grasp each handle of the pot from above with one arm, then lift with both."""

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arms = [RobotArm(env, robot) for robot in (0, 1)]
        across = heading(body_rotation(env, "pot_root")[:, 1])
        grips = [arm.opening_along(across) for arm in arms]

        def handles(height: float = 0.0) -> list[Pose]:
            return [Pose(above(site_position(env, f"pot_handle{i}"), height), grip) for i, grip in enumerate(grips)]

        def raised() -> list[Pose]:
            """Return poses a little above the lower handle, so that the side that is ahead waits for the other."""
            height = min(pose.position[2] for pose in handles()) + 0.05
            return [Pose(np.array([*pose.position[:2], height]), pose.rotation) for pose in handles()]

        yield from self._reach(arms, lambda: handles(0.1), tolerance=0.025)
        yield from self._reach(arms, handles, tolerance=0.012)
        for _ in range(12):
            yield both(arms, handles(), CLOSE)
        while farthest(arms, handles()) < 0.04:
            yield both(arms, raised(), CLOSE)

    @staticmethod
    def _reach(arms: list[RobotArm], targets: Callable[[], list[Pose]], tolerance: float) -> Motion:
        for _ in range(80):
            poses = targets()
            if farthest(arms, poses) < tolerance:
                return
            yield both(arms, poses, OPEN)


def farthest(arms: list[RobotArm], targets: list[Pose]) -> float:
    """Metres from its target of the arm that is farther away."""
    return max(arm.distance(target.position) for arm, target in zip(arms, targets, strict=True))
