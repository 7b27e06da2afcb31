"""A program that a test runs with two threads: environments in forked processes that encode their images."""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv

from s2robot.integrations.gymnasium import EncodeObservation

SETTINGS = {"backbone": "test_efficientnet", "weights": "none", "scales": (32, 64)}


class Camera(gymnasium.Env):
    """An environment whose images are noise."""

    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.integers(0, 256, (64, 64, 3), np.uint8), {}


if __name__ == "__main__":
    torch.set_num_threads(2)  # both start with the first environment, made in this process to read the spaces
    envs = AsyncVectorEnv([lambda: EncodeObservation(Camera(), SETTINGS)] * 2, context="fork")
    print(envs.reset(seed=0)[0].shape)
    envs.close()
