"""The computations of the server: observations of several clients → action chunks.

An episode keeps the same state as in rollouts, and also the proprioception of its last To steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2robot.checkpoint import Checkpoint
from s2robot.data.appearance import recorded_size
from s2robot.encoder import S2Encoder
from s2robot.encoder.cost import largest_size
from s2robot.interfaces import S2RobotError
from s2robot.policies import Policy
from s2robot.rollout.inference import EpisodeState, Inference

_LARGEST_SIDE = 4096  # pixels; larger than any camera's images, and still small enough to resize


class RequestError(S2RobotError):
    """A client's request is invalid; the message says what was expected."""


@dataclass
class ObservedStep:
    """Observation of one step: camera -> image uint8 [H, W, 3], and proprioception float32 [d]."""

    images: dict[str, np.ndarray]
    proprioception: np.ndarray


class ServedEpisode(EpisodeState):
    """The episode of one client.

    Args:
        seed, past_actions: as in `EpisodeState`.

    Attributes:
        proprioception: proprioception float32 [d] of each of the last To steps; empty before the first step.
    """

    def __init__(self, seed: int, past_actions: np.ndarray) -> None:
        super().__init__(seed, past_actions)
        self.proprioception: list[np.ndarray] = []

    def remember_steps(self, encoded: Sequence[Mapping[str, Tensor]], proprioception: Sequence[np.ndarray]) -> None:
        """Append the newest steps; as with features, the first step also stands for the steps before it."""
        self.remember_features(encoded)
        length = len(self.past_actions)
        earlier = self.proprioception or [proprioception[0]] * length
        self.proprioception = [*earlier, *proprioception][-length:]


@dataclass
class Request:
    """The new steps of an episode, and the actions [n, A] executed between them."""

    episode: ServedEpisode
    frames: list[ObservedStep]
    executed: np.ndarray


class EpisodeRunner:
    """Runs the policy of a checkpoint for several episodes at once.

    Args:
        policy, encoder, checkpoint: as returned by `load_policy`.
        device: device of policy and encoder.
    """

    def __init__(self, policy: Policy, encoder: S2Encoder, checkpoint: Checkpoint, device: torch.device) -> None:
        self._inference = Inference(policy, encoder, checkpoint.spec, device)
        self._encoder = encoder
        self._spec = checkpoint.spec
        self._keys = checkpoint.proprioception
        self._sizes = {camera: recorded_size(checkpoint.environment, camera) for camera in self._spec.features}
        config = checkpoint.config.policy
        self.steps, self.execute_steps = config.observation_steps, config.execute_steps
        self.info = {
            "policy": config.name,
            "cameras": list(self._spec.features),
            "image_size": checkpoint.environment.get("image_size"),
            "proprioception": list(self._keys),
            "proprioception_width": self._spec.proprioception_width,
            "observation_steps": self.steps,
            "execute_steps": self.execute_steps,
            "action_width": self._spec.action_width,
            "encoder": encoder.fingerprint(),
        }
        if policy.observation.task is not None:
            self.info["task_text"] = self._spec.tasks[policy.observation.task.chosen or 0]

    def warm_up(self) -> None:
        """Act once on black images, because engines compile in their first call."""
        sizes = {camera: size or largest_size(self._encoder.scales) for camera, size in self._sizes.items()}
        if any(self._encoder.feature_shape(*size) != self._spec.features[camera] for camera, size in sizes.items()):
            return  # the size is not recorded, and with an encoder that keeps the aspect ratio it cannot be guessed
        images = {camera: np.zeros((*size, 3), np.uint8) for camera, size in sizes.items()}
        frame = ObservedStep(images, np.zeros(self._spec.proprioception_width, np.float32))
        none = np.zeros((self.steps, self._spec.action_width), np.float32)
        self.act([Request(ServedEpisode(0, none), [frame], none[:0])])

    def reset(self, message: dict[str, Any]) -> tuple[ServedEpisode, list[ObservedStep]]:
        """Start an episode, or continue one that another connection started.

        Returns:
            The episode, and its steps that are not encoded yet.

        Raises:
            RequestError: a field is missing, or has a wrong type or size.
        """
        seed, decisions = _integer(message, "seed", 2**63), _integer(message, "decisions", 2**31, 0)
        past = np.zeros((self.steps, self._spec.action_width), np.float32)
        if "past_actions" in message:
            past = self._actions(message["past_actions"], "past_actions")
            if len(past) != self.steps:
                raise RequestError(f"past_actions holds {len(past)} steps; expected {self.steps}")
        frames = [self._frame(entry) for entry in _list(message, "observations", self.steps)]
        # A continued episode must not draw its first noise again, so it gets a new seed, derived from both numbers.
        noise = seed if not decisions else int(np.random.SeedSequence([seed, decisions]).generate_state(1)[0])
        return ServedEpisode(noise, past), frames

    def request(self, episode: ServedEpisode, waiting: list[ObservedStep], message: dict[str, Any]) -> Request:
        """Check a client's new steps; `waiting` are earlier steps that are not encoded yet.

        Raises:
            RequestError: as for `reset`, or the number of observations does not fit the actions executed.
        """
        executed = self._actions(message.get("executed"), "executed")
        steps = _integer(message, "steps", 2**31, len(executed))
        expected = min(self.steps, steps) if episode.features or waiting else 1
        frames = [self._frame(entry) for entry in _list(message, "observations", self.steps)]
        if len(frames) != expected or len(executed) != min(self.steps, steps):
            raise RequestError(
                f"got {len(frames)} observations and {len(executed)} actions for {steps} executed actions; expected "
                f"{expected} observations (one after each action, the first after reset; at most the last "
                f"{self.steps}) and {min(self.steps, steps)} actions"
            )
        return Request(episode, [*waiting, *frames], executed)

    @torch.inference_mode()
    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Append the requests' steps to their episodes, and return actions float32 [execute_steps, A] per request."""
        if not requests:
            return []
        encoded = iter(self._inference.encode([frame.images for request in requests for frame in request.frames]))
        for request in requests:
            proprioception = [frame.proprioception for frame in request.frames]
            request.episode.remember_steps(list(islice(encoded, len(proprioception))), proprioception)
            request.episode.remember_actions(request.executed)
        episodes = [request.episode for request in requests]
        chunks = self._inference.predict(episodes, np.stack([np.stack(episode.proprioception) for episode in episodes]))
        return list(chunks[:, : self.execute_steps])

    def _frame(self, entry: Any) -> ObservedStep:
        cameras = {camera: f"{camera}_image" for camera in self._spec.features}
        expected = {*cameras.values(), *self._keys}
        if not isinstance(entry, dict) or set(entry) != expected:
            got = sorted(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
            raise RequestError(f"an observation has the keys {got}; expected {sorted(expected)}")
        images = {camera: self._image(camera, entry[key]) for camera, key in cameras.items()}
        parts = [_numbers(entry[key], key).reshape(-1) for key in self._keys]
        proprioception = np.concatenate([np.zeros(0, np.float32), *parts])
        if len(proprioception) != self._spec.proprioception_width:
            raise RequestError(
                f"the proprioception ({', '.join(self._keys)}) has {len(proprioception)} numbers; "
                f"expected {self._spec.proprioception_width}"
            )
        return ObservedStep(images, proprioception)

    def _image(self, camera: str, image: Any) -> np.ndarray:
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise RequestError(f"{camera}_image is {got}; expected uint8 [H, W, 3]")
        height, width = image.shape[:2]
        if not (16 <= height <= _LARGEST_SIDE and 16 <= width <= _LARGEST_SIDE):
            raise RequestError(f"{camera}_image is {height}x{width} pixels; expected sides of 16 to {_LARGEST_SIDE}")
        trained = self._sizes[camera]
        if trained is not None and (height, width) != trained:
            raise RequestError(
                f"{camera}_image is {height}x{width} pixels; the policy was trained on {trained[0]}x{trained[1]}, and "
                "features of resized images differ"
            )
        if self._encoder.feature_shape(height, width) != self._spec.features[camera]:
            raise RequestError(
                f"{camera}_image is {height}x{width} pixels; the policy was trained on images of another shape"
            )
        return image

    def _actions(self, value: Any, name: str) -> np.ndarray:
        actions = _numbers(value, name)
        if actions.ndim != 2 or actions.shape[1] != self._spec.action_width:
            raise RequestError(f"{name} has shape {actions.shape}; expected [n, {self._spec.action_width}]")
        return actions


def _integer(message: dict[str, Any], name: str, bound: int, default: int | None = None) -> int:
    value = message.get(name, default)
    if type(value) is not int or not 0 <= value < bound:  # not isinstance: a bool is an int too
        raise RequestError(f"{name}={value!r} is not an integer in 0 … {bound - 1}")
    return value


def _list(message: dict[str, Any], name: str, most: int) -> list[Any]:
    value = message.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        raise RequestError(f"{name} must be a list of at most {most} entries")
    return value


def _numbers(value: Any, name: str) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        raise RequestError(f"{name} must be an array of finite numbers")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and the check below names the field
        numbers = value.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise RequestError(f"{name} has numbers outside the range of float32")
    return numbers
