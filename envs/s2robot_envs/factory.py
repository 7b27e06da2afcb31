"""`make_env`: one environment from a task's name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium

from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.tasks import TASKS
from s2robot_envs.variants import Variant

if TYPE_CHECKING:
    from s2robot_envs.base import ImageEnv
    from s2robot_envs.robosuite_env import RobosuiteEnv

FAMILIES = ("gym", "metaworld")  # tasks that are not robosuite's are called <family>:<name>


def make_env(
    task: str,
    *,
    cameras: Sequence[str] | None = None,
    image_size: int | Mapping[str, int | Sequence[int]] = 448,
    render_profile: str = "fast",
    horizon: int | None = None,
    variant: Variant | Mapping[str, Any] | None = None,
    gym: Mapping[str, Any] | None = None,
    observation_steps: int | None = None,
    action_steps: int | None = None,
    render_mode: str | None = "rgb_array",
) -> gymnasium.Env:
    """Make one environment.

    Args:
        task: a key of `s2robot_envs.TASKS`, for example `Lift`; or `gym:<id>`, any environment that `gymnasium.make`
            makes (`gym:module:Name-v0` imports the module first); or `metaworld:<task>`.
        cameras: cameras to observe; None for the task's own (`agentview` and `robot0_eye_in_hand` for one arm).
        image_size: pixels per side: one number, one per camera, or several per camera (see `ImageEnv`).
        render_profile: `fast` or `full`; see `s2robot_envs.rendering.RENDER_PROFILES`.
        horizon: steps until truncation; None for the task's own.
        variant: smaller objects, farther cameras, distractors, randomised looks: a `Variant` or its options.
        gym: what has to be said about an environment that is not ours, see `foreign.GymOptions`.
        observation_steps: To. Giving To or Ta wraps the environment in `ActionChunk` (the other is then 1);
            giving neither returns the plain one-action environment.
        action_steps: Ta.
        render_mode: `rgb_array` or None.

    Returns:
        A `RobosuiteEnv` or `GymnasiumEnv`, or an `ActionChunk` around one.

    Raises:
        EnvConfigError: unknown task, camera or profile, or an impossible size, horizon, variant or step count.
    """
    # Imported here so that importing the package stays cheap and the OpenGL backend is chosen before mujoco loads.
    from s2robot_envs.action_chunk import ActionChunk

    env = _make_plain(
        task,
        variant,
        gym,
        cameras=cameras,
        image_size=image_size,
        render_profile=render_profile,
        horizon=horizon,
        render_mode=render_mode,
    )
    if observation_steps is None and action_steps is None:
        return env
    try:
        return ActionChunk(
            env,
            observation_steps=1 if observation_steps is None else observation_steps,
            action_steps=1 if action_steps is None else action_steps,
        )
    except BaseException:
        env.close()
        raise


def _make_plain(
    task: str, variant: Variant | Mapping[str, Any] | None, gym: Mapping[str, Any] | None, **settings: Any
) -> ImageEnv:
    if ":" not in task:
        from s2robot_envs.robosuite_env import RobosuiteEnv

        if gym:
            raise EnvConfigError(f"gym options {dict(gym)} do not apply to {task}, a task of robosuite")
        return RobosuiteEnv(task, variant=variant, **settings)
    if Variant.parse(variant) != Variant():
        raise EnvConfigError(f"variant does not apply to {task}: variants change scenes of robosuite")
    return _make_foreign(task, gym or {}, settings)


def _make_foreign(task: str, gym: Mapping[str, Any], settings: dict[str, Any]) -> ImageEnv:
    from s2robot_envs import foreign, gymnasium_env, metaworld_env

    match task.partition(":")[0]:
        case "gym":
            options = foreign.GymOptions.parse(gym)
            inner = foreign.make_registered(task, options)
        case "metaworld":
            options = foreign.GymOptions.parse({**dataclasses.asdict(metaworld_env.OPTIONS), **gym})
            settings = metaworld_env.with_defaults(settings)
            inner = metaworld_env.make_task(task)
        case family:
            raise EnvConfigError(unknown_name("family of tasks", family, FAMILIES))
    try:
        return gymnasium_env.GymnasiumEnv(inner, task=task, options=options, **settings)
    except BaseException:
        inner.close()
        raise


def make_for_gymnasium(**kwargs: Any) -> RobosuiteEnv:
    """Entry point of the gymnasium registrations: a plain environment, `task` among the arguments."""
    from s2robot_envs.robosuite_env import RobosuiteEnv

    return RobosuiteEnv(**kwargs)


def register_with_gymnasium() -> None:
    """Register `s2robot_envs/<Task>-v0` for every task; doing it again changes nothing."""
    for name in TASKS:
        env_id = f"s2robot_envs/{name}-v0"
        if env_id not in gymnasium.registry:
            # The environment truncates and checks the order of calls itself.
            gymnasium.register(env_id, "s2robot_envs.factory:make_for_gymnasium", kwargs={"task": name})
