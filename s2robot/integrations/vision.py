"""A frozen S² encoder that the surrounding stack cannot see, with a trainable readout per camera.

Training stacks walk `modules()`, `parameters()` and `state_dict()`: they switch modes, replace BatchNorm, average
weights, hand parameters to optimisers and write checkpoints. A frozen encoder must be spared all of it, so it is no
submodule here. What a stack does see is the readout and 32 bytes: the encoder's fingerprint, checked at every load.
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

# Encoders in use, so that equal settings give one encoder per process; it keeps none of them alive.
_IN_USE: weakref.WeakValueDictionary[str, SharedEncoder] = weakref.WeakValueDictionary()


def shared_encoder(config: EncoderConfig) -> SharedEncoder:
    """The encoder of these settings; the same object for every caller in this process."""
    settings = asdict(config)
    key = json.dumps(settings, sort_keys=True)
    shared = _IN_USE.get(key)
    if shared is None:
        _IN_USE[key] = shared = SharedEncoder(**settings)
    return shared


class FrozenEncoder(nn.Module):
    """A frozen encoder for a set of cameras; to a surrounding stack it is one buffer, `fingerprint`.

    Args:
        cameras: camera name -> (height, width) of its images [pixels].
        shared: the encoder; it computes where the images are, whatever device its settings name.

    Attributes:
        shapes: camera name -> shape of its features.

    Raises:
        EncoderError, WeightsError, ConfigError: see `S2Encoder`.
    """

    fingerprint: Tensor

    def __init__(self, cameras: Mapping[str, tuple[int, int]], shared: SharedEncoder) -> None:
        super().__init__()
        self._sizes = {camera: tuple(size) for camera, size in cameras.items()}
        self._given = shared
        self._shared = shared.on_cpu()  # until there are images, which say where to compute
        self.shapes = {camera: self.encoder.feature_shape(*size) for camera, size in cameras.items()}
        digest = bytearray.fromhex(self.encoder.fingerprint())
        self.register_buffer("fingerprint", torch.frombuffer(digest, dtype=torch.uint8).clone())

    @property
    def encoder(self) -> S2Encoder:
        """The encoder, where it was used last."""
        return self._shared.encoder

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Features]:
        """Features of images [B, 3, H, W] in [0, 1] or uint8, per camera, on the images' device.

        Raises:
            EncoderError: images of another size than was announced, or of no valid type or range.
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
        self._shared = self._given.on(device)  # stacks move what they can see, the encoder follows the images
        # A stack's autocast must not change what the frozen encoder computes.
        with torch.autocast(device.type, enabled=False):
            return self._shared(images)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        check_fingerprint(state_dict.get(prefix + "fingerprint"), self.encoder)
        super()._load_from_state_dict(state_dict, prefix, *args)


class FrozenVision(nn.Module):
    """Frozen encoder and one trainable readout per camera; images in, one vector per camera out.

    Args:
        cameras: camera name -> (height, width) of its images [pixels].
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
    """Refuse weights that were trained on another encoder's features; None, as of no encoder, passes.

    Raises:
        CheckpointError: names both fingerprints.
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
    """Make a settings dataclass of a mapping out of another stack's configuration.

    Raises:
        ConfigError: a name that is no field of it, or an impossible value.

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
    """The settings of the readout that another stack's configuration names.

    Raises:
        ConfigError: an unknown readout, a name that is not one of its settings, or an impossible value.

    >>> read_readout({"width": 64}).width
    64
    """
    kind = READOUTS.settings((given or {}).get("name", ReadoutConfig.name))
    settings: ReadoutConfig = read_settings(kind, "readout setting", given)
    return settings


def _plain(value: Any) -> Any:
    """Lists and dicts in place of another stack's own containers (OmegaConf's, robomimic's)."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
