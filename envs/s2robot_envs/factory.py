"""`make_env`: make one environment from a task's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import gymnasium

from s2robot_envs.families import make_plain
from s2robot_envs.settings import EnvSettings, check_names
from s2robot_envs.tasks import ROBOSUITE_TASKS

if TYPE_CHECKING:
    from s2robot_envs.robosuite_env import RobosuiteEnv


def make_env(task: str, **settings: Unpack[EnvSettings]) -> gymnasium.Env:
    """Make one environment.

    Args:
        task: a key of `s2robot_envs.TASKS`, for example `Lift`; or `robosuite:<name>`, any environment that robosuite
            registers; or `gym:<id>`, any environment that `gymnasium.make` makes (`robosuite:module:Name` and
            `gym:module:Name-v0` import the module first); or `metaworld:<task>`;
            or `libero:<suite>/<number>`.
        settings: cameras, sizes, variant and so on, all optional; see `EnvSettings`.

    Returns:
        A `RobosuiteEnv`, `GymnasiumEnv` or `LiberoEnv`, or an `ActionChunk` around one.

    Raises:
        EnvConfigError: a task, setting, camera or profile is unknown, or a size, horizon, variant or step count is not
            valid.
    """
    check_names(settings)
    observation_steps, action_steps = settings.pop("observation_steps", None), settings.pop("action_steps", None)
    env = make_plain(task, settings)
    if observation_steps is None and action_steps is None:
        return env
    # Imported here so that importing the package stays cheap and the OpenGL backend is chosen before mujoco loads.
    from s2robot_envs.action_chunk import ActionChunk

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
    """Make a plain environment; the entry point of the gymnasium registrations, which pass `task` as an argument."""
    from s2robot_envs.robosuite_env import RobosuiteEnv

    return RobosuiteEnv(**kwargs)


def register_with_gymnasium() -> None:
    """Register `s2robot_envs/<Task>-v0` for every task of this package; a second call changes nothing."""
    for name in ROBOSUITE_TASKS:
        env_id = f"s2robot_envs/{name}-v0"
        if env_id not in gymnasium.registry:
            # Without max_episode_steps: the environment truncates and checks the order of calls itself.
            gymnasium.register(env_id, "s2robot_envs.factory:make_for_gymnasium", kwargs={"task": name})
