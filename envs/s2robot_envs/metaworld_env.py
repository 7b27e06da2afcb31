"""Meta-World v3's tasks and scripted policies: `make_env("metaworld:button-press-topdown-v3", …)`.

Install `s2robot[metaworld]`. Sources: https://metaworld.farama.org, `metaworld/sawyer_xyz_env.py` of version 3.0.0.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import warnings
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from s2robot_envs.control import Expert, Motion
from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.families import refuse_variant
from s2robot_envs.foreign import GymOptions
from s2robot_envs.gymnasium_env import GymnasiumEnv, wrap
from s2robot_envs.settings import EnvSettings

_PREFIX = "metaworld:"
CAMERAS = ("corner2", "gripperPOV")  # the camera of published results, and the camera at the gripper
HORIZON = 500  # Meta-World's own horizon, which is also its maximum
# Only what a robot can measure of itself: the rest of Meta-World's vector has the poses of the objects and the goal,
# which a policy must find through the cameras.
OPTIONS = GymOptions(
    success="success",
    proprioception={"hand_pos": ["observation", 0, 3], "gripper": ["observation", 3, 4]},
)


@functools.cache
def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EnvConfigError(f"Meta-World is not installed: pip install 's2robot[metaworld]' ({error})") from error


def make_task(task: str) -> gymnasium.Env:
    """Make the Meta-World task named after `metaworld:`, with a `reset` that obeys its seed.

    Raises:
        EnvConfigError: Meta-World is not installed, or does not have the task.
    """
    tasks = _import("metaworld.env_dict").ALL_V3_ENVIRONMENTS
    name = task.removeprefix(_PREFIX)
    if name not in tasks:
        raise EnvConfigError(unknown_name("Meta-World task", name, tasks))
    env = tasks[name]()
    # The same settings as Meta-World's own `*-goal-observable` environments: placements are drawn at every reset, not
    # given by `set_task`, and the vector contains the goal, which the scripted policies read.
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    env._set_task_called, env._partially_observable = True, False
    # The cached space was made for a hidden goal, and observations are clipped to it: the goal would become zero.
    del env.sawyer_observation_space
    env.observation_space = env.sawyer_observation_space
    return Seeded(env)


def make(task: str, settings: EnvSettings) -> GymnasiumEnv:
    """Make the Meta-World task named after `metaworld:`; cameras and horizon default to Meta-World's.

    Raises:
        EnvConfigError: the same as for `make_task` and `GymnasiumEnv`, or the horizon exceeds Meta-World's.
    """
    refuse_variant(task, settings)
    options = GymOptions.parse({**dataclasses.asdict(OPTIONS), **(settings.get("gym") or {})})
    horizon, cameras = settings.get("horizon"), settings.get("cameras")
    horizon = HORIZON if horizon is None else horizon
    if horizon > HORIZON:
        raise EnvConfigError(f"horizon is {horizon}, but Meta-World ends every episode after {HORIZON} steps")
    own: EnvSettings = {**settings, "horizon": horizon, "cameras": CAMERAS if cameras is None else cameras}
    return wrap(make_task(task), task, options, own)


class Seeded(gymnasium.Wrapper):
    """Make `reset(seed=…)` work: Meta-World ignores it and has a method `seed` instead."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset as gymnasium defines it."""
        if seed is not None:
            self.env.unwrapped.seed(seed)  # type: ignore[attr-defined]
        return self.env.reset(options=options)


class MetaWorldExpert(Expert):
    """Meta-World's own scripted policy for a task.

    Args:
        task: name of the task, with the prefix `metaworld:`.

    Raises:
        EnvConfigError: the same as for `make_task`.
    """

    def __init__(self, task: str) -> None:
        policies = _import("metaworld.policies").ENV_POLICY_MAP
        name = task.removeprefix(_PREFIX)
        if name not in policies:
            raise EnvConfigError(unknown_name("Meta-World task with a scripted policy", name, policies))
        self._policy = policies[name]()

    def attempt(self, env: GymnasiumEnv) -> Motion:
        """See `Expert.attempt`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it warns of clipping large actions, which is done below
            action = self._policy.get_action(env.raw_observation)
        yield np.clip(action, -1.0, 1.0).astype(np.float32)
