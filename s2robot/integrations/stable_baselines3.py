"""A features extractor for Stable-Baselines3: frozen S² encoder, trainable readout.

    PPO("MultiInputPolicy", env, policy_kwargs={
        "features_extractor_class": S2FeaturesExtractor,
        "features_extractor_kwargs": {"encoder": SharedEncoder(backbone="efficientnet_lite0", scales=(224, 448))},
    })

The encoder is not a submodule of the extractor, because of what Stable-Baselines3 does to extractors. Its orthogonal
initialisation would overwrite every convolution of the backbone, its optimizer would hold the weights, and actor,
critic and target critic would each own, move and save a separate backbone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from s2robot.encoder import S2Encoder
from s2robot.integrations.shared import SharedEncoder
from s2robot.integrations.vision import FrozenEncoder
from s2robot.interfaces import ConfigError, EncoderError, Features, FeatureShape
from s2robot.policies.readouts import make_readout
from s2robot.system.extras import missing

try:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ModuleNotFoundError as error:
    raise missing("stable_baselines3", "sb3", error) from error


class S2FeaturesExtractor(BaseFeaturesExtractor):
    """Maps Box and Dict observations to one vector [B, features_dim].

    - Images (uint8, or float in [0, 1]; [3·k, H, W] or [H, W, 3·k], k stacked frames) go through the frozen encoder and
      a trainable readout per observation.
    - Feature maps (float [C, h, w], as the gymnasium wrapper's `output="map"` returns them) go through a readout only.
    - Everything else is flattened and concatenated.

    Args:
        observation_space: space given by Stable-Baselines3, with images channels first (its VecTransposeImage) or last.
        encoder: a `SharedEncoder`, a dict of settings, or an `S2Encoder` (which cannot be saved). Policies with several
            extractors, such as SAC's, share a `SharedEncoder`. It computes on the policy's device; a device in its
            settings is ignored. None if all observations are feature maps.
        readout: name of the readout, one of `s2robot.policies.readouts.READOUTS`.
        width: numbers per image, or per frame of a stack.
        normalize_images: whether images arrive divided by 255; must equal the policy's own `normalize_images`.
        options: `channels`, `queries` and `heads` of the readout.

    Raises:
        ConfigError: images come without an encoder, images are not RGB, or the readout is unknown.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        encoder: SharedEncoder | S2Encoder | Mapping[str, Any] | None = None,
        readout: str = "conv",
        width: int = 256,
        normalize_images: bool = True,
        **options: int,
    ) -> None:
        shared = None if encoder is None else SharedEncoder.of(encoder)
        entries = dict(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else {}
        stacks: dict[str, _Stack] = {}
        shapes: dict[str, FeatureShape] = {}
        total = 0
        for key, space in (entries or {"": observation_space}).items():
            if _is_image(space):
                if shared is None:
                    raise ConfigError(f"observation {key!r} holds images {space.shape}; give an encoder")
                stacks[key] = stack = _Stack(key, space, normalize_images)
                shapes[key] = shared.on_cpu().encoder.feature_shape(stack.height, stack.width)
                total += width * stack.frames
            elif isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype != np.uint8:
                shapes[key] = FeatureShape(*space.shape)
                total += width
            else:
                total += spaces.flatdim(space)
        super().__init__(observation_space, total)
        self._keys = list(entries or [""])
        self._stacks = stacks
        self._shapes = shapes
        sizes = {key: (stack.height, stack.width) for key, stack in stacks.items()}
        self.frozen = FrozenEncoder(sizes, shared) if shared is not None and stacks else None
        # A list, not a dict: module names may not contain dots, but observation keys may.
        self.readouts = nn.ModuleList(make_readout(readout, shape, width, **options) for shape in shapes.values())

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Map a batch of preprocessed observations to [B, features_dim]."""
        entries = observations if isinstance(observations, dict) else {"": observations}
        frames = {key: stack.bytes(entries[key]) for key, stack in self._stacks.items()}
        features = {} if self.frozen is None else self.frozen(frames)
        readouts = dict(zip(self._shapes, self.readouts, strict=True))
        parts = []
        for key in self._keys:
            value = entries[key]
            if key in self._stacks:
                parts.append(readouts[key](features[key]).reshape(len(value), -1))
            elif key in readouts:
                parts.append(readouts[key](Features(value, value.new_empty((len(value), 0, value.shape[1])))))
            else:
                parts.append(value.flatten(1))
        return torch.cat(parts, dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Agents saved by earlier versions have no fingerprint, so their encoder cannot be checked.
        if self.frozen is not None:
            state_dict.setdefault(f"{prefix}frozen.fingerprint", self.frozen.fingerprint)
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Stack:
    """The layout of one observation's images: k frames stacked in the channels."""

    def __init__(self, key: str, space: spaces.Box, normalize_images: bool) -> None:
        shape = space.shape
        self.key = key
        # Stable-Baselines3 divides only uint8 images by 255; float images are in [0, 1] already.
        self._to_bytes = 255 if normalize_images or space.dtype != np.uint8 else 1
        self._channels_first = shape[0] == min(shape)  # the rule that Stable-Baselines3 uses
        channels, self.height, self.width = shape if self._channels_first else (shape[2], *shape[:2])
        if channels % 3:
            raise ConfigError(
                f"observation {key!r} has {channels} channels, but the encoder takes RGB images: 3 channels per frame"
            )
        self.frames = channels // 3

    def bytes(self, images: Tensor) -> Tensor:
        """Convert the floats that Stable-Baselines3 passes back to the camera's exact bytes, uint8 [B·k, 3, H, W]."""
        if not self._channels_first:
            images = images.movedim(-1, 1)
        images = images * self._to_bytes
        if images.max() > 255.5:
            raise EncoderError(
                f"observation {self.key!r} has values outside [0, 1]: the policy does not divide images by 255; give "
                "the extractor normalize_images=False too"
            )
        whole = images.round()
        if self._to_bytes == 1 and not torch.equal(whole, images):
            raise EncoderError(
                f"observation {self.key!r} has fractional values: the policy seems to divide images by 255; give it "
                "normalize_images=False, as the extractor has"
            )
        return whole.to(torch.uint8).reshape(-1, 3, self.height, self.width)


def _is_image(space: spaces.Space[Any]) -> TypeGuard[spaces.Box]:
    """Whether a space holds camera images: bytes, or floats in [0, 1] (for a policy with normalize_images=False)."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        return False
    unit = bool((space.low == 0).all() and (space.high == 1).all())
    return space.dtype == np.uint8 or (unit and 3 in (space.shape[0], space.shape[-1]))
