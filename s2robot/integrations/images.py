"""Images in the observations of other libraries, and the forms of the features that replace them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s2robot.encoder import S2Encoder
from s2robot.integrations.shared import SharedEncoder
from s2robot.interfaces import ConfigError, EncoderError, Features, FeatureShape, unknown_name

OUTPUTS = ("mean", "cls", "map", "rows")


@dataclass(frozen=True)
class ImageLayout:
    """The layout of the images in one observation.

    Attributes:
        leading: dimensions before those of an image, such as steps or environments; empty for a single image.
        height, width: size of an image [pixels].
        channels_first: whether images are [3, H, W] instead of [H, W, 3].
    """

    leading: tuple[int, ...]
    height: int
    width: int
    channels_first: bool

    @classmethod
    def of(cls, shape: Sequence[int]) -> ImageLayout | None:
        """Read a shape […, H, W, 3] or […, 3, H, W]; return None for any other shape."""
        shape = tuple(shape)
        if len(shape) < 3:
            return None
        if shape[-1] == 3:
            return cls(shape[:-3], shape[-3], shape[-2], False)
        return cls(shape[:-3], shape[-2], shape[-1], True) if shape[-3] == 3 else None

    def flatten(self, images: Tensor) -> Tensor:
        """Flatten images of this layout, with any leading dimensions, to one batch as `S2Encoder` takes it."""
        flat = images.reshape(-1, *images.shape[-3:])
        return flat.movedim(-1, 1) if flat.is_floating_point() and not self.channels_first else flat


class ImageFeatures:
    """Encodes several cameras' images, with any leading dimensions, in one call of the encoder.

    Args:
        encoder: an `S2Encoder`, a `SharedEncoder`, or a dict of its settings.
        layouts: observation key -> layout of the observation's images.
        output: form of one image's features: `mean` (the map's mean over positions, [S·C]), `cls` (the first prefix
            token, [S·C]), `map` ([S·C, h, w]) or `rows` (map and prefix tokens packed by `FeatureShape.flatten`).

    Raises:
        ConfigError: the output is unknown, or it is `cls` and the backbone has no CLS token.
    """

    def __init__(
        self, encoder: S2Encoder | SharedEncoder | Mapping[str, Any], layouts: Mapping[Any, ImageLayout], output: str
    ) -> None:
        if output not in OUTPUTS:
            raise ConfigError(unknown_name("output", output, OUTPUTS))
        self.shared = SharedEncoder.of(encoder)
        self._output = output
        self.layouts = dict(layouts)
        self._shapes = {
            key: self.shared.encoder.feature_shape(layout.height, layout.width) for key, layout in self.layouts.items()
        }
        if output == "cls" and not all(shape.num_prefix for shape in self._shapes.values()):
            raise ConfigError("output 'cls' needs a backbone with a CLS token; this one has none; use output 'mean'")

    def frame_shape(self, key: Any) -> tuple[int, ...]:
        """Shape of the features that replace one image of `key`."""
        shape = self._shapes[key]
        match self._output:
            case "map":
                return shape.channels, shape.height, shape.width
            case "rows":
                return (shape.numel,)
        return (shape.channels,)

    def __call__(self, images: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        """Encode images […, H, W, 3] or […, 3, H, W] of every key -> float32 […, *frame_shape], on their device.

        Raises:
            EncoderError: images do not match the announced size or layout, or have an invalid type or range.
        """
        for key, value in images.items():
            found, layout = ImageLayout.of(value.shape), self.layouts[key]
            if found is None or (found.height, found.width) != (layout.height, layout.width):
                raise EncoderError(
                    f"{key!r} has shape {tuple(value.shape)}, which does not hold images of "
                    f"{layout.height}x{layout.width} pixels"
                )
        encoded = self.shared({key: self.layouts[key].flatten(value) for key, value in images.items()})
        return {
            key: _in_form(self._output, self._shapes[key], encoded[key])
            .reshape(*value.shape[:-3], *self.frame_shape(key))
            .to(value.device)
            for key, value in images.items()
        }


def _in_form(output: str, shape: FeatureShape, features: Features) -> Tensor:
    match output:
        case "map":
            return features.map
        case "rows":
            return shape.flatten(features)
        case "cls":
            return features.prefix[:, 0]
    return features.map.mean(dim=(2, 3))


def as_tensor(array: Any) -> Tensor:
    """Return a tensor that shares an array's memory; copy arrays that PyTorch cannot wrap (read-only, flipped)."""
    usable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if usable else array.copy())
