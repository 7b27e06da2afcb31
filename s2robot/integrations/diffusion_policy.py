"""The S² encoder as the `obs_encoder` of Diffusion Policy's image policies (real-stanford/diffusion_policy).

Its policies need only four members of an encoder: `forward`, `output_shape`, `device` and `dtype`. To replace
`MultiImageObsEncoder` in their Hydra configuration, name this class as `policy.obs_encoder._target_`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from s2robot.config import EncoderConfig
from s2robot.integrations.vision import FrozenVision, read_readout, read_settings
from s2robot.interfaces import ConfigError, unknown_name


class S2ObsEncoder(nn.Module):
    """Concatenates trainable readouts of all cameras' frozen features with the low-dimensional observations.

    The normalizers of Diffusion Policy's datasets (`get_image_range_normalizer`) scale images to [-1, 1] before the
    encoder. If yours does not, set `image_range`.

    Args:
        shape_meta: the task's `shape_meta`: `obs` -> key -> `shape` ([3, H, W] or [d]) and `type` (`rgb`, `low_dim`).
        encoder: settings of the encoder, see `s2robot.config.EncoderConfig`.
        readout: settings of the readouts, see `s2robot.config.ReadoutConfig`.
        image_range: smallest and largest value of the incoming images.

    Raises:
        ConfigError: a setting is unknown or impossible, or an observation has the wrong type or shape.
    """

    def __init__(
        self,
        shape_meta: Mapping[str, Any],
        encoder: Mapping[str, Any],
        readout: Mapping[str, Any] | None = None,
        image_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        self._images, self._vectors = _read_shapes(shape_meta)
        self._low, high = image_range
        if not high > self._low:
            raise ConfigError(f"image_range={tuple(image_range)} is not possible; valid: (smallest, largest)")
        self._range = high - self._low
        readout_settings = read_readout(readout)
        self.vision = FrozenVision(
            self._images, read_settings(EncoderConfig, "encoder setting", encoder), readout_settings
        )
        self._width = len(self._images) * readout_settings.width + sum(self._vectors.values())

    @property
    def device(self) -> torch.device:
        """Device of the trainable part; the frozen encoder follows the images."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the trainable part."""
        return next(self.parameters()).dtype

    def forward(self, obs_dict: Mapping[str, Tensor]) -> Tensor:
        """Map observations (key -> [B, 3, H, W] or [B, d]) to [B, D]: cameras first, keys in alphabetical order."""
        images = {key: (obs_dict[key] - self._low) / self._range for key in self._images}
        return torch.cat([self.vision(images), *(obs_dict[key] for key in self._vectors)], dim=-1)

    def output_shape(self) -> tuple[int]:
        """Return (D,)."""
        return (self._width,)


def _read_shapes(shape_meta: Mapping[str, Any]) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """Return image keys with their (height, width) and vector keys with their width, both sorted."""
    images, vectors = {}, {}
    for key in sorted(shape_meta["obs"]):
        kind, shape = shape_meta["obs"][key].get("type", "low_dim"), tuple(shape_meta["obs"][key]["shape"])
        if kind not in ("rgb", "low_dim"):
            raise ConfigError(unknown_name(f"type of observation {key!r}", kind, ["rgb", "low_dim"]))
        if len(shape) != {"rgb": 3, "low_dim": 1}[kind] or (kind == "rgb" and shape[0] != 3):
            raise ConfigError(f"observation {key!r} of type {kind} has shape {shape}; rgb: [3, H, W], low_dim: [d]")
        if kind == "rgb":
            images[key] = shape[1:]
        else:
            vectors[key] = shape[0]
    if not images:
        raise ConfigError(
            f"shape_meta has no observation of type rgb; its keys: {', '.join(sorted(shape_meta['obs'])) or 'none'}"
        )
    return images, vectors
