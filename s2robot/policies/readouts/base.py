"""What every readout is: the contract that policies and integrations rely on."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from s2robot.config import ReadoutConfig
from s2robot.interfaces import Features, FeatureShape


class Readout(nn.Module):
    """A trainable module from the features of one camera's frames to vectors; a subclass is one file.

    Args:
        config: its settings; every one of them reaches it.
        shape: per-frame size of the features, from `S2Encoder.feature_shape`.

    Attributes:
        settings: the dataclass of its settings: `ReadoutConfig`, or a subclass with fields of its own.
    """

    settings: ClassVar[type[ReadoutConfig]] = ReadoutConfig

    def __init__(self, config: ReadoutConfig, shape: FeatureShape) -> None:
        super().__init__()

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D], where D is `config.width`; frames do not see each other."""
        raise NotImplementedError


def projection(inputs: int, width: int) -> nn.Module:
    """The end of every readout here: normalised and mapped to the common width."""
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width))
