"""Chunked behaviour cloning: an MLP from the observation to the next Ta actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from s2robot.config import BCConfig, ReadoutConfig
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy
from s2robot.policies.networks import MLP


class BCPolicy(Policy):
    """Deterministic action chunks under a smooth-L1 loss (action chunking: arXiv 2304.13705, §IV-A)."""

    def __init__(self, config: BCConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(readout, spec)
        self._chunk = (config.action_steps, spec.action_width)
        width = self.observation.width * config.observation_steps
        self.head = MLP(width, config.hidden, config.action_steps * spec.action_width, config.dropout)

    def _predict(self, observation: Observation) -> Tensor:
        return self.head(self.observation(observation).flatten(1)).unflatten(1, self._chunk)

    def loss(self, batch: Batch) -> Tensor:
        """Smooth-L1 between predicted and demonstrated chunks, both normalised."""
        return F.smooth_l1_loss(self._predict(batch.observation), self.actions(batch.actions), beta=0.1)

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Action chunks [B, Ta, A] in environment units; deterministic, `generators` are not used."""
        return self.actions.inverse(self._predict(observation))
