"""The table of robosuite's tasks: name, horizon and observations of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.registry import Registry

CONTROL_FREQUENCY = 20  # actions per second, robosuite's and robomimic's convention
ROBOT = "Panda"


Clutter = tuple[tuple[float, float], tuple[float, float], float]


@dataclass(frozen=True)
class TaskSpec:
    """One manipulation task.

    Attributes:
        name: name of the task in this package.
        horizon: steps after which an episode is truncated (20 steps are one second).
        cameras: cameras that are observed by default.
        proprioception: keys of the robosuite observables that are observed, in this order.
        num_robots: number of robots, with 7 action dimensions each.
        scalable_body: body of the object that a variant may shrink; None if it must keep its size (see `variants`).
        clutter: free space for distractors: x range, y range and height of the surface [m]; None if there is none.
        robosuite_kwargs: additional arguments of `robosuite.make`.
        environment: robosuite's name of the environment; None if it is `name`. `module:Name` imports the module first,
            which registers its class `Name` with robosuite.
    """

    name: str
    horizon: int
    cameras: tuple[str, ...]
    proprioception: tuple[str, ...]
    num_robots: int = 1
    scalable_body: str | None = None
    clutter: Clutter | None = None
    robosuite_kwargs: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None

    @property
    def robosuite_name(self) -> str:
        """The name that `robosuite.make` takes."""
        return (self.environment or self.name).rpartition(":")[2]


_ONE_ARM_CAMERAS = ("agentview", "robot0_eye_in_hand")
_ONE_ARM_PROPRIOCEPTION = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
_TWO_ARM_PROPRIOCEPTION = (*_ONE_ARM_PROPRIOCEPTION, "robot1_eef_pos", "robot1_eef_quat", "robot1_gripper_qpos")


def _one_arm(name: str, horizon: int, cameras: tuple[str, ...] = _ONE_ARM_CAMERAS, **options: Any) -> TaskSpec:
    return TaskSpec(name, horizon, cameras, _ONE_ARM_PROPRIOCEPTION, **options)


def _two_arms(name: str, horizon: int, cameras: tuple[str, ...]) -> TaskSpec:
    return TaskSpec(name, horizon, cameras, _TWO_ARM_PROPRIOCEPTION, num_robots=2)


_HANDS = ("robot0_eye_in_hand", "robot1_eye_in_hand")

_TABLE: Clutter = ((-0.2, 0.2), (-0.25, 0.25), 0.8)
_PEG_TABLE: Clutter = ((-0.2, 0.1), (-0.3, 0.3), 0.82)  # the pegs stand beyond x = 0.2
_BIN: Clutter = ((-0.03, 0.23), (-0.42, -0.08), 0.8)

# For tasks that robomimic has too, the cameras are robomimic's.
ROBOSUITE_TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        _one_arm("Lift", horizon=150, scalable_body="cube_main", clutter=_TABLE),
        _one_arm("Stack", horizon=250, scalable_body="cubeA_main", clutter=_TABLE),
        _one_arm("PickPlaceCan", horizon=400, scalable_body="Can_main", clutter=_BIN),
        _one_arm("NutAssemblySquare", horizon=400, clutter=_PEG_TABLE),
        _one_arm("Door", horizon=300),
        _one_arm("ToolHang", horizon=700, cameras=("sideview", "robot0_eye_in_hand")),
        _two_arms("TwoArmLift", horizon=300, cameras=("agentview", *_HANDS)),
        _two_arms("TwoArmTransport", horizon=700, cameras=("shouldercamera0", "shouldercamera1", *_HANDS)),
    )
}


# Installed packages add tasks in the entry-point group `s2robot.tasks`.
TASKS = Registry("task", "s2robot.tasks", ROBOSUITE_TASKS)


def get_task(name: str) -> TaskSpec:
    """Look up a task by name.

    Raises:
        EnvConfigError: the task is unknown, and the message lists the choices; or the entry of an installed package is
            not a `TaskSpec` of this name.
    """
    if name not in TASKS:
        raise EnvConfigError(
            f"{unknown_name('task', name, TASKS)}. Further tasks: robosuite:<name> for all that robosuite registers, "
            "gym:<id>, metaworld:<name>"
        )
    spec = TASKS.find(name)
    if not isinstance(spec, TaskSpec) or spec.name != name:
        raise EnvConfigError(f"task {name!r} of {TASKS.provider(name)} is {spec!r}; valid: a TaskSpec of this name")
    return spec
