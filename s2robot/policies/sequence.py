"""The base class of policies that read observations in sequence and predict a chunk at each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from s2robot.config import ReadoutConfig
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy
from s2robot.policies.networks import HeadSettings, chunks_from_every_step, make_output


class SequencePolicy(Policy):
    """Trains every step of the window on the chunk that began there; acts with the last step's chunk.

    A subclass implements `states` and sets `head`, a network from a state to the numbers of the output.
    """

    head: nn.Module

    def __init__(self, head: HeadSettings, chunk: tuple[int, int], readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(readout, spec)
        self._output = make_output(head, chunk)

    def states(self, observation: Observation) -> Tensor:
        """Encode each step together with the steps before it: [B, To, …]."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> Tensor:
        """Smooth-L1 loss, or negative log-likelihood of the mixture, of the normalised chunks at every step."""
        chunks, valid = chunks_from_every_step(batch)
        raw = self.head(self.states(batch.observation)[valid])
        return self._output.loss(raw, self.actions(chunks[valid])).mean()

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Predict action chunks [B, Ta, A] in environment units; a mixture draws row i with `generators[i]`."""
        raw = self.head(self.states(observation)[:, -1])
        return self.actions.inverse(self._output.sample(raw, generators))
