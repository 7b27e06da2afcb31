"""Random shifts of whole frames before encoding: the augmentation that a feature cache allows.

A crop drawn anew in every training step is impossible with features that were computed once. Instead, K shifted copies
of every frame are encoded beside the frame itself, and training draws among them. A shift pads the frame by repeating
its border and crops it back to its size (DrQ, arXiv 2004.13649).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

PUBLISHED_SHIFT = 4 / 84
"""DrQ's ±4 pixels of 84 (arXiv 2004.13649, §4.1); also the range of Diffusion Policy's 76-pixel crops of 84."""


@dataclass(frozen=True)
class Shift:
    """One shifted copy of every frame.

    Each frame of each camera has its own shift, just as it has its own crop in robomimic and Diffusion Policy.
    Neighbouring frames show nearly the same picture, so few copies already give many shifts of it. The shift depends on
    copy, camera and frame number only, so every build draws the same.

    Attributes:
        copy: number of the copy, 1 … K.
        pixels: largest shift in each direction, in pixels.
    """

    copy: int
    pixels: int

    def __call__(self, images: np.ndarray, first_frame: int, camera: str) -> np.ndarray:
        """Shift images uint8 [n, H, W, 3]; they are the frames `first_frame`, `first_frame` + 1, … of the dataset."""
        height, width = images.shape[1:3]
        rows, columns = np.arange(height), np.arange(width)
        shifted = np.empty_like(images)
        for index, image in enumerate(images):
            # crc32, because Python's `hash` of a string differs between processes.
            rng = np.random.default_rng([self.copy, zlib.crc32(camera.encode()), first_frame + index])
            down, right = rng.integers(-self.pixels, self.pixels, size=2, endpoint=True)
            taken = image.take((rows + down).clip(0, height - 1), axis=0)
            shifted[index] = taken.take((columns + right).clip(0, width - 1), axis=1)
        return shifted


def default_pixels(height: int, width: int) -> int:
    """Return `PUBLISHED_SHIFT` of the frame's shorter side, at least one pixel."""
    return max(1, round(min(height, width) * PUBLISHED_SHIFT))
