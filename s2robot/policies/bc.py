"""Chunked behaviour cloning: an MLP from the observation to the next Ta actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from s2robot.config import PolicyConfig, ReadoutConfig, require
from s2robot.config.policy import require_dropout
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy
from s2robot.policies.networks import MLP, HeadSettings, make_output


@dataclass
class BCConfig(HeadSettings, PolicyConfig):
    """Chunked behaviour cloning: an MLP from the observation to Ta actions."""

    name: str = "bc"
    hidden: list[int] = field(default_factory=lambda: [512, 512])
    dropout: float = 0.0

    def __post_init__(self) -> None:
        HeadSettings.__post_init__(self)
        PolicyConfig.__post_init__(self)
        require_dropout(self, "dropout")
        require(all(w >= 1 for w in self.hidden), "policy.hidden", self.hidden, "widths of 1 or more")


class BCPolicy(Policy):
    """Predicts an action chunk (arXiv 2304.13705, §IV-A), or a mixture of chunks, from all To observations at once."""

    settings = BCConfig

    def __init__(self, config: BCConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(readout, spec)
        self._output = make_output(config, (config.action_steps, spec.action_width))
        width = self.observation.width * config.observation_steps
        self.head = MLP(width, config.hidden, self._output.numbers, config.dropout)

    def _predict(self, observation: Observation) -> Tensor:
        return self.head(self.observation(observation).flatten(1))

    def loss(self, batch: Batch) -> Tensor:
        """Smooth-L1 loss, or negative log-likelihood of the mixture, between normalised chunks."""
        return self._output.loss(self._predict(batch.observation), self.actions(batch.actions)).mean()

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Predict action chunks [B, Ta, A] in environment units; a mixture draws row i with `generators[i]`."""
        return self.actions.inverse(self._output.sample(self._predict(observation), generators))
