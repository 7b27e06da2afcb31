"""Scripted experts: state-based controllers that act through the same actions as a policy."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from s2robot_envs import metaworld_env
from s2robot_envs.control import (
    CLOSE,
    OPEN,
    Arm,
    Expert,
    Motion,
    Pose,
    above,
    body_position,
    body_rotation,
    both,
    grasp,
    heading,
    hold,
    move,
    site_position,
    smallest_turn,
    turned,
)
from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.robosuite_env import RobosuiteEnv

QUARTER_TURN = np.pi / 2


class LiftExpert(Expert):
    """Above the cube, down, close, up."""

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arm = Arm(env)

        def cube(height: float = 0.0) -> Pose:
            return Pose(above(body_position(env, "cube_main"), height), arm.pointing_down)

        yield from move(arm, lambda: cube(0.08), OPEN, tolerance=0.03)
        yield from move(arm, cube, OPEN, tolerance=0.012)
        yield from grasp(arm, cube)
        while arm.distance(cube().position) < 0.05:
            yield arm.action(cube(0.1), CLOSE)


class StackExpert(Expert):
    """Grasp the small cube, put it on the large one, let go and leave."""

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arm = Arm(env)
        rotation = self._grip(env, arm)

        def cube(height: float = 0.0) -> Pose:
            return Pose(above(body_position(env, "cubeA_main"), height), rotation)

        def carried(height: float) -> Pose:
            """Where the grip has to be for the small cube to be `height` above the large one."""
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
        stacked = 0.02 + 0.025  # half sizes
        yield from move(arm, lambda: carried(stacked + 0.003), CLOSE, tolerance=0.006, stop=lost)
        if lost():
            return
        released = arm.position
        yield from hold(arm, lambda: Pose(released, rotation), OPEN, 8)
        yield from hold(arm, lambda: Pose(above(released, 0.15), rotation), OPEN, 15)

    @staticmethod
    def _grip(env: RobosuiteEnv, arm: Arm) -> np.ndarray:
        """The home heading, or a quarter turn from it where the large cube would be in a finger's way.

        The closing fingers turn the small cube to them, so its own heading does not matter. A grip that follows the
        faces turns by up to a half turn and jumps between neighbouring states, which policies learn badly.
        """
        between = body_position(env, "cubeB_main") - body_position(env, "cubeA_main")
        home = arm.pointing_down
        along, across = abs(home[:2, 0] @ between[:2]), abs(home[:2, 1] @ between[:2])
        blocked = np.hypot(along, across) < 0.1 and across < 0.05 and across < along
        return turned(home, QUARTER_TURN) if blocked else home


class PickPlaceCanExpert(Expert):
    """Grasp the can from above, carry it over the walls into its bin, let go and leave."""

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arm = Arm(env)
        rotation = arm.pointing_down
        # The corner of its bin nearest to the robot: the bin's middle is at the limit of the arm's reach.
        goal = env.simulator.target_bin_placements[env.simulator.object_id] - [0.045, 0.055, 0.0]

        def can(height: float = 0.01) -> Pose:
            return Pose(above(body_position(env, "Can_main"), height), rotation)

        def carried(height: float) -> Pose:
            """Where the grip has to be for the can to be `height` above its goal."""
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


class NutAssemblySquareExpert(Expert):
    """Grasp the nut by its handle, square its hole with the peg, lower it, let go."""

    # The nut fits in four ways, but one points its handle away from the robot, out of the arm's reach.
    FITS = (QUARTER_TURN, 2 * QUARTER_TURN, 3 * QUARTER_TURN)

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arm = Arm(env)
        across = arm.opening_along(heading(body_rotation(env, "SquareNut_main")[:, 1]))

        def handle(height: float = 0.0) -> Pose:
            """The grip on the handle, a little towards its end: the fingers must clear the nut's body."""
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
            """Where the grip has to be for the nut to be squared with the peg and `height` above its middle."""
            held_at = arm.position - body_position(env, "SquareNut_main")
            rotation = turned(arm.pointing_down, self._turn(env, arm, fit))
            return Pose(above(body_position(env, "peg1") + held_at, height), rotation)

        yield from move(arm, lambda: carried(0.13), CLOSE, tolerance=0.008, stop=lost)
        yield from move(arm, lambda: carried(0.0), CLOSE, tolerance=0.02, timeout=40, stop=lost)
        released = Pose(arm.position, arm.rotation)
        yield from hold(arm, lambda: released, OPEN, 6)
        yield from hold(arm, lambda: Pose(above(released.position, 0.15), arm.pointing_down), OPEN, 20)

    @staticmethod
    def _turn(env: RobosuiteEnv, arm: Arm, fit: float) -> float:
        """Turn of the wrist from its home position that brings the held nut to the heading `fit`."""
        nut = heading(body_rotation(env, "SquareNut_main")[:, 0])
        wrist = heading(arm.rotation[:, 0]) - heading(arm.pointing_down[:, 0])
        return smallest_turn(wrist - nut + fit, 2 * np.pi)


class DoorExpert(Expert):
    """Grasp the lever from the front, turn it down until the latch is free, pull the door open."""

    # In the latch's frame (x along the lever, y into the door, z up): the gripper points into the door and opens
    # along z, and holds the lever near its end.
    GRIP = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
    LEVER_END = np.array([0.11, -0.10, 0.0])

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arm = Arm(env)

        def lever(out: float = 0.0, turn: float = 0.0) -> Pose:
            """The grip on the lever, `out` metres in front of it, turned `turn` radians further down."""
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


class TwoArmLiftExpert(Expert):
    """Each arm grasps its handle of the pot from above, then both rise together."""

    def attempt(self, env: RobosuiteEnv) -> Motion:
        """See `Expert.attempt`."""
        arms = [Arm(env, robot) for robot in (0, 1)]
        across = heading(body_rotation(env, "pot_root")[:, 1])
        grips = [arm.opening_along(across) for arm in arms]

        def handles(height: float = 0.0) -> list[Pose]:
            return [Pose(above(site_position(env, f"pot_handle{i}"), height), grip) for i, grip in enumerate(grips)]

        def raised() -> list[Pose]:
            """Both handles a little above the lower one: the side that is ahead waits for the other."""
            height = min(pose.position[2] for pose in handles()) + 0.05
            return [Pose(np.array([*pose.position[:2], height]), pose.rotation) for pose in handles()]

        yield from self._reach(arms, lambda: handles(0.1), tolerance=0.025)
        yield from self._reach(arms, handles, tolerance=0.012)
        for _ in range(12):
            yield both(arms, handles(), CLOSE)
        while farthest(arms, handles()) < 0.04:
            yield both(arms, raised(), CLOSE)

    @staticmethod
    def _reach(arms: list[Arm], targets: Callable[[], list[Pose]], tolerance: float) -> Motion:
        for _ in range(80):
            poses = targets()
            if farthest(arms, poses) < tolerance:
                return
            yield both(arms, poses, OPEN)


def farthest(arms: list[Arm], targets: list[Pose]) -> float:
    """Metres from its target of the arm that is farther away."""
    return max(arm.distance(target.position) for arm, target in zip(arms, targets, strict=True))


EXPERTS: dict[str, type[Expert]] = {
    "Door": DoorExpert,
    "Lift": LiftExpert,
    "NutAssemblySquare": NutAssemblySquareExpert,
    "PickPlaceCan": PickPlaceCanExpert,
    "Stack": StackExpert,
    "TwoArmLift": TwoArmLiftExpert,
}


def make_expert(task: str, imported: str | None = None) -> Expert:
    """The scripted expert of a task.

    Args:
        task: a task of `make_env`; for Meta-World's it is Meta-World's own policy.
        imported: where to find another expert, `module:Name`: a class, or a function without arguments, that gives an
            object with the methods of `Expert`.

    Raises:
        EnvConfigError: the task has none, and the message lists those that do; or nothing can be imported there.
    """
    if imported is not None:
        return _imported_expert(imported)
    if task.startswith(metaworld_env.PREFIX):
        return metaworld_env.MetaWorldExpert(task)
    if task not in EXPERTS:
        raise EnvConfigError(
            unknown_name("task with a scripted expert", task, EXPERTS) + "; for others give expert=module:Name"
        )
    return EXPERTS[task]()


def _imported_expert(where: str) -> Expert:
    module, _, name = where.partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, ValueError) as error:
        raise EnvConfigError(
            f"expert={where!r} cannot be imported ({error}); valid: module:Name, where PYTHONPATH leads to the module"
        ) from error
