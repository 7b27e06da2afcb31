"""Read images from the observations of other packages' environments: find, orient and resize them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from gymnasium import spaces

from s2robot_envs.errors import EnvConfigError

_CHANNELS = (1, 3)
_SMALLEST = 8  # pixels; a smaller matrix of bytes is not taken as an image


def leaves(space: spaces.Space, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, tuple[spaces.Box, tuple[Any, ...]]]]:
    """Yield the arrays of a nested observation space: name, and (space, keys that lead to it).

    Other spaces (text, …) are left out. Names of nested entries are joined by dots; a space that is itself an array is
    named `observation`.
    """
    if isinstance(space, spaces.Dict):
        for key, member in space.items():
            yield from leaves(member, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, member in enumerate(space):
            yield from leaves(member, (*path, index))
    elif isinstance(space, spaces.Box):
        yield ".".join(map(str, path)) or "observation", (space, path)


def is_picture(space: spaces.Box) -> bool:
    """Return whether a space holds images: uint8 [H, W], [H, W, C] or [C, H, W] with C 1 or 3."""
    if space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    if len(space.shape) == 2:
        return min(space.shape) >= _SMALLEST
    return space.shape[2] in _CHANNELS or space.shape[0] in _CHANNELS


def is_map(space: spaces.Box) -> bool:
    """Return whether a space of two axes has the sides of an image, such as a depth map of floating-point numbers."""
    return len(space.shape) == 2 and min(space.shape) >= _SMALLEST


def upright_picture(frame: Any) -> np.ndarray:
    """Convert an image of any layout that `is_picture` accepts to uint8 [H, W, 3].

    Raises:
        EnvConfigError: it is not an image.
    """
    array = np.asarray(frame)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise EnvConfigError(f"a rendered frame is {array.dtype} {array.shape}; valid: uint8 [H, W, 3]")
    if array.ndim == 2:
        array = array[..., None]
    elif array.shape[2] not in _CHANNELS and array.shape[0] in _CHANNELS:
        array = np.moveaxis(array, 0, 2)
    if array.shape[2] not in _CHANNELS:
        raise EnvConfigError(f"a rendered frame has shape {array.shape}; valid: [H, W, 3]")
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def fit_square(frame: np.ndarray, size: int) -> np.ndarray:
    """Fit an image, uint8 [H, W, 3], into a square [size, size, 3]: complete, undistorted, with black bars if needed.

    The result is always a new array, because `frame` may be a buffer that an environment overwrites at every step.
    """
    height, width = frame.shape[:2]
    if (height, width) == (size, size):
        return frame.copy()
    scale = size / max(height, width)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(frame, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
    square[top : top + inner[1], left : left + inner[0]] = resized
    return square


def turned_upright(frame: np.ndarray, model: Any, data: Any, camera_id: int) -> np.ndarray:
    """Turn the image of a camera that is fixed upside down in the world by 180 degrees; hand cameras are unchanged."""
    up = data.cam_xmat[camera_id].reshape(3, 3)[2, 1]  # world z component of the image's upward direction
    fixed = model.cam_bodyid[camera_id] == 0
    return np.ascontiguousarray(frame[::-1, ::-1]) if fixed and up < -1e-6 else frame
