"""Content of the datasets in `tests/data`: images that survive every codec, and reproducible numbers."""

import numpy as np

LENGTHS = (6, 9, 4)
SIZE = 32  # pixels


def frames(length, seed):
    """Draw a bright square that moves over a gradient, uint8 [length, SIZE, SIZE, 3]; codecs hardly change it."""
    ramp = np.linspace(40, 200, SIZE)
    images = np.empty((length, SIZE, SIZE, 3), np.uint8)
    images[..., 0] = ramp[None, :, None]
    images[..., 1] = ramp[None, None, :]
    images[..., 2] = 60 + 40 * seed
    for step in range(length):
        images[step, 8 + seed : 16 + seed, 2 + step : 10 + step] = 240
    return images


def numbers(length, width, seed):
    """Return reproducible values, float32 [length, width] in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (length, width)).astype(np.float32)
