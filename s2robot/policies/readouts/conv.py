"""A few channels per position, flattened over all positions; the default readout."""

from __future__ import annotations

from torch import Tensor, nn

from s2robot.config import ReadoutConfig
from s2robot.interfaces import Features, FeatureShape
from s2robot.policies.readouts.base import Readout, projection


class ConvReadout(Readout):
    """A 1×1 convolution to `channels` channels, flattened over all positions and projected; the default readout."""

    def __init__(self, config: ReadoutConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        self.compress = nn.Sequential(nn.Conv2d(shape.channels, config.channels, 1), nn.GELU())
        self.project = projection(config.channels * shape.height * shape.width, config.width)

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D]."""
        return self.project(self.compress(features.map).flatten(1))
