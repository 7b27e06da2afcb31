"""The settings of an environment, defined once for all functions that make one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.variants import Variant

ROBOT_SETTINGS = ("robots", "controller", "control_freq", "robosuite")  # what moves, and how
ROBOSUITE_SETTINGS = (*ROBOT_SETTINGS, "proprioception")  # of robosuite's tasks only


class EnvSettings(TypedDict, total=False):
    """Keyword arguments of `make_env` and `make_vector_env`; `collect` and `replay` take them as a mapping.

    Attributes:
        cameras: cameras to observe; None for the task's own (`agentview` and `robot0_eye_in_hand` for one arm).
        image_size: pixels per side: one number (448), one per camera, or several per camera (see `ImageEnv`).
        render_profile: `fast` or `full`; see `s2robot_envs.rendering.RENDER_PROFILES`.
        horizon: steps until truncation; None for the task's own.
        variant: smaller objects, farther cameras, distractors or randomised looks: a `Variant` or its options.
        robots: robosuite's names of the robots, one or a list; None for a Panda, or two.
        controller: robosuite's name of a controller, or its settings; one, or one per robot; None for the robot's own.
        control_freq: actions per second of a robosuite task; None for 20.
        robosuite: further arguments of `robosuite.make`.
        proprioception: robosuite's observables to observe; None for the task's own.
        gym: options of a gymnasium environment that is not from this package, see `foreign.GymOptions`.
        observation_steps: number of observations To of the `ActionChunk` around the environment. `make_env` adds an
            `ActionChunk` if To or Ta is given (the other is then 1), else it returns the plain one-action environment.
        action_steps: number of actions Ta of the `ActionChunk`.
        render_mode: `rgb_array` or None.
    """

    cameras: Sequence[str] | None
    image_size: int | Mapping[str, int | Sequence[int]]
    render_profile: str
    horizon: int | None
    variant: Variant | Mapping[str, Any] | None
    robots: str | Sequence[str] | None
    controller: str | Mapping[str, Any] | Sequence[Any] | None
    control_freq: float | None
    robosuite: Mapping[str, Any] | None
    proprioception: Sequence[str] | None
    gym: Mapping[str, Any] | None
    observation_steps: int | None
    action_steps: int | None
    render_mode: str | None


def check_names(settings: Mapping[str, Any], further: Iterable[str] = ()) -> None:
    """Check that all settings exist.

    Args:
        settings: name -> value.
        further: other names that the caller accepts, listed in the message.

    Raises:
        EnvConfigError: a setting is unknown; the message names it and the choices.
    """
    for name in settings:
        if name not in EnvSettings.__annotations__:
            raise EnvConfigError(unknown_name("environment setting", name, [*EnvSettings.__annotations__, *further]))
