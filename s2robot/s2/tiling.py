"""Cut images into tiles, and put the tiles' feature maps together again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from s2robot.interfaces import EncoderError, unknown_name

Size = int | tuple[int, int]

COVERS = ("exact", "pad", "overlap")


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of one image size lie.

    Attributes:
        height, width: size of the image [pixels].
        tile: height and width of every tile [pixels].
        tops, lefts: upper and left edges of the rows and columns of tiles [pixels], increasing.
    """

    height: int
    width: int
    tile: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def of(cls, height: int, width: int, tile: Size, cover: str = "exact") -> Tiling:
        """Lay tiles over an image; an image smaller than a tile becomes one tile of the image's size.

        Args:
            height: image height [pixels].
            width: image width [pixels].
            tile: tile height = width, or (height, width) [pixels].
            cover: what happens if the image size is not a multiple of the tile size: `exact` refuses, `pad` extends
                the image to the right and below, `overlap` spreads the tiles evenly so that they overlap.

        Raises:
            EncoderError: the image size is not a multiple of the tile size under `exact`, or any size is below 1.
        """
        tile_height, tile_width = as_pair(tile)
        if min(height, width, tile_height, tile_width) < 1:
            raise EncoderError(f"cannot lay tiles of {tile} over an image of {height}x{width}: every size must be >= 1")
        if cover not in COVERS:
            raise EncoderError(unknown_name("cover", cover, COVERS))
        tile_height, tile_width = min(tile_height, height), min(tile_width, width)
        tops = _tile_edges(height, tile_height, cover)
        lefts = _tile_edges(width, tile_width, cover)
        return cls(height, width, (tile_height, tile_width), tops, lefts)

    @property
    def count(self) -> int:
        """Number of tiles per image."""
        return len(self.tops) * len(self.lefts)

    def views(self, images: Tensor) -> list[Tensor]:
        """Return the tiles of images [B, C, H, W] as `count` views [B, C, th, tw], row by row, left to right.

        Nothing is copied, except images that must be padded.
        """
        tile_height, tile_width = self.tile
        below = max(0, self.tops[-1] + tile_height - self.height)
        right = max(0, self.lefts[-1] + tile_width - self.width)
        if below or right:
            images = F.pad(images, (0, right, 0, below))
        return [
            images[:, :, top : top + tile_height, left : left + tile_width] for top in self.tops for left in self.lefts
        ]

    def split(self, images: Tensor) -> Tensor:
        """Cut images [B, C, H, W] into tiles [n·B, C, th, tw]: the first tile of every image, then the second."""
        return torch.cat(self.views(images))

    def merge(self, tiles: Tensor) -> Tensor:
        """Join the feature maps [n·B, C, h, w] of tiles in the order of `split` to one map per image, [B, C, h', w'].

        Cells that hold only padding are cropped. Overlapping tiles are placed at the nearest cell (exactly, if their
        edges are multiples of the model's stride) and averaged in float32 or higher precision.
        """
        if self.count == 1:
            grid = tiles
        elif self._is_regular():
            rows, columns = len(self.tops), len(self.lefts)
            _, channels, h, w = tiles.shape
            grid = tiles.reshape(rows, columns, -1, channels, h, w).permute(2, 3, 0, 4, 1, 5)
            grid = grid.reshape(-1, channels, rows * h, columns * w)
        else:
            return self._merge_overlapping(tiles)
        cells_high = math.ceil(self.height * tiles.shape[-2] / self.tile[0])
        cells_wide = math.ceil(self.width * tiles.shape[-1] / self.tile[1])
        return grid[:, :, :cells_high, :cells_wide]

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the merged map if one tile's map has `height` x `width` cells."""
        merged = self.merge(torch.empty((self.count, 1, height, width), device="meta"))
        return merged.shape[-2], merged.shape[-1]

    def _is_regular(self) -> bool:
        return self.tops == tuple(range(0, self.tops[-1] + 1, self.tile[0])) and self.lefts == tuple(
            range(0, self.lefts[-1] + 1, self.tile[1])
        )

    def _merge_overlapping(self, tiles: Tensor) -> Tensor:
        _, channels, h, w = tiles.shape
        tiles = tiles.reshape(self.count, -1, channels, h, w)
        rows = [round(top * h / self.tile[0]) for top in self.tops]
        columns = [round(left * w / self.tile[1]) for left in self.lefts]
        dtype = torch.promote_types(tiles.dtype, torch.float32)
        total = tiles.new_zeros((tiles.shape[1], channels, rows[-1] + h, columns[-1] + w), dtype=dtype)
        times = total.new_zeros(total.shape[-2:])
        corners = [(row, column) for row in rows for column in columns]
        for index, (row, column) in enumerate(corners):
            total[:, :, row : row + h, column : column + w] += tiles[index]
            times[row : row + h, column : column + w] += 1
        return total / times


def split_tiles(images: Tensor, tile: Size = 224, cover: str = "exact") -> Tensor:
    """Cut images [B, C, H, W] into tiles [n·B, C, tile, tile].

    The order is that of the reference implementation: the upper left tile of every image in the batch, then the next
    tile to the right, row by row.

    >>> split_tiles(torch.zeros(2, 3, 448, 448), 224).shape
    torch.Size([8, 3, 224, 224])
    """
    height, width = images.shape[-2:]
    return Tiling.of(height, width, tile, cover).split(images)


def merge_tiles(tiles: Tensor, grid: Size) -> Tensor:
    """Put tiles or feature maps together again; they are in the order of `split_tiles`.

    Args:
        tiles: [rows·columns·B, C, h, w].
        grid: rows = columns, or (rows, columns).

    Returns:
        [B, C, rows·h, columns·w].

    Raises:
        EncoderError: the number of tiles is not a multiple of rows·columns.

    >>> merge_tiles(torch.zeros(8, 320, 7, 7), grid=2).shape
    torch.Size([2, 320, 14, 14])
    """
    rows, columns = as_pair(grid)
    if rows < 1 or columns < 1 or len(tiles) % (rows * columns):
        raise EncoderError(f"{len(tiles)} tiles do not fill whole images of {rows}x{columns} tiles")
    h, w = tiles.shape[-2:]
    return Tiling.of(rows * h, columns * w, (h, w)).merge(tiles)


def as_pair(size: Size) -> tuple[int, int]:
    """Return (height, width) of a size given as one number or as a pair."""
    return (size, size) if not isinstance(size, tuple) else size


def _tile_edges(length: int, tile: int, cover: str) -> tuple[int, ...]:
    count = math.ceil(length / tile)
    if cover == "exact" and length % tile:
        near = max(tile, length // tile * tile)
        raise EncoderError(
            f"image size {length} is not a multiple of the tile size {tile}; "
            f"use {near} or {near + tile}, or cover='pad' or 'overlap'"
        )
    if cover == "overlap" and count > 1:
        return tuple(round(index * (length - tile) / (count - 1)) for index in range(count))
    return tuple(range(0, count * tile, tile))


def require_scales(scales: object) -> None:
    """Refuse a scale set that is a single number or a string.

    Raises:
        EncoderError: `scales` is not a list; the message shows how to write a single scale.
    """
    if isinstance(scales, str) or not isinstance(scales, Iterable):
        one = scales if isinstance(scales, int | float) else 224
        raise EncoderError(f"scales={scales!r} is not a list of image sizes; write scales=({one},), with a comma")


def first_side(sizes: Sequence[Size | float]) -> int:
    """Height of the base size [pixels].

    Raises:
        EncoderError: `sizes` is empty.
    """
    if not sizes:
        raise EncoderError("the scale set is empty; give at least one image size in pixels, such as (224, 448)")
    return as_pair(in_pixels(sizes[0], 1))[0]


def in_pixels(scale: Size | float, native: int) -> Size:
    """Resolve a scale given as a factor of the `native` size; lists, as YAML gives them, become pairs.

    Raises:
        EncoderError: `scale` is not a size.
    """
    if isinstance(scale, float):
        return round(scale * native)
    if isinstance(scale, int):
        return scale
    if isinstance(scale, Sequence) and not isinstance(scale, str) and len(scale) == 2:
        return scale[0], scale[1]
    raise EncoderError(f"scale {scale!r} is not an image size; give pixels (224), (height, width), or a factor (1.0)")
