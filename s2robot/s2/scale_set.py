"""The image sizes that S² runs, and how an image is resized to each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch.nn.functional as F
from torch import Tensor

from s2robot.interfaces import EncoderError, unknown_name
from s2robot.s2.tiling import COVERS, Size, Tiling, as_pair

POOLS = ("base", "largest")


class ScaleOptions(TypedDict, total=False):
    """Options of a scale set, which `S2Encoder` and `multiscale_forward` take too; `ScaleSet` has their defaults.

    Attributes:
        antialias: whether to low-pass filter when shrinking (the reference implementation does not).
        pool_to: grid that every scale is pooled to: `base`, the first scale's (the paper), or `largest`, the finest.
        cover: `exact`, `pad` or `overlap`, see `Tiling.of`.
        keep_aspect: whether images keep their aspect ratio, with an int size as the shorter side; else an int size is
            the side of a square.
        upsampled: whether all scales are made from the image at the base size instead of the original image. Larger
            scales then add compute but no information, as in the paper's robot experiment.
    """

    antialias: bool
    pool_to: str
    cover: str
    keep_aspect: bool
    upsampled: bool


def check_options(options: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Refuse keyword arguments of `function` that are neither its own nor in `ScaleOptions`.

    Raises:
        EncoderError: an option is unknown; the message lists the choices.
    """
    own = (p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD)
    valid = {*own, *ScaleOptions.__annotations__} - {"self"}
    for name in options:
        if name not in valid:
            raise EncoderError(unknown_name("option", name, valid))


@dataclass(frozen=True)
class ScaleSet:
    """The image sizes that S² runs and how their features are joined; the defaults are the paper's algorithm.

    Attributes:
        sizes: image sizes [pixels]; an int is a square, a pair is (height, width). The first is the base size.
        tile: height = width of a tile [pixels]. An image size below it becomes one smaller tile.
        antialias, pool_to, cover, keep_aspect, upsampled: see `ScaleOptions`.
    """

    sizes: tuple[Size, ...] = (224, 448)
    tile: int = 224
    antialias: bool = False
    pool_to: str = "base"
    cover: str = "exact"
    keep_aspect: bool = False
    upsampled: bool = False

    def __post_init__(self) -> None:
        if not self.sizes:
            raise EncoderError("the scale set is empty; give at least one image size in pixels, such as (224, 448)")
        for size in (*self.sizes, self.tile):
            if not all(isinstance(side, int) and side >= 1 for side in as_pair(size)):
                raise EncoderError(
                    f"scale {size!r} is not an image size; give whole pixels >= 1, such as 224 or (224, 448)"
                )
        if self.pool_to not in POOLS:
            raise EncoderError(unknown_name("pool_to", self.pool_to, POOLS))
        if self.cover not in COVERS:
            raise EncoderError(unknown_name("cover", self.cover, COVERS))
        if not self.keep_aspect:
            self.tilings(1, 1)  # fails early: without keep_aspect the tilings do not depend on the image

    def tilings(self, height: int, width: int) -> list[Tiling]:
        """One `Tiling` per scale for images of `height` x `width` pixels."""
        sizes = [self._target(size, height, width) for size in self.sizes]
        return [Tiling.of(*size, self.tile, self.cover) for size in sizes]

    def grid(self, map_sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Height and width of the grid that the scales' merged maps, of sizes `map_sizes`, are pooled to."""
        if self.pool_to == "base":
            return map_sizes[0]
        return max(h for h, _ in map_sizes), max(w for _, w in map_sizes)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Resize images [B, C, H, W] to every scale."""
        height, width = images.shape[-2:]
        targets = [self._target(size, height, width) for size in self.sizes]
        if self.upsampled:
            images = resize(images, targets[0], self.antialias)
        return [resize(images, target, self.antialias) for target in targets]

    def _target(self, size: Size, height: int, width: int) -> tuple[int, int]:
        if isinstance(size, tuple) or not self.keep_aspect:
            return as_pair(size)
        short = min(height, width)
        return round(size * height / short), round(size * width / short)


def resize(images: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """Resize float images [B, C, H, W] to `size` by bicubic interpolation in float32, without aligning corners.

    `antialias` has an effect only if a side shrinks. Enlarged images have nothing to filter, but PyTorch's antialiasing
    kernel would change them too: it is another cubic (a = -0.5 instead of -0.75).
    """
    height, width = images.shape[-2:]
    if (height, width) == tuple(size):
        return images
    antialias = antialias and (size[0] < height or size[1] < width)
    return F.interpolate(images.float(), size=size, mode="bicubic", antialias=antialias).to(images.dtype)
