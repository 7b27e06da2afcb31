"""The base class of all readouts: the contract that policies and integrations rely on."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from s2robot.config import ReadoutConfig
from s2robot.interfaces import Features, FeatureShape


class Readout(nn.Module):
    """Base class of readouts, which map the features of one camera's frames to vectors; a subclass is one file.

    Args:
        config: all settings of the readout.
        shape: per-frame size of the features, from `S2Encoder.feature_shape`.

    Attributes:
        settings: dataclass of the readout's settings: `ReadoutConfig`, or a subclass with further fields.
    """

    settings: ClassVar[type[ReadoutConfig]] = ReadoutConfig

    def __init__(self, config: ReadoutConfig, shape: FeatureShape) -> None:
        super().__init__()

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D], where D is `config.width`; each frame on its own."""
        raise NotImplementedError


def projection(inputs: int, width: int) -> nn.Module:
    """Make the last layers of every readout here: layer norm, then a linear map to the common width."""
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width))
