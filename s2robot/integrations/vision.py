"""A frozen S² encoder that the surrounding stack cannot see, with a trainable readout per camera.

Training stacks walk `modules()`, `parameters()` and `state_dict()`: they switch modes, replace BatchNorm, average
weights, pass parameters to optimisers and write checkpoints. None of this may happen to a frozen encoder, so it is not
a submodule here. A stack sees only the readout and 32 bytes: the encoder's fingerprint, checked at every load.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor, nn

from s2robot.config import EncoderConfig, ReadoutConfig
from s2robot.encoder import S2Encoder
from s2robot.integrations.shared import SharedEncoder
from s2robot.interfaces import CheckpointError, ConfigError, EncoderError, Features, unknown_name
from s2robot.policies.readouts import READOUTS, make_readout, module_key

# Encoders in use: equal settings give one encoder per process. Weak references keep no encoder alive.
_IN_USE: weakref.WeakValueDictionary[str, SharedEncoder] = weakref.WeakValueDictionary()


def shared_encoder(config: EncoderConfig) -> SharedEncoder:
    """Return the encoder with these settings, the same object for every caller in this process."""
    settings = asdict(config)
    key = json.dumps(settings, sort_keys=True)
    shared = _IN_USE.get(key)
    if shared is None:
        _IN_USE[key] = shared = SharedEncoder(**settings)
    return shared


class FrozenEncoder(nn.Module):
    """A frozen encoder for a set of cameras; the surrounding stack sees only one buffer, `fingerprint`.

    Args:
        cameras: camera name -> (height, width) of the camera's images [pixels].
        shared: the encoder. It computes on the images' device; a device in its settings is ignored.

    Attributes:
        shapes: camera name -> shape of the camera's features.

    Raises:
        EncoderError, WeightsError, ConfigError: see `S2Encoder`.
    """

    fingerprint: Tensor

    def __init__(self, cameras: Mapping[str, tuple[int, int]], shared: SharedEncoder) -> None:
        super().__init__()
        self._sizes = {camera: tuple(size) for camera, size in cameras.items()}
        self._given = shared
        self._shared = shared.on_cpu()  # until images arrive, whose device decides where to compute
        self.shapes = {camera: self.encoder.feature_shape(*size) for camera, size in cameras.items()}
        digest = bytearray.fromhex(self.encoder.fingerprint())
        self.register_buffer("fingerprint", torch.frombuffer(digest, dtype=torch.uint8).clone())

    @property
    def encoder(self) -> S2Encoder:
        """The encoder, on the device that it was last used on."""
        return self._shared.encoder

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Features]:
        """Encode each camera's images [B, 3, H, W], in [0, 1] or uint8, on the images' device.

        Raises:
            EncoderError: images do not match the announced size, or have an invalid type or range.
            ConfigError: the encoder's engine does not run on the images' device.
        """
        for camera, size in self._sizes.items():
            found = tuple(images[camera].shape[-2:])
            if found != size:
                raise EncoderError(
                    f"images of {camera!r} have {found[0]}x{found[1]} pixels, but the encoder was set up for "
                    f"{size[0]}x{size[1]}: features of resized images differ"
                )
        device = next(iter(images.values())).device
        self._shared = self._given.on(
            device
        )  # stacks cannot move what they cannot see, so the encoder follows the images
        # A stack's autocast must not change what the frozen encoder computes.
        with torch.autocast(device.type, enabled=False):
            return self._shared(images)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        check_fingerprint(state_dict.get(prefix + "fingerprint"), self.encoder)
        super()._load_from_state_dict(state_dict, prefix, *args)


class FrozenVision(nn.Module):
    """A frozen encoder and one trainable readout per camera; maps each camera's images to one vector.

    Args:
        cameras: camera name -> (height, width) of the camera's images [pixels].
        encoder: settings of the encoder.
        readout: settings of the readouts.

    Raises:
        EncoderError, WeightsError, ConfigError: see `S2Encoder` and `make_readout`.
    """

    def __init__(self, cameras: Mapping[str, tuple[int, int]], encoder: EncoderConfig, readout: ReadoutConfig) -> None:
        super().__init__()
        self.frozen = FrozenEncoder(cameras, shared_encoder(encoder))
        self.readouts = nn.ModuleDict(
            {module_key(camera): make_readout(readout, shape) for camera, shape in self.frozen.shapes.items()}
        )

    @property
    def encoder(self) -> S2Encoder:
        """The frozen encoder."""
        return self.frozen.encoder

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Map camera -> images [B, 3, H, W] in [0, 1] or uint8 to [B, cameras · width]."""
        features = self.frozen(images)
        return torch.cat([self.readouts[module_key(name)](features[name]) for name in self.frozen.shapes], dim=-1)


def check_fingerprint(saved: Tensor | None, encoder: S2Encoder) -> None:
    """Refuse weights that were trained on another encoder's features; without a saved fingerprint (None) do nothing.

    Raises:
        CheckpointError: the fingerprints differ; the message names both.
    """
    if saved is None:
        return
    found = bytes(saved.cpu().tolist()).hex()
    if found != encoder.fingerprint():
        raise CheckpointError(
            f"these weights were trained on features of the encoder {found[:12]}…, but the encoder here is "
            f"{encoder.fingerprint()[:12]}…; use the backbone, weights and scales of the training"
        )


def read_settings(kind: type, what: str, given: Mapping[str, Any] | None) -> Any:
    """Make a settings dataclass from a mapping in another stack's configuration.

    Raises:
        ConfigError: a name is not a field of the dataclass, or a value is impossible.

    >>> read_settings(EncoderConfig, "encoder setting", {"scales": [112]}).scales
    [112]
    """
    plain = _plain(given or {})
    names = [field.name for field in fields(kind)]
    for name in plain:
        if name not in names:
            raise ConfigError(unknown_name(what, name, names))
    return kind(**plain)


def read_readout(given: Mapping[str, Any] | None) -> ReadoutConfig:
    """Make the settings of the readout that another stack's configuration names.

    Raises:
        ConfigError: the readout or one of its settings is unknown, or a value is impossible.

    >>> read_readout({"width": 64}).width
    64
    """
    kind = READOUTS.settings((given or {}).get("name", ReadoutConfig.name))
    settings: ReadoutConfig = read_settings(kind, "readout setting", given)
    return settings


def _plain(value: Any) -> Any:
    """Convert another stack's containers (OmegaConf's, robomimic's) to lists and dicts."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
