"""An environment whose images are noise; without PyTorch, because worker processes import it."""

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE = 64


class Pictures(gymnasium.Env):
    """Noise from one or two cameras, drawn from the seed."""

    def __init__(self, layout="dict", steps=()):
        image = spaces.Box(0, 255, (*steps, SIZE, SIZE, 3), np.uint8)
        chw = spaces.Box(0, 255, (*steps, 3, SIZE, SIZE), np.uint8)
        vector = spaces.Box(-1, 1, (4,), np.float32)
        self.observation_space = {
            "dict": spaces.Dict({"front": image, "wrist": chw, "position": vector}),
            "image": image,
            "vector": vector,
            "uneven": spaces.Dict({"front": spaces.Box(0, 255, (2, SIZE, SIZE, 3), np.uint8), "wrist": image}),
        }[layout]
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def _draw(self, space):
        if isinstance(space, spaces.Dict):
            return {key: self._draw(entry) for key, entry in space.spaces.items()}
        if space.dtype == np.uint8:
            return self.np_random.integers(0, 256, space.shape, np.uint8)
        return self.np_random.uniform(-1, 1, space.shape).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._draw(self.observation_space), {}

    def step(self, action):
        return self._draw(self.observation_space), 0.0, False, False, {}
