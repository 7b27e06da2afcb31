"""Families of tasks: what makes the environment of a task, whatever simulates it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.registry import import_from
from s2robot_envs.settings import EnvSettings
from s2robot_envs.variants import Variant

if TYPE_CHECKING:
    from s2robot_envs.base import ImageEnv

DEFAULT = "robosuite"  # its tasks are called by their name alone, all others <family>:<name>

# Family -> where its function (task, settings) -> ImageEnv is. Imported when a task of it is made: the simulators are
# heavy, and the OpenGL backend is chosen before one loads.
FAMILIES = {
    DEFAULT: "s2robot_envs.robosuite_env:make",
    "gym": "s2robot_envs.gymnasium_env:make",
    "metaworld": "s2robot_envs.metaworld_env:make",
}


def family_of(task: str) -> str:
    """The family that a task's name says.

    Raises:
        EnvConfigError: there is no such family; names the choices.
    """
    family, colon, _ = task.partition(":")
    if not colon:
        return DEFAULT
    if family not in FAMILIES:
        raise EnvConfigError(unknown_name("family of tasks", family, set(FAMILIES) - {DEFAULT}))
    return family


def make_plain(task: str, settings: EnvSettings) -> ImageEnv:
    """The environment of a task, one action a step.

    Raises:
        EnvConfigError: unknown family or task, or settings that it cannot have.
    """
    return import_from(FAMILIES[family_of(task)])(task, settings)


def refuse_variant(task: str, settings: EnvSettings) -> None:
    """Refuse a variant, which only robosuite's scenes have.

    Raises:
        EnvConfigError: the settings ask for one.
    """
    if Variant.parse(settings.get("variant")) != Variant():
        raise EnvConfigError(f"variant does not apply to {task}: only robosuite's tasks have variants")
