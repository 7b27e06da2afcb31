"""The class token, projected."""

from __future__ import annotations

from torch import Tensor

from s2robot.config import ReadoutConfig
from s2robot.interfaces import ConfigError, Features, FeatureShape
from s2robot.policies.readouts.base import Readout, projection


class ClsReadout(Readout):
    """The first prefix token (CLS), projected.

    Raises:
        ConfigError: the backbone has no prefix tokens.
    """

    def __init__(self, config: ReadoutConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        if not shape.num_prefix:
            raise ConfigError("readout 'cls' needs a backbone with a CLS token; this one has none; use readout 'mean'")
        self.project = projection(shape.channels, config.width)

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D]."""
        return self.project(features.prefix[:, 0])
