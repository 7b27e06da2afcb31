"""The settings of an environment, spelled once for everything that makes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.variants import Variant


class EnvSettings(TypedDict, total=False):
    """Keyword arguments of `make_env`, `make_vector_env` and, as a mapping, of collecting and replaying.

    Attributes:
        cameras: cameras to observe; None for the task's own (`agentview` and `robot0_eye_in_hand` for one arm).
        image_size: pixels per side: one number (448), one per camera, or several per camera (see `ImageEnv`).
        render_profile: `fast` or `full`; see `s2robot_envs.rendering.RENDER_PROFILES`.
        horizon: steps until truncation; None for the task's own.
        variant: smaller objects, farther cameras, distractors, randomised looks: a `Variant` or its options.
        gym: what has to be said about an environment that is not ours, see `foreign.GymOptions`.
        observation_steps: To of the `ActionChunk` around the environment. In `make_env`, giving To or Ta adds it (the
            other is then 1); giving neither returns the plain one-action environment.
        action_steps: Ta.
        render_mode: `rgb_array` or None.
    """

    cameras: Sequence[str] | None
    image_size: int | Mapping[str, int | Sequence[int]]
    render_profile: str
    horizon: int | None
    variant: Variant | Mapping[str, Any] | None
    gym: Mapping[str, Any] | None
    observation_steps: int | None
    action_steps: int | None
    render_mode: str | None


def check_names(settings: Mapping[str, Any], further: Iterable[str] = ()) -> None:
    """Refuse a setting that does not exist.

    Args:
        settings: name -> value.
        further: valid names beside those of `EnvSettings`, for the message.

    Raises:
        EnvConfigError: names it and the choices.
    """
    for name in settings:
        if name not in EnvSettings.__annotations__:
            raise EnvConfigError(unknown_name("environment setting", name, [*EnvSettings.__annotations__, *further]))
