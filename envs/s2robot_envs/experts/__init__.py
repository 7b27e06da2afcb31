"""Scripted experts: state-based controllers that use the same actions as a policy, one file per task."""

from __future__ import annotations

import importlib

from s2robot_envs.control import Expert
from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.families import family_of
from s2robot_envs.registry import Registry

__all__ = ["EXPERTS", "make_expert"]

# <task> -> class without arguments; <family>:* -> class of a whole family, which takes the task's name. Installed
# packages add experts in the entry-point group `s2robot.experts`.
EXPERTS = Registry(
    "expert",
    "s2robot.experts",
    {
        "Door": "s2robot_envs.experts.door:DoorExpert",
        "Lift": "s2robot_envs.experts.lift:LiftExpert",
        "NutAssemblySquare": "s2robot_envs.experts.nut_assembly_square:NutAssemblySquareExpert",
        "PickPlaceCan": "s2robot_envs.experts.pick_place_can:PickPlaceCanExpert",
        "Stack": "s2robot_envs.experts.stack:StackExpert",
        "TwoArmLift": "s2robot_envs.experts.two_arm_lift:TwoArmLiftExpert",
        "metaworld:*": "s2robot_envs.metaworld_env:MetaWorldExpert",
    },
)


def expert_name(task: str) -> str:
    """Return the key of `EXPERTS` that holds a task's expert.

    Raises:
        EnvConfigError: the task has no expert; the message names the tasks that have one.
    """
    whole_family = f"{task.partition(':')[0]}:*"
    for name in (task, whole_family):
        if name in EXPERTS:
            return name
    family_of(task)
    raise EnvConfigError(
        unknown_name("task with a scripted expert", task, EXPERTS) + "; for others give expert=module:Name"
    )


def make_expert(task: str, imported: str | None = None) -> Expert:
    """Make the scripted expert of a task.

    Args:
        task: a task of `make_env`; the experts of Meta-World's tasks are Meta-World's own policies.
        imported: another expert, as `module:Name`: a class or function without arguments that returns an object with
            the methods of `Expert`.

    Raises:
        EnvConfigError: the task has no expert, and the message lists the tasks that have one; or `imported` cannot be
            imported.
    """
    if imported is not None:
        return _imported_expert(imported)
    name = expert_name(task)
    return EXPERTS[name](task) if name.endswith(":*") else EXPERTS[name]()


def _imported_expert(where: str) -> Expert:
    module, _, name = where.partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, ValueError) as error:
        raise EnvConfigError(
            f"expert={where!r} cannot be imported ({error}); valid: module:Name of a module on PYTHONPATH"
        ) from error
