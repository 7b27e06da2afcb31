"""Settings of the frozen encoder and of the readouts over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from s2robot.config.checks import require, without_former


@dataclass
class EncoderConfig:
    """The frozen S² encoder; the fields are the arguments of `S2Encoder`, which documents and checks them.

    `antialias` … `upsampled` are `s2robot.s2.ScaleOptions`.
    """

    backbone: str = "efficientnet_lite0"
    scales: list[Any] = field(default_factory=lambda: [224, 448])  # pixels, [height, width] pairs, or float factors
    weights: str = "default"
    tile: int | None = None
    antialias: bool = False
    pool_to: str = "base"
    cover: str = "exact"
    keep_aspect: bool = False
    upsampled: bool = False
    duplicate: int = 1  # copies of a single scale's channels: as wide as more scales, the control for width
    precision: str = "fp32"
    channels_last: bool = False
    engine: str = "eager"
    max_tiles: int | None = None

    @property
    def needed_side(self) -> int:
        """Pixels that images must have for no scale to enlarge them; 0 where scales are factors, or upsampled ones."""
        sides = [side for scale in self.scales for side in (scale if isinstance(scale, list) else [scale])]
        return 0 if self.upsampled else max((side for side in sides if isinstance(side, int)), default=0)


@dataclass
class ReadoutConfig:
    """The trainable readout of one camera's feature map; every kind ends in `width` numbers.

    A readout reads the settings it knows of, so that one set of them serves a comparison of all.

    Attributes:
        channels: of `conv`, `spatial_softmax` and `resnet18`: kept per position, or keypoints.
        queries, heads: of `attention`.
    """

    former: ClassVar[dict[str, Any]] = {"heads": 4}
    """Settings that came later -> what the code did before they came: files without them mean that."""

    name: str = "conv"
    width: int = 256
    channels: int = 32
    queries: int = 1
    heads: int = 4

    def __post_init__(self) -> None:
        for name in ("width", "channels", "queries", "heads"):
            require(getattr(self, name) >= 1, f"readout.{name}", getattr(self, name), "an integer of 1 or more")

    def identity(self) -> dict[str, Any]:
        """The settings that a result depends on, in the words of the files that were written first."""
        return without_former(self)
