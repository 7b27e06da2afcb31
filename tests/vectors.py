"""Environments side by side in this process, with the interface of `s2robot_envs.make_vector_env`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class InProcess(SyncVectorEnv):
    """Decided episodes idle, and recordings may differ in length, as among environments in processes."""

    def __init__(self, factory: Callable[[], gymnasium.Env], num_envs: int) -> None:
        super().__init__([factory] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        self.reset(seed=0)  # gymnasium's class cannot reset a part of new environments

    def step(self, actions: np.ndarray) -> Any:
        self._autoreset_envs[:] = False
        return super().step(actions)

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        env_info = dict(env_info)
        frames = env_info.pop("frames", None)
        vector_infos = super()._add_info(vector_infos, env_info, env_num)
        if frames is not None:
            vector_infos.setdefault("frames", np.full(self.num_envs, None, dtype=object))[env_num] = frames
        return vector_infos
