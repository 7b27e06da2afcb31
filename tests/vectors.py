"""Environments side by side in this process, with the interface of `s2robot_envs.make_vector_env`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from s2robot_envs.processes import RecordingInfos


class InProcess(RecordingInfos, SyncVectorEnv):
    """Decided episodes idle, and recordings may differ in length, as among environments in processes."""

    def __init__(self, factory: Callable[[], gymnasium.Env], num_envs: int) -> None:
        super().__init__([factory] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        self.reset(seed=0)  # gymnasium's class cannot reset a part of new environments

    def step(self, actions: np.ndarray) -> Any:
        self._autoreset_envs[:] = False
        return super().step(actions)
