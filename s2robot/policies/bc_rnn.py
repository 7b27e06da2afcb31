"""Recurrent behaviour cloning: an LSTM over the last To observations (robomimic's BC-RNN, arXiv 2108.03298)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2robot.config import PolicyConfig, ReadoutConfig
from s2robot.config.policy import require_positive
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy
from s2robot.policies.networks import HeadSettings, chunks_from_every_step, make_output


@dataclass
class BCRNNConfig(HeadSettings, PolicyConfig):
    """An LSTM over the last To observations: robomimic's BC-RNN-GMM for images (arXiv 2108.03298, App. D).

    2 layers of 1000, sequences of 10 and the mixture are published; chunks are ours, as long as those of `bc`.
    """

    name: str = "bc_rnn"
    head: str = "gmm"
    observation_steps: int = 10
    layers: int = 2
    hidden: int = 1000

    def __post_init__(self) -> None:
        HeadSettings.__post_init__(self)
        PolicyConfig.__post_init__(self)
        require_positive(self, "layers", "hidden")


class BCRNNPolicy(Policy):
    """An LSTM that puts out a chunk, or a mixture of chunks, at each observed step.

    Training supervises every step of the window with the chunk that began there; acting reads the last step's. Each
    call runs the LSTM from a zero state over the To observations given, so that no state is kept between calls.
    (robomimic carries the state along and sets it back to zero every To = 10 steps.)
    """

    settings = BCRNNConfig

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
