"""A linear map from the observations to the chunk: the smallest policy there can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2robot.config import PolicyConfig, ReadoutConfig, require
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy


@dataclass
class MyPolicyConfig(PolicyConfig):
    """Settings of the linear policy; `power` is that of the error in its loss."""

    name: str = "my_policy"
    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.power > 0, "policy.power", self.power, "a positive number")


class MyPolicy(Policy):
    """One linear layer, from the readouts and the proprioception of all steps to all actions of the chunk."""

    settings = MyPolicyConfig

    def __init__(self, config: MyPolicyConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(readout, spec)
        self._power = config.power
        self._chunk = (config.action_steps, spec.action_width)
        width = self.observation.width * config.observation_steps
        self.linear = nn.Linear(width, config.action_steps * spec.action_width)

    def _predict(self, observation: Observation) -> Tensor:
        return self.linear(self.observation(observation).flatten(1)).unflatten(1, self._chunk)

    def loss(self, batch: Batch) -> Tensor:
        """Mean error of the normalised actions, to the power that the settings say."""
        return (self._predict(batch.observation) - self.actions(batch.actions)).abs().pow(self._power).mean()

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Action chunks [B, Ta, A] in environment units; the generators are not used."""
        return self.actions.inverse(self._predict(observation))
