"""The mean over the feature map, projected."""

from __future__ import annotations

from torch import Tensor

from s2robot.config import ReadoutConfig
from s2robot.interfaces import Features, FeatureShape
from s2robot.policies.readouts.base import Readout, projection


class MeanReadout(Readout):
    """The mean over the feature map, projected."""

    def __init__(self, config: ReadoutConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        self.project = projection(shape.channels, config.width)

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D]."""
        return self.project(features.map.mean(dim=(2, 3)))
