"""The cost of an S² encoder, known before it runs on data."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s2robot.backbones.frozen import FrozenBackbone
from s2robot.interfaces import Backbone, EncoderError, FeatureShape
from s2robot.s2 import ScaleSet
from s2robot.s2.tiling import Size


@dataclass(frozen=True)
class TileCost:
    """Cost of running one tile through a backbone.

    Attributes:
        channels, height, width: size of the tile's feature map.
        num_prefix: number of prefix tokens.
        macs: multiply-accumulate operations in convolutions, matrix products and attention.
    """

    channels: int
    height: int
    width: int
    num_prefix: int
    macs: float


@dataclass(frozen=True)
class ScaleCost:
    """Cost of one scale of the scale set, per frame.

    Attributes:
        size: height and width of the image at this scale [pixels].
        tiles: number of tiles.
        gmacs: 10⁹ multiply-accumulate operations.
    """

    size: tuple[int, int]
    tiles: int
    gmacs: float


@dataclass(frozen=True)
class EncoderCost:
    """An encoder's cost per frame (one image of one camera).

    Attributes:
        parameters: parameters of the backbone; S² adds none.
        scales: cost of each scale.
        shape: shape of the features.
        latency_ms: measured median time per frame [ms] at `latency_batch`; None unless asked for.
        latency_batch: batch size at which the latency was measured.
    """

    parameters: int
    scales: tuple[ScaleCost, ...]
    shape: FeatureShape
    latency_ms: float | None = None
    latency_batch: int = 1

    @property
    def tiles(self) -> int:
        """Tiles per frame, each of which runs through the backbone."""
        return sum(scale.tiles for scale in self.scales)

    @property
    def gmacs(self) -> float:
        """10⁹ multiply-accumulate operations per frame, all scales together."""
        return sum(scale.gmacs for scale in self.scales)

    @property
    def feature_width(self) -> int:
        """Channels of the feature map, S·C."""
        return self.shape.channels

    @property
    def bytes_per_frame(self) -> int:
        """Size of one frame in the feature cache, which stores float16 [bytes]."""
        return 2 * self.shape.numel


def count_parameters(module: object) -> int:
    """Number of parameters of a module, trainable or not; 0 for anything that is not a module."""
    return sum(parameter.numel() for parameter in module.parameters()) if isinstance(module, nn.Module) else 0


def measure_tile(backbone: Backbone, tile: Tensor) -> TileCost:
    """Run one tile [1, 3, h, w] through a backbone and measure its cost.

    The number of multiply-accumulates is half the FLOPs that `torch.utils.flop_counter` counts. As in the papers'
    tables, activations, norms and resizing are not counted.

    Raises:
        EncoderError: the backbone cannot process tiles of this size; the message names the nearest sizes that it can.
    """
    try:
        # Compute attention by plain matrix products: not every torch counts its fused attention on every device.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            tile_map, prefix = backbone.forward_features(tile)
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:  # whatever a network says of a size
        raise EncoderError(_unfit(backbone, tile, error)) from error
    channels, height, width = tile_map.shape[1:]
    return TileCost(channels, height, width, prefix.shape[1], counter.get_total_flops() / 2)


def _unfit(backbone: Backbone, tile: Tensor, error: Exception) -> str:
    height, width = tile.shape[-2:]
    sizes = fitting_sizes(backbone, max(height, width)) if isinstance(backbone, FrozenBackbone) else []
    # Models with windows or fixed positions accept only multiples of some size, or one size.
    which = f"; sizes that fit: {', '.join(map(str, sizes))}" if sizes else ""
    reason = str(error).strip() or type(error).__name__
    return f"{backbone.name} cannot process tiles of {height}x{width} pixels{which} ({reason})"


def fitting_sizes(backbone: FrozenBackbone, near: int) -> list[int]:
    """Return the nearest tile sizes below and above `near` that a backbone can process, and its native size [pixels].

    Sizes are tried on the meta device, without data: multiples of the patch size, or of 32 pixels, up to the larger of
    1024 and twice `near`.
    """
    tensors = itertools.chain(backbone.parameters(), backbone.buffers())
    trial = copy.deepcopy(backbone, {id(tensor): _on_meta(tensor) for tensor in tensors})

    def fits(size: int) -> bool:
        try:
            trial.forward_features(torch.empty((1, 3, size, size), device="meta", dtype=dtype))
        except Exception:  # whatever a network says of a size
            return False
        return True

    dtype = next((tensor.dtype for tensor in trial.parameters()), torch.float32)
    step = backbone.patch_size if backbone.patch_size > 1 else 32
    below = next(filter(fits, range((near - 1) // step * step, 0, -step)), None)
    above = next(filter(fits, range(near // step * step + step, max(1024, 2 * near) + 1, step)), None)
    native = backbone.size if fits(backbone.size) else None
    return sorted({size for size in (below, above, native) if size is not None})


def _on_meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def feature_shape(scale_set: ScaleSet, tiles: Sequence[TileCost], height: int, width: int) -> FeatureShape:
    """Shape of the features of a `height` x `width` image, given the cost of each scale's tile."""
    tilings = scale_set.tilings(height, width)
    merged = [tiling.map_size(tile.height, tile.width) for tiling, tile in zip(tilings, tiles, strict=True)]
    h, w = scale_set.grid(merged)
    return FeatureShape(sum(tile.channels for tile in tiles), h, w, tiles[0].num_prefix)


def scale_costs(scale_set: ScaleSet, tiles: Sequence[TileCost], height: int, width: int) -> tuple[ScaleCost, ...]:
    """Cost of every scale for a `height` x `width` image, given the cost of each scale's tile."""
    return tuple(
        ScaleCost((tiling.height, tiling.width), tiling.count, tiling.count * tile.macs / 1e9)
        for tiling, tile in zip(scale_set.tilings(height, width), tiles, strict=True)
    )


def largest_size(scales: Sequence[Size]) -> tuple[int, int]:
    """Height and width of the largest scale; an image of this size gives every scale its full detail."""
    pairs = [scale if isinstance(scale, tuple) else (scale, scale) for scale in scales]
    return max(pairs, key=lambda pair: pair[0] * pair[1])
