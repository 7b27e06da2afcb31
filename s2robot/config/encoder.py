"""Settings of the frozen encoder and of the trainable readout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from s2robot.config.checks import require, without_former


@dataclass
class EncoderConfig:
    """Settings of the frozen S² encoder: the arguments of `S2Encoder`, which documents and checks them.

    The fields from `antialias` to `upsampled` are those of `s2robot.s2.ScaleOptions`.
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
    duplicate: int = 1  # copies of a single scale's channels: the control for the width that more scales bring
    precision: str = "fp32"
    channels_last: bool = False
    engine: str = "eager"
    max_tiles: int | None = None

    @property
    def needed_side(self) -> int:
        """Smallest image side in pixels that no scale enlarges; 0 if scales are factors or upsampled on purpose."""
        sides = [side for scale in self.scales for side in (scale if isinstance(scale, list) else [scale])]
        return 0 if self.upsampled else max((side for side in sides if isinstance(side, int)), default=0)


@dataclass
class ReadoutConfig:
    """Settings of the trainable readout, which turns one camera's feature map into a vector.

    A readout ignores the settings that it does not use, so that one configuration serves a comparison of all readouts.

    Attributes:
        name: name of the readout.
        width: width of the vector.
        channels: channels kept per position (`conv`), or number of keypoints (`spatial_softmax`, `resnet18`).
        queries, heads: numbers of queries and heads of `attention`.
    """

    former: ClassVar[dict[str, Any]] = {"heads": 4}
    """Settings added later -> value that means what the code did before; files without the setting mean that value."""

    name: str = "conv"
    width: int = 256
    channels: int = 32
    queries: int = 1
    heads: int = 4

    def __post_init__(self) -> None:
        for name in ("width", "channels", "queries", "heads"):
            require(getattr(self, name) >= 1, f"readout.{name}", getattr(self, name), "an integer of 1 or more")

    def identity(self) -> dict[str, Any]:
        """Return the settings that a result depends on, in the form in which the first versions wrote them."""
        return without_former(self)
