"""What the policies share that read the observations one after the other and put a chunk out at each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from s2robot.config import ReadoutConfig
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy
from s2robot.policies.networks import HeadSettings, chunks_from_every_step, make_output


class SequencePolicy(Policy):
    """Supervised at every step of the window with the chunk that began there; acts on the last step's.

    A subclass has `states`, and a `head` from a state to the numbers of the output.
    """

    head: nn.Module

    def __init__(self, head: HeadSettings, chunk: tuple[int, int], readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(readout, spec)
        self._output = make_output(head, chunk)

    def states(self, observation: Observation) -> Tensor:
        """[B, To, …]: what is known after each step, of it and those before it."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> Tensor:
        """Loss of the chunks from every step, both normalised: smooth-L1 or negative log-likelihood."""
        chunks, valid = chunks_from_every_step(batch)
        raw = self.head(self.states(batch.observation)[valid])
        return self._output.loss(raw, self.actions(chunks[valid])).mean()

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Action chunks [B, Ta, A] in environment units; a mixture's mode is drawn with `generators[i]`."""
        raw = self.head(self.states(observation)[:, -1])
        return self.actions.inverse(self._output.sample(raw, generators))
