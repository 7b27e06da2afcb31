"""S² over any single-scale model: run all scales' tiles in as few calls as memory allows, then join them to one map."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from s2robot.interfaces import EncoderError
from s2robot.s2.scale_set import ScaleOptions, ScaleSet, check_options
from s2robot.s2.tiling import Size, Tiling

TileOutput = Tensor | tuple[Tensor, Tensor]
TileFunction = Callable[[Tensor], TileOutput]

_CALLS_PER_CHUNK = 4
"""Tiles take far less memory than the backbone's activations for them, so the tiles of a few calls may be in memory."""


def multiscale_forward(
    fn: TileFunction,
    x: Tensor,
    sizes: Sequence[Size] = (224, 448),
    tile: int = 224,
    num_prefix_tokens: int = 0,
    *,
    max_tiles: int | None = None,
    **options: Unpack[ScaleOptions],
) -> tuple[Tensor, Tensor]:
    """Compute multi-scale features of images with any single-scale model.

    Args:
        fn: model from tiles [b, 3, tile, tile] to a map [b, C, h, w], to tokens [b, P+N, C] with the prefix tokens
            first, or to the pair (map [b, C, h, w], prefix [b, P, C]).
        x: normalised float images [B, 3, H, W].
        sizes: image sizes of the scale set, the base size first.
        tile: size of the tiles [pixels].
        num_prefix_tokens: P, used when `fn` returns tokens.
        max_tiles: largest number of tiles per call of `fn`, which bounds peak memory; None for all tiles in one call.
        options: `antialias`, `pool_to`, `cover`, `keep_aspect` and `upsampled`, see `ScaleOptions`.

    Returns:
        map: float32 [B, S·C, h, w].
        prefix: float32 [B, P, S·C], the mean over each scale's tiles; P may be 0.

    Raises:
        EncoderError: an impossible scale set, an unknown option, or an output of `fn` that is neither a map nor tokens.

    >>> features, prefix = multiscale_forward(lambda t: t[:, :, ::32, ::32], torch.zeros(2, 3, 448, 448))
    >>> features.shape, prefix.shape
    (torch.Size([2, 6, 7, 7]), torch.Size([2, 0, 6]))
    """
    check_options(options, multiscale_forward)
    scale_set = ScaleSet(tuple(sizes), tile, **options)
    return multiview_forward(fn, [x], scale_set, num_prefix_tokens, max_tiles)[0]


def multiview_forward(
    fn: TileFunction,
    views: Sequence[Tensor],
    scale_set: ScaleSet,
    num_prefix_tokens: int = 0,
    max_tiles: int | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """`multiscale_forward` for several views (cameras) at once: their tiles share the calls of `fn`.

    Args:
        fn: see `multiscale_forward`.
        views: normalised float images, each [B, 3, H_v, W_v] with the same B; sizes may differ between views.
        scale_set: sizes and how they are joined.
        num_prefix_tokens: P, used when `fn` returns tokens.
        max_tiles: largest number of tiles per call of `fn`.

    Returns:
        One pair (map, prefix) per view, as `multiscale_forward` returns it.

    Raises:
        EncoderError: as `multiscale_forward`, or views of different batch sizes.
    """
    _check_views(views, max_tiles)
    tilings = [scale_set.tilings(*view.shape[-2:]) for view in views]
    tiles_per_step = sum(tiling.count for view in tilings for tiling in view)
    batch = len(views[0])
    # Take the images of a few calls at a time. Memory then grows neither with the batch nor with the scales, because
    # later chunks are resized only when they are needed, and most calls are still full.
    step = batch if max_tiles is None else max(1, _CALLS_PER_CHUNK * max_tiles // tiles_per_step)
    chunks = [
        _forward_chunk(fn, [view[start : start + step] for view in views], scale_set, num_prefix_tokens, max_tiles)
        for start in range(0, batch, step)
    ]
    if len(chunks) == 1:
        return chunks[0]
    return [
        (torch.cat([maps for maps, _ in parts]), torch.cat([prefix for _, prefix in parts]))
        for parts in zip(*chunks, strict=True)
    ]


def forward_tiles(
    fn: TileFunction, scales: Sequence[Sequence[Tensor]], num_prefix_tokens: int = 0, max_tiles: int | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Run `fn` on the tiles of several scales, in as few calls as the tiles' sizes and `max_tiles` allow.

    Args:
        fn: see `multiscale_forward`.
        scales: the tiles of each scale, as views [B, 3, th, tw] of one size.
        num_prefix_tokens: P, used when `fn` returns tokens.
        max_tiles: largest number of tiles per call.

    Returns:
        One pair (map [n·B, C, h, w], prefix [n·B, P, C]) per scale, in the order of the scale's views.
    """
    results: dict[int, tuple[Tensor, Tensor]] = {}
    for shape in dict.fromkeys(views[0].shape[1:] for views in scales):
        members = [index for index, views in enumerate(scales) if views[0].shape[1:] == shape]
        batch = torch.cat(
            [view for index in members for view in scales[index]]
        )  # the only copy on the way to the model
        outputs = [
            as_map_and_prefix(fn(part), part, num_prefix_tokens) for part in batch.split(max_tiles or len(batch))
        ]
        maps, prefix = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*outputs, strict=True))
        counts = [sum(len(view) for view in scales[index]) for index in members]
        results.update(zip(members, zip(maps.split(counts), prefix.split(counts), strict=True), strict=True))
    return [results[index] for index in range(len(scales))]


def _check_views(views: Sequence[Tensor], max_tiles: int | None) -> None:
    if max_tiles is not None and max_tiles < 1:
        raise EncoderError(f"max_tiles={max_tiles} is not possible; valid: 1 or more tiles per call")
    for view in views:
        if view.dim() != 4 or 0 in view.shape or not view.is_floating_point():
            raise EncoderError(
                f"expected non-empty float images [B, C, H, W], got {view.dtype} of shape {tuple(view.shape)}"
            )
    if len({len(view) for view in views}) > 1:
        raise EncoderError(f"views must share one batch size, got {[len(view) for view in views]}")


def _forward_chunk(
    fn: TileFunction,
    views: Sequence[Tensor],
    scale_set: ScaleSet,
    num_prefix_tokens: int,
    max_tiles: int | None,
) -> list[tuple[Tensor, Tensor]]:
    scales = [
        (tiling, image)
        for view in views
        for tiling, image in zip(scale_set.tilings(*view.shape[-2:]), scale_set.pyramid(view), strict=True)
    ]
    outputs = forward_tiles(fn, [tiling.views(image) for tiling, image in scales], num_prefix_tokens, max_tiles)
    per_view = len(scale_set.sizes)
    return [
        _join_scales(
            [tiling for tiling, _ in scales[start : start + per_view]], outputs[start : start + per_view], scale_set
        )
        for start in range(0, len(scales), per_view)
    ]


def _join_scales(
    tilings: Sequence[Tiling], outputs: Sequence[tuple[Tensor, Tensor]], scale_set: ScaleSet
) -> tuple[Tensor, Tensor]:
    maps = [tiling.merge(tile_maps) for tiling, (tile_maps, _) in zip(tilings, outputs, strict=True)]
    grid = scale_set.grid([(m.shape[-2], m.shape[-1]) for m in maps])
    # Pool by area in float32, as in the reference implementation, even if the model ran in a lower precision.
    pooled = [m.float() if tuple(m.shape[-2:]) == grid else F.interpolate(m.float(), grid, mode="area") for m in maps]
    prefixes = [
        prefix.float().unflatten(0, (tiling.count, -1)).mean(0)
        for tiling, (_, prefix) in zip(tilings, outputs, strict=True)
    ]
    return torch.cat(pooled, dim=1), torch.cat(prefixes, dim=2)


def as_map_and_prefix(output: TileOutput, tiles: Tensor, num_prefix_tokens: int) -> tuple[Tensor, Tensor]:
    """Convert a model's output for `tiles` to the pair (map [b, C, h, w], prefix [b, P, C]).

    Raises:
        EncoderError: the output is not a map, tokens or a pair, or the tokens do not fill a grid.
    """
    if isinstance(output, tuple):
        return output
    if output.dim() == 4:
        return output, output.new_empty((len(output), 0, output.shape[1]))
    if output.dim() != 3:
        raise EncoderError(
            f"the model returned a tensor of shape {tuple(output.shape)} for {len(tiles)} tiles; "
            "expected a map [b, C, h, w] or tokens [b, P+N, C]"
        )
    prefix, tokens = output[:, :num_prefix_tokens], output[:, num_prefix_tokens:]
    tile_height, tile_width = tiles.shape[-2:]
    h = round(math.sqrt(tokens.shape[1] * tile_height / tile_width))
    if h < 1 or tokens.shape[1] % h or round(tokens.shape[1] / h * tile_height / tile_width) != h:
        raise EncoderError(
            f"{output.shape[1]} tokens minus num_prefix_tokens={num_prefix_tokens} do not fill a grid with the aspect "
            f"ratio of a {tile_height}x{tile_width} tile; check num_prefix_tokens (CLS and registers)"
        )
    return tokens.transpose(1, 2).unflatten(2, (h, -1)), prefix
