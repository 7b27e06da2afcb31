"""What an observation is, by its key, type and shape: proprioception, or why it is not."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

LIKE_PICTURES = "looks like pictures"
PICTURES = "uint8 [T, H, W, C] or [T, C, H, W] with 1, 3 or 4 channels"
_SMALLEST = 8  # pixels; anything lower is a matrix of bytes
_CHANNELS = (1, 3, 4)
_NO_COLOURS = {"depth", "disparity", "mask", "masks", "seg", "segmentation", "instance", "semantic", "label", "labels"}

_OF_AN_OBJECT = "it is the state of an object, by its name"
_OBJECTS = {"object", "objects", "obj", "objs", "environment", "env", "achieved"}
_TEXT = {"lang", "language", "text", "instruction", "emb", "embed", "embedding", "embeddings"}
_POSE = {"pos", "position", "positions", "quat", "quaternion", "pose", "poses", "orientation", "orientations", "rot"}
_POSE |= {"rotation", "rotations", "rpy", "euler", "vel", "velocity", "velocities", "xyz", "xpos", "xquat", "delta"}
_POSE |= {"qpos", "qvel"}
_QUALIFIERS = {"lin", "linear", "ang", "angular", "rel", "relative", "abs", "absolute", "site", "mat", "sin", "cos"}
# Words of the robot itself, of what it is told to do, and of frames of reference.
_ROBOT = {"robot", "eef", "ee", "effector", "endeffector", "tcp", "tool", "gripper", "hand", "hands", "arm", "arms"}
_ROBOT |= {"joint", "joints", "finger", "fingers", "fingertip", "palm", "wrist", "elbow", "shoulder", "torso", "head"}
_ROBOT |= {"base", "agent", "state", "proprio", "proprioception", "motor", "motors", "cartesian", "end", "mocap"}
_ROBOT |= {"leader", "follower", "left", "right", "body", "root", "leg", "legs", "foot", "feet", "waist", "hip"}
_ROBOT |= {"goal", "target", "desired", "command", "commanded", "reference", "current", "measured", "last", "prev"}
_ROBOT |= {"panda", "franka", "sawyer", "iiwa", "ur", "kinova", "xarm", "aloha", "widowx", "jaco", "baxter", "knee"}


def _words(key: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", key).lower()) if word]


def has_word(key: str, words: set[str]) -> bool:
    """Return whether a key has one of the words, between digits, signs and capitals: `agentview_image` has `image`."""
    return bool(words & set(_words(key)))


def picture_size(key: str, dtype: Any, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return height and width of pictures, which are uint8 with 1, 3 or 4 channels, last or first; None for others.

    One channel can also be a depth map or a mask: the key tells.

    >>> picture_size("front", np.uint8, (9, 48, 64, 3)), picture_size("front", np.uint8, (9, 4, 48, 64))
    ((48, 64), (48, 64))
    """
    if np.dtype(dtype) != np.uint8 or len(shape) != 4:
        return None
    last = shape[3] in _CHANNELS
    channels, sides = (shape[3], shape[1:3]) if last else (shape[1], shape[2:])
    if channels not in _CHANNELS or (channels == 1 and _NO_COLOURS & set(_words(key))):
        return None
    if min(sides) < _SMALLEST and not (last and channels == 3):
        return None
    return int(sides[0]), int(sides[1])


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Return pictures of any layout that `picture_size` takes as uint8 [T, H, W, 3].

    Grey becomes three equal channels. Of four channels, the fourth (opacity) is dropped.
    """
    if images.ndim != 4 or images.shape[3] == 3:
        return images
    if images.shape[3] not in _CHANNELS:
        images = np.moveaxis(images, 1, -1)
    if images.shape[3] == 1:
        images = np.broadcast_to(images, (*images.shape[:3], 3))
    return np.ascontiguousarray(images[..., :3])


def why_not_vector(dtype: Any, shape: tuple[int, ...]) -> str | None:
    """Return why an array [T, …] is not proprioception [T] or [T, d]; None if it is."""
    described = f"{np.dtype(dtype)} {list(shape)}"
    if np.dtype(dtype).kind not in "fiub":
        return f"{described} does not hold numbers"
    if len(shape) in (1, 2):
        return None
    if not shape:
        return f"{described} is one value, not one per step"
    if _like_pictures(shape):
        return f"{described} {LIKE_PICTURES}; valid: {PICTURES}, one channel not called a depth map or mask"
    return f"{described} has more than two axes; proprioception is [T, d]"


def _like_pictures(shape: tuple[int, ...]) -> bool:
    if len(shape) == 3:
        return min(shape[1:]) >= _SMALLEST and shape[1] == shape[2]
    sides = [side for side in shape[1:] if side not in (1, 3, 4)]
    return len(shape) == 4 and len(sides) == 2 and min(sides) >= _SMALLEST


def why_left_out(key: str) -> str | None:
    """Return why a policy does not see a key unless it is asked for; None if it does.

    A policy must find the objects with its cameras, so what tells their state is left out. Only the key can tell: the
    words of robosuite, robomimic, LIBERO, ManiSkill, Isaac Lab, LeRobot and gymnasium-robotics are known. A pose whose
    key has no word of a robot is taken for that of an object.

    >>> why_left_out("cube_pos"), why_left_out("robot0_eef_pos"), why_left_out("position")
    ('it is the state of an object, by its name', None, None)
    """
    words = _words(key)
    if words[:1] in (["action"], ["actions"]):
        return "it is an action, by its name"
    if _OBJECTS & set(words):
        return _OF_AN_OBJECT
    if _TEXT & set(words):
        return "it describes the task in words, by its name"
    stem = {word for word in words if word not in _POSE | _QUALIFIERS}
    if "to" in stem:  # from one thing to another: both must be the robot's
        return None if stem - {"to"} <= _ROBOT else _OF_AN_OBJECT
    if not stem or stem == set(words):  # not a pose
        return None
    return None if _ROBOT & stem or len("".join(stem)) == 1 else _OF_AN_OBJECT
