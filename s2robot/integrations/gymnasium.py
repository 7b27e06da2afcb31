"""Gymnasium wrappers that replace camera images with frozen S² features, for learners that take vectors or maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorObservationWrapper
from gymnasium.vector.utils import batch_space

from s2robot.encoder import S2Encoder
from s2robot.integrations.images import ImageFeatures, ImageLayout, as_tensor
from s2robot.integrations.shared import SharedEncoder
from s2robot.interfaces import ConfigError, unknown_name

EncoderLike = SharedEncoder | S2Encoder | Mapping[str, Any]


class EncodeObservation(gymnasium.ObservationWrapper):
    """Replaces the images in an environment's observations with their features, float32.

    Args:
        env: an environment whose observation is one image (a Box) or contains images (a Dict). Images are uint8
            […, H, W, 3] or […, 3, H, W], or float in [0, 1]. Leading dimensions, such as stacked steps, are kept.
        encoder: an `S2Encoder`, a `SharedEncoder`, or a dict of its settings.
        output: form of the features: `mean` (the map's mean, [S·C]), `cls`, `map` ([S·C, h, w]) or `rows` (everything
            packed into one vector by `FeatureShape.flatten`).
        keys: the entries of a Dict that are images; None for all uint8 entries with the shape of images.

    Raises:
        ConfigError: expected images are missing, or the output is unknown.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        encoder: EncoderLike,
        output: str = "mean",
        keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__(env)
        self._encode, self.observation_space = _prepare(env.observation_space, encoder, output, keys)

    def observation(self, observation: Any) -> Any:
        """Return the observation with features instead of images."""
        return self._encode(observation)


class VectorEncodeObservation(VectorObservationWrapper):
    """`EncodeObservation` for vector environments: one call of the encoder for all environments and cameras.

    Args:
        env: a vector environment.
        encoder: see `EncodeObservation`.
        output: `mean`, `cls`, `map` or `rows`, see `EncodeObservation`.
        keys: the entries of a Dict that are images, see `EncodeObservation`.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        encoder: EncoderLike,
        output: str = "mean",
        keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__(env)
        self._encode, self.single_observation_space = _prepare(env.single_observation_space, encoder, output, keys)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def observations(self, observations: Any) -> Any:
        """Return the observations of all environments with features instead of images."""
        return self._encode(observations)


def _prepare(
    space: spaces.Space[Any], encoder: EncoderLike, output: str, keys: Sequence[str] | None
) -> tuple[Callable[[Any], Any], spaces.Space[Any]]:
    """Return a function that encodes observations (of one environment or several), and the space of the result."""
    single = not isinstance(space, spaces.Dict)
    entries = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    features = ImageFeatures(encoder, _images(entries, keys), output)
    for key, layout in features.layouts.items():
        shape = (*layout.leading, *features.frame_shape(key))
        entries[key] = spaces.Box(-np.inf, np.inf, shape, np.float32)

    def encode(observation: Any) -> Any:
        observation = {"": observation} if single else dict(observation)
        images = {key: as_tensor(observation[key]) for key in features.layouts}
        observation.update({key: rows.cpu().numpy() for key, rows in features(images).items()})
        return observation[""] if single else observation

    return encode, entries[""] if single else spaces.Dict(entries)


def _images(entries: Mapping[str, spaces.Space[Any]], keys: Sequence[str] | None) -> dict[str, ImageLayout]:
    """Return the layout of each image entry."""
    for key in keys or ():
        if key not in entries:
            raise ConfigError(unknown_name("observation key", key, entries))
    found = {}
    for key, space in entries.items():
        layout = ImageLayout.of(space.shape) if isinstance(space, spaces.Box) else None
        if keys is None:
            is_image = layout is not None and space.dtype == np.uint8
        else:
            is_image = key in keys
            if is_image and layout is None:
                raise ConfigError(f"observation {key!r} is {space}, not images […, H, W, 3] or […, 3, H, W]")
        if is_image and layout is not None:
            found[key] = layout
    if not found:
        described = ", ".join(f"{key or 'observation'}: {space}" for key, space in entries.items())
        raise ConfigError(f"the observations hold no uint8 images […, H, W, 3] or […, 3, H, W]: {described}")
    return found
