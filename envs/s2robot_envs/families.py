"""Families of tasks: each simulator has one function that makes the environment of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.registry import import_from
from s2robot_envs.settings import ROBOSUITE_SETTINGS, EnvSettings
from s2robot_envs.variants import Variant

if TYPE_CHECKING:
    from s2robot_envs.base import ImageEnv

DEFAULT = "robosuite"  # the tasks of our table are named by <name> alone, all others by <family>:<name>

# Family -> "module:function" of its function (task, settings) -> ImageEnv. Imported when a task of the family is made,
# because simulators load slowly and the OpenGL backend must be chosen before one loads.
FAMILIES = {
    DEFAULT: "s2robot_envs.robosuite_env:make",
    "gym": "s2robot_envs.gymnasium_env:make",
    "libero": "s2robot_envs.libero_env:make",
    "metaworld": "s2robot_envs.metaworld_env:make",
}

_WITH_ROBOTS = (DEFAULT, "libero")  # whose robots and controllers can be chosen


def family_of(task: str) -> str:
    """Return the family that a task's name states.

    Raises:
        EnvConfigError: the family is unknown; the message names the choices.
    """
    family, colon, _ = task.partition(":")
    if not colon:
        return DEFAULT
    if family not in FAMILIES:
        raise EnvConfigError(unknown_name("family of tasks", family, FAMILIES))
    return family


def make_plain(task: str, settings: EnvSettings) -> ImageEnv:
    """Make the environment of a task without `ActionChunk`: one action per step.

    Raises:
        EnvConfigError: the family or task is unknown, or a setting does not apply to it.
    """
    family = family_of(task)
    if family not in _WITH_ROBOTS:
        settings = _without_robots(task, settings)
    return import_from(FAMILIES[family])(task, settings)


def _without_robots(task: str, settings: EnvSettings) -> EnvSettings:
    others: dict[str, Any] = dict(settings)
    for name in ROBOSUITE_SETTINGS:
        if others.pop(name, None) is not None:
            instead = "; gym.proprioception selects parts of the observation" if name == "proprioception" else ""
            raise EnvConfigError(f"{name} does not apply to {task}: it is a setting of robosuite's tasks{instead}")
    return cast(EnvSettings, others)


def refuse_variant(task: str, settings: EnvSettings) -> None:
    """Check that the settings request no variant, for tasks outside robosuite.

    Raises:
        EnvConfigError: the settings request a variant.
    """
    if Variant.parse(settings.get("variant")) != Variant():
        raise EnvConfigError(f"variant does not apply to {task}: only robosuite's tasks have variants")
