"""`make_env`: one environment from a task's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium

from s2robot_envs.tasks import TASKS
from s2robot_envs.variants import Variant

if TYPE_CHECKING:
    from s2robot_envs.robosuite_env import RobosuiteEnv


def make_env(
    task: str,
    *,
    cameras: Sequence[str] | None = None,
    image_size: int | Mapping[str, int | Sequence[int]] = 448,
    render_profile: str = "fast",
    horizon: int | None = None,
    variant: Variant | Mapping[str, Any] | None = None,
    observation_steps: int | None = None,
    action_steps: int | None = None,
    render_mode: str | None = "rgb_array",
) -> gymnasium.Env:
    """Make one environment.

    Args:
        task: a key of `s2robot_envs.TASKS`, for example `Lift`.
        cameras: cameras to observe; None for the task's own (`agentview` and `robot0_eye_in_hand` for one arm).
        image_size: pixels per side: one number, one per camera, or several per camera (see `RobosuiteEnv`).
        render_profile: `fast` or `full`; see `s2robot_envs.rendering.RENDER_PROFILES`.
        horizon: steps until truncation; None for the task's own.
        variant: smaller objects, farther cameras, distractors, randomised looks: a `Variant` or its options.
        observation_steps: To. Giving To or Ta wraps the environment in `ActionChunk` (the other is then 1);
            giving neither returns the plain one-action environment.
        action_steps: Ta.
        render_mode: `rgb_array` or None.

    Returns:
        A `RobosuiteEnv`, or an `ActionChunk` around one.

    Raises:
        EnvConfigError: unknown task, camera or profile, or an impossible size, horizon, variant or step count.
    """
    # Imported here so that importing the package stays cheap and the OpenGL backend is chosen before mujoco loads.
    from s2robot_envs.action_chunk import ActionChunk
    from s2robot_envs.robosuite_env import RobosuiteEnv

    env = RobosuiteEnv(
        task,
        cameras=cameras,
        image_size=image_size,
        render_profile=render_profile,
        horizon=horizon,
        variant=variant,
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
