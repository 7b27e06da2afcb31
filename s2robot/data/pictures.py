"""How an array holds pictures, and how they become uint8 [T, H, W, 3]; every conversion is stated in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2robot.data.base import DemonstrationDataset
from s2robot.data.kinds import LIKE_PICTURES, PICTURES, as_rgb, has_word, picture_size

_NAMES = {"image", "images", "img", "imgs", "rgb", "rgba", "gray", "grey", "cam", "cams", "camera", "cameras", "pixels"}
_NAMES |= {"picture", "pictures", "photo", "frame", "frames", "view", "color", "colour", "video"}
# Numbers with three channels that are no colours, although each may be from 0 to 1.
_MAPS = {"depth", "disparity", "mask", "masks", "seg", "segmentation", "cloud", "clouds", "pointcloud", "pcd", "point"}
_MAPS |= {"points", "xyz", "position", "positions", "normal", "normals", "flow", "heatmap", "feature", "features"}
_RANGE = "0 to 1 with fractions, or whole numbers from 0 to 255"

_BYTES: np.dtype[Any] = np.dtype(np.uint8)


@dataclass(frozen=True)
class Pictures:
    """Pictures in an array.

    Attributes:
        size: height and width in pixels.
        dtype: type of the stored numbers, the same in all demonstrations.
        scale: what the stored numbers are multiplied by, 1 or 255.
        conversion: what is done to the stored numbers, in words; empty for RGB bytes.
        doubt: why they are pictures only if somebody chooses them as a camera; empty if they certainly are.
    """

    size: tuple[int, int]
    dtype: np.dtype[Any] = _BYTES
    scale: int = 1
    conversion: str = ""
    doubt: str = ""

    def require_layout(self, dataset: DemonstrationDataset, demo: str, name: str, values: Any) -> None:
        """Check that an array of another demonstration can hold the same pictures; its values are not read.

        Raises:
            DatasetError: it has another type, or a number of axes that no pictures have.
        """
        if values.dtype != self.dtype or len(values.shape) not in (3, 4):
            raise dataset.error(
                f"{name} is {values.dtype} {list(values.shape)}; valid: {self.dtype} as in {dataset.demos[0]}, and "
                f"{PICTURES.removeprefix('uint8 ')}",
                demo,
            )

    def rgb(self, dataset: DemonstrationDataset, demo: str, camera: str, images: np.ndarray) -> np.ndarray:
        """Return pictures of one demonstration as uint8 [T, H, W, 3].

        Raises:
            DatasetError: the numbers are outside the range in which the first demonstration has them.
        """
        if images.dtype != np.uint8:
            with np.errstate(invalid="ignore"):
                pixels = np.rint(images * float(self.scale))
                bounded = bool(((pixels >= 0) & (pixels <= 255)).all())
            if not bounded or (self.scale == 1 and (pixels != images).any()):
                valid = "numbers from 0 to 1" if self.scale == 255 else "whole numbers from 0 to 255"
                raise dataset.error(f"images of {camera} are {images.dtype} with values other than {valid}", demo)
            images = pixels.astype(np.uint8)
        return as_rgb(images[..., None] if images.ndim == 3 else images)


def find_pictures(
    key: str, dtype: Any, shape: tuple[int, ...], read: Callable[[], np.ndarray]
) -> Pictures | str | None:
    """Return how an array [T, …] holds pictures; why not, if it nearly does; None if it does not.

    - Bytes are pictures in the layouts of `picture_size`.
    - Bytes [T, H, W] are grey pictures if the key has a word such as `image`, else if somebody chooses them.
    - Other numbers are pictures in the layouts of `picture_size` if their values are those of pictures. One channel
      must be called a picture.

    Args:
        key: name of the array.
        dtype: its type.
        shape: its shape.
        read: reads the values of the first demonstration; called for other types than uint8.
    """
    dtype = np.dtype(dtype)
    grey = len(shape) == 3
    if dtype.kind not in "fiu" or (grey and dtype != np.uint8):
        return None
    size = picture_size(key, np.uint8, (*shape, 1) if grey else shape)
    if size is None:
        return None
    if grey and not has_word(key, _NAMES):
        doubt = f"{dtype} {list(shape)} may be grey pictures, but its name does not say so"
        return Pictures(size, dtype, 1, _described(1), f"{doubt}; cameras=[{key}] takes it for them")
    channels = 1 if grey else next(count for count in (shape[3], shape[1]) if count in (1, 3, 4))
    if dtype == np.uint8:
        return Pictures(size, dtype, 1, _described(channels))
    if has_word(key, _MAPS) or (channels == 1 and not has_word(key, _NAMES)):
        return None
    scale, why = _scale(read())
    if scale is None:
        return f"{dtype} {list(shape)} {LIKE_PICTURES}, but {why}; valid: {PICTURES}, or other numbers, {_RANGE}"
    numbers = f"{dtype} from 0 to 1, multiplied by 255" if scale == 255 else f"{dtype}, whole numbers from 0 to 255"
    return Pictures(size, dtype, scale, "; ".join(filter(None, (numbers, _described(channels)))))


def _described(channels: int) -> str:
    return {1: "grey in three equal channels", 3: "", 4: "without opacity"}[channels]


def _scale(values: np.ndarray) -> tuple[int | None, str]:
    """Return what the numbers are multiplied by to become bytes; None and the reason if they cannot be told."""
    if not values.size or not np.isfinite(values).all():
        return None, "its numbers are not all finite"
    low, high = float(values.min()), float(values.max())
    whole = bool((values == np.rint(values)).all())
    if low < 0 or high > 255 or (high > 1 and not whole):
        return None, f"it holds {'whole ' if whole else ''}numbers from {low:g} to {high:g}"
    if whole and high <= 1:
        return None, "it holds only 0 and 1, which does not tell the range"
    return (1 if whole else 255), ""
