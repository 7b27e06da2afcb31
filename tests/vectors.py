"""Several environments in this process, with the interface of `s2robot_envs.make_vector_env`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from s2robot_envs.processes import RecordingInfos


class InProcess(RecordingInfos):
    """Environments without autoreset, as in `ProcessVectorEnv`: finished episodes idle, recordings differ in length."""

    def __init__(self, factory: Callable[[], gymnasium.Env], num_envs: int) -> None:
        self.num_envs = num_envs
        self.envs = [factory() for _ in range(num_envs)]
        first = self.envs[0]
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seen: list[Any] = [env.reset(seed=0)[0] for env in self.envs]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(self.num_envs, bool))
        infos: dict[str, Any] = {}
        for index in np.flatnonzero(mask):
            self._seen[index], info = self.envs[index].reset(seed=seed[index], options=options)
            infos = self._add_info(infos, info, int(index))
        return self._together(), infos

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        rewards, (ends, cuts) = np.zeros(self.num_envs), np.zeros((2, self.num_envs), bool)
        infos: dict[str, Any] = {}
        for index, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            self._seen[index], rewards[index], ends[index], cuts[index], info = env.step(action)
            infos = self._add_info(infos, info, index)
        return self._together(), rewards, ends, cuts, infos

    def _together(self) -> Any:
        empty = create_empty_array(self.single_observation_space, self.num_envs)
        return deepcopy(concatenate(self.single_observation_space, self._seen, empty))

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()
