"""The expected image positions of learned keypoints, projected."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2robot.config import ReadoutConfig
from s2robot.interfaces import Features, FeatureShape
from s2robot.policies.readouts.base import Readout, projection


class SpatialSoftmaxReadout(Readout):
    """Expected image positions of learned keypoints (Finn et al., arXiv 1509.06113), projected.

    A 1×1 convolution makes one heat map per keypoint; a softmax over positions turns it into an expected (x, y) in
    [-1, 1]. `channels` is the number of keypoints.
    """

    def __init__(self, config: ReadoutConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        self.heat = nn.Conv2d(shape.channels, config.channels, 1)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        y = torch.linspace(-1, 1, shape.height) if shape.height > 1 else torch.zeros(1)
        x = torch.linspace(-1, 1, shape.width) if shape.width > 1 else torch.zeros(1)
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).reshape(-1, 2)
        self.grid = nn.Buffer(grid, persistent=False)
        self.project = projection(2 * config.channels, config.width)

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D]."""
        attention = (self.heat(features.map).flatten(2) / self.log_temperature.exp()).softmax(dim=-1)
        return self.project((attention @ self.grid).flatten(1))
