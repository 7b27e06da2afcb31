"""The frozen S² encoder: a backbone, a scale set and the preprocessing of camera images for them."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from s2robot.backbones import load_backbone
from s2robot.backbones.frozen import FrozenBackbone, hash_tensors, wrap_module
from s2robot.backbones.pixels import PixelBackbone
from s2robot.encoder.cost import (
    EncoderCost,
    TileCost,
    count_parameters,
    feature_shape,
    largest_size,
    measure_tile,
    scale_costs,
)
from s2robot.encoder.engines import make_engine
from s2robot.encoder.preprocessing import Normalize
from s2robot.interfaces import Backbone, EncoderError, Features, FeatureShape, resolve_device
from s2robot.s2 import ScaleOptions, ScaleSet, multiview_forward
from s2robot.s2.scale_set import check_options
from s2robot.s2.tiling import Size, as_pair, first_side, in_pixels, require_scales

FEATURES_VERSION = 1
"""Version of the features; raise it whenever the same images, weights and settings give different features."""


class S2Encoder(nn.Module):
    """Computes multi-scale features of camera images with a frozen backbone (arXiv 2403.13043).

    Args:
        backbone: a name (see `s2robot.backbones.BACKBONES`, or any timm model name) or a `Backbone`.
        scales: image sizes [pixels], base size first: whole numbers are squares, pairs are (height, width), floats
            are multiples of the backbone's native size.
        weights: where a named backbone's weights come from, see `s2robot.backbones.load_backbone`.
        tile: tile size [pixels]; the first scale (its height) when None.
        duplicate: number of copies of the features' channels; above 1 only with a single scale. It is the control for
            width: two copies are as wide as two scales but hold no more information than one.
        precision: precision of the backbone: `fp32`, `bf16` or `fp16`; resizing and pooling stay in float32.
        channels_last: whether tiles and weights have the channels-last memory layout, which speeds up models that
            return maps, on CPUs and GPUs.
        engine: what runs the backbone: `eager`, `compile`, `cuda_graph` or `openvino`, see `s2robot.encoder.engines`.
        max_tiles: largest number of tiles per call of the backbone. It bounds peak memory, independently of the batch
            size and the number of scales. None means 64 on a GPU; on a CPU 4 per thread, but at least 8, because larger
            batches do not fit the processor's caches.
        device: `cpu`, `cuda`, …, or `auto`.
        options: `antialias`, `pool_to`, `cover`, `keep_aspect` and `upsampled`, see `s2robot.s2.ScaleOptions`.

    Raises:
        EncoderError: unknown backbone or option, or a scale set that it cannot process.
        WeightsError: the weights are missing, damaged, or belong to another architecture.
        ConfigError: unknown precision, engine or device, or one that this machine lacks.
    """

    def __init__(
        self,
        backbone: str | Backbone,
        scales: Sequence[Size | float] = (224, 448),
        *,
        weights: str | Sequence[str] = "default",
        tile: int | None = None,
        duplicate: int = 1,
        precision: str = "fp32",
        channels_last: bool = False,
        engine: str = "eager",
        max_tiles: int | None = None,
        device: str | torch.device = "cpu",
        **options: Unpack[ScaleOptions],
    ) -> None:
        super().__init__()
        check_options(options, S2Encoder.__init__)
        _spare_forked_processes()
        require_scales(scales)
        if max_tiles is not None and max_tiles < 1:
            raise EncoderError(f"max_tiles={max_tiles} is not possible; valid: 1 or more tiles per call")
        if isinstance(backbone, str):
            factors = any(isinstance(scale, float) for scale in scales)
            backbone = load_backbone(backbone, weights, size=tile or (None if factors else first_side(scales)))
        elif precision != "fp32" or channels_last:
            backbone = copy.deepcopy(backbone)  # `make_engine` casts in place; the caller's backbone must not change
        sizes = tuple(in_pixels(scale, backbone.size) for scale in scales)
        if duplicate < 1 or (duplicate > 1 and len(sizes) > 1):
            raise EncoderError(
                f"duplicate={duplicate} is not possible with scales {sizes}; valid: 1, or more with a single scale"
            )
        tile = tile or first_side(sizes)
        # Resample positions as `load_backbone` does for a name: features must not depend on who loaded the backbone.
        self.backbone = backbone = backbone.for_tiles(tile) if isinstance(backbone, FrozenBackbone) else backbone
        self.precision = precision
        self.engine = engine
        self.duplicate = duplicate
        self.scale_set = ScaleSet(sizes, tile, **options)
        self._check_tiles()
        self._check_pixels()
        self.normalize = Normalize(backbone.mean, backbone.std)
        target = resolve_device(str(device))
        self.max_tiles = max_tiles or (64 if target.type != "cpu" else max(8, 4 * torch.get_num_threads()))
        self.run_backbone, self._dtype = make_engine(engine, backbone, precision, channels_last, target)
        self._known_tiles: dict[tuple[int, int], TileCost] = {}
        self.requires_grad_(False).eval()
        self.to(target)

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        *,
        size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        num_prefix_tokens: int = 0,
        name: str | None = None,
        scales: Sequence[Size | float] | None = None,
        version: str = "",
        **settings: Any,
    ) -> S2Encoder:
        """Wrap any network that timm does not have; it is frozen in place and tested on one image.

        Args:
            module: network from normalised tiles [b, 3, size, size] to a map [b, C, h, w], to tokens [b, P+N, C] with
                the prefix tokens first, or to the pair (map, prefix [b, P, C]).
            size: tile height = width [pixels].
            mean: per-channel mean of images in [0, 1].
            std: per-channel standard deviation of images in [0, 1].
            num_prefix_tokens: P, the number of class and register tokens.
            name: name in reports; the class's name when None.
            scales: see `S2Encoder`; (size, 2·size) when None.
            version: your version of the network, part of the fingerprint. The fingerprint also covers the class's name,
                parameters, buffers, extra state and `repr(module)`. It does not cover the code of `forward`, hooks and
                plain attributes (including tensors). Change the version whenever one of them changes, or the cache will
                serve features of the old network.
            settings: the other arguments of `S2Encoder`.

        Raises:
            EncoderError: the network fails on one image, or does not return features.
        """
        backbone = wrap_module(module, size, mean, std, num_prefix_tokens, name, version)
        settings.setdefault("tile", size)
        return cls(backbone, scales or (size, 2 * size), **settings)

    @property
    def scales(self) -> tuple[Size, ...]:
        """Image sizes of the scale set [pixels], base size first."""
        return self.scale_set.sizes

    @property
    def device(self) -> torch.device:
        """Where the encoder computes."""
        return self.normalize.scale.device

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """Encode a batch of images from one camera.

        Args:
            images: uint8 [B, H, W, 3] or [B, 3, H, W], or float [B, 3, H, W] in [0, 1]; any H and W.

        Returns:
            map [B, S·C, h, w] and prefix [B, P, S·C], float32, on the encoder's device.

        Raises:
            EncoderError: images have the wrong type, shape or range, or contain NaN.
        """
        return self._encode([images])[0]

    @torch.no_grad()
    def encode_cameras(self, images: Mapping[str, Tensor]) -> dict[str, Features]:
        """Encode several cameras at once; image sizes may differ, and all tiles share the backbone's calls.

        Args:
            images: camera name -> images as in `forward`, all with the same B.

        Returns:
            Camera name -> features.
        """
        return dict(zip(images, self._encode(list(images.values())), strict=True))

    def feature_shape(self, height: int, width: int) -> FeatureShape:
        """Shape of one frame's features for images of `height` x `width` pixels."""
        shape = feature_shape(self.scale_set, self._tile_costs(height, width), height, width)
        return replace(shape, channels=shape.channels * self.duplicate)

    def cost(self, height: int | None = None, width: int | None = None, latency_batch: int = 0) -> EncoderCost:
        """Parameters, tiles, GMACs and bytes per frame.

        Args:
            height: image height [pixels]; the largest scale's when None.
            width: image width [pixels]; the largest scale's when None.
            latency_batch: batch size to measure the latency at; 0 measures nothing.
        """
        default_height, default_width = largest_size(self.scales)
        height, width = height or default_height, width or default_width
        return EncoderCost(
            parameters=count_parameters(self.backbone),
            scales=scale_costs(self.scale_set, self._tile_costs(height, width), height, width),
            shape=self.feature_shape(height, width),
            latency_ms=self._latency_ms(latency_batch, height, width) if latency_batch else None,
            latency_batch=latency_batch or 1,
        )

    def fingerprint(self) -> str:
        """Sha256 of everything that determines the features: weights, scale set, preprocessing, precision and code.

        The machine, device, engine, memory layout and micro-batching are left out, because they change features only by
        rounding. So the fingerprint is equal across processes, machines and devices, except for random weights
        (`weights="none"`), which are reproducible only on the same machine.
        """
        identity: dict[str, Any] = {
            "features_version": FEATURES_VERSION,
            "weights": self.backbone.weights_hash(),
            "architecture": getattr(self.backbone, "architecture", type(self.backbone).__name__),
            "scale_set": asdict(self.scale_set),
            "mean": _plain(self.backbone.mean),
            "std": _plain(self.backbone.std),
            "num_prefix_tokens": self.backbone.num_prefix_tokens,
            "precision": self.precision,
        }
        if self.duplicate > 1:
            identity["duplicate"] = self.duplicate
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def describe(self) -> str:
        """Return a readable name: backbone, scale set, and all options that differ from their defaults.

        >>> S2Encoder("test_vit", (64, 128), weights="none", antialias=True).describe()
        'test_vit {64, 128} antialias=True'
        """
        default = ScaleSet(self.scales, first_side(self.scales))
        options = {
            **{item.name: getattr(self.scale_set, item.name) for item in fields(ScaleSet)},
            "precision": self.precision,
            "duplicate": self.duplicate,
        }
        usual = {**asdict(default), "precision": "fp32", "duplicate": 1}
        changed = [f"{name}={value}" for name, value in options.items() if value != usual[name]]
        return " ".join([f"{self.backbone.name} {{{', '.join(map(str, self.scales))}}}", *changed])

    def tensors_hash(self) -> str:
        """Sha256 of the backbone's parameters and buffers as they are now, to prove that they have not changed."""
        if not isinstance(self.backbone, nn.Module):
            return self.backbone.weights_hash()
        return hash_tensors(self.backbone)

    def train(self, mode: bool = True) -> S2Encoder:
        """Stay in evaluation mode, ignoring `mode`: the encoder is frozen."""
        return super().train(False)

    def _encode(self, images: Sequence[Tensor]) -> list[Features]:
        views = [self.normalize(camera) for camera in images]
        try:
            outputs = multiview_forward(self.run_backbone, views, self.scale_set, max_tiles=self.max_tiles)
        except (RuntimeError, AssertionError, ValueError):
            for view in views:
                self._tile_costs(*view.shape[-2:])  # raises a clear error if the tiles' size is the cause
            raise
        return [
            Features(maps.repeat(1, self.duplicate, 1, 1), prefix.repeat(1, 1, self.duplicate))
            if self.duplicate > 1
            else Features(maps, prefix)
            for maps, prefix in outputs
        ]

    @torch.no_grad()
    def _tile_costs(self, height: int, width: int) -> list[TileCost]:
        """Return the cost of each scale's tile; a grey tile of each new size runs through the backbone once."""
        tiles = [tiling.tile for tiling in self.scale_set.tilings(height, width)]
        for tile in tiles:
            if tile not in self._known_tiles:
                grey = torch.zeros((1, 3, *tile), device=self.device, dtype=self._dtype)
                self._known_tiles[tile] = measure_tile(self.backbone, grey)
        return [self._known_tiles[tile] for tile in tiles]

    def _latency_ms(self, batch: int, height: int, width: int, repeats: int = 5) -> float:
        images = torch.zeros((batch, height, width, 3), dtype=torch.uint8)
        times = []
        for _ in range(repeats + 1):  # the first run warms up
            start = time.perf_counter()
            self(images).map.sum().item()  # waits for the device
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times[1:]) / batch

    def _check_pixels(self) -> None:
        if isinstance(self.backbone, PixelBackbone) and (
            len(self.scales) > 1
            or as_pair(self.scales[0]) != as_pair(self.scale_set.tile)
            or self.duplicate > 1
            or self.precision != "fp32"
        ):
            raise EncoderError(
                f"backbone 'pixels' needs one square scale in fp32, such as scales=(84,); got {self.describe()}"
            )

    def _check_tiles(self) -> None:
        patch = getattr(self.backbone, "patch_size", 1)
        minimum = getattr(self.backbone, "minimum_size", 1)
        for size in (self.scale_set.tile, *self.scale_set.sizes):
            for side in as_pair(size):
                if side < minimum:
                    raise EncoderError(
                        f"scale {size} is smaller than {self.backbone.name} can process; the smallest size is "
                        f"{minimum} pixels (whole numbers are pixels; write 1.0, 2.0 for multiples of the native size)"
                    )
                if min(side, self.scale_set.tile) % patch:
                    raise EncoderError(
                        f"scale {size} needs tiles whose size is not a multiple of {self.backbone.name}'s patch size, "
                        f"{patch} pixels; use multiples of {patch}"
                    )


def _plain(values: Iterable[Any]) -> list[float]:
    """Return plain numbers for JSON; ints stay ints, because 1 and 1.0 would give different fingerprints."""
    return [value if isinstance(value, int | float) else float(value) for value in values]


@functools.cache
def _spare_forked_processes() -> None:
    """Limit forked children to one thread.

    `fork()` does not copy OpenMP's worker threads, so a child that uses them deadlocks.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
