"""Recurrent behaviour cloning: an LSTM over the last To observations (robomimic's BC-RNN, arXiv 2108.03298)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from s2robot.config import BCRNNConfig, ReadoutConfig
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy
from s2robot.policies.networks import chunks_from_every_step, make_output


class BCRNNPolicy(Policy):
    """An LSTM that puts out a chunk, or a mixture of chunks, at each observed step.

    Training supervises every step of the window with the chunk that began there; acting reads the last step's. Each
    call runs the LSTM from a zero state over the To observations given, so that no state is kept between calls.
    (robomimic carries the state along and sets it back to zero every To = 10 steps.)
    """

    def __init__(self, config: BCRNNConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(readout, spec)
        self._output = make_output(config, (config.action_steps, spec.action_width))
        self.rnn = nn.LSTM(self.observation.width, config.hidden, config.layers, batch_first=True)
        self.head = nn.Linear(config.hidden, self._output.numbers)

    def _states(self, observation: Observation) -> Tensor:
        return self.rnn(self.observation(observation))[0]  # [B, To, hidden]

    def loss(self, batch: Batch) -> Tensor:
        """Loss of the chunks from every step, both normalised: smooth-L1 or negative log-likelihood."""
        chunks, valid = chunks_from_every_step(batch)
        raw = self.head(self._states(batch.observation)[valid])
        return self._output.loss(raw, self.actions(chunks[valid])).mean()

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Action chunks [B, Ta, A] in environment units; a mixture's mode is drawn with `generators[i]`."""
        raw = self.head(self._states(observation)[:, -1])
        return self.actions.inverse(self._output.sample(raw, generators))
