"""The largest values of each channel, projected."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from s2robot.config import ReadoutConfig, require
from s2robot.interfaces import Features, FeatureShape
from s2robot.policies.readouts.base import Readout, projection


@dataclass
class MyReadoutConfig(ReadoutConfig):
    """Settings of the readout of largest values; `values` is how many of each channel."""

    name: str = "my_readout"
    values: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.values >= 1, "readout.values", self.values, "an integer of 1 or more")


class MyReadout(Readout):
    """The largest values of each channel over the map, wherever they are, projected to the common width."""

    settings = MyReadoutConfig

    def __init__(self, config: MyReadoutConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        most = shape.height * shape.width
        require(config.values <= most, "readout.values", config.values, f"1 … {most}, the positions of the map")
        self._values = config.values
        self.project = projection(config.values * shape.channels, config.width)

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D]."""
        return self.project(features.map.flatten(2).topk(self._values).values.flatten(1))
