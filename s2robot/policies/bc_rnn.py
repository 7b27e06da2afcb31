"""Recurrent behaviour cloning: an LSTM over the last To observations (robomimic's BC-RNN, arXiv 2108.03298)."""

from __future__ import annotations

from torch import Tensor, nn

from s2robot.config import ReadoutConfig
from s2robot.config.policies import BCRNNConfig
from s2robot.interfaces import Observation, PolicySpec
from s2robot.policies.sequence import SequencePolicy


class BCRNNPolicy(SequencePolicy):
    """An LSTM that predicts a chunk, or a mixture of chunks, at each observed step.

    Training supervises every step of the window with the chunk that began there; acting uses the last step's chunk.
    Each call runs the LSTM from a zero state over the given To observations, so no state is kept between calls.
    (robomimic keeps the state between calls and resets it every To = 10 steps.)
    """

    settings = BCRNNConfig

    def __init__(self, config: BCRNNConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(config, (config.action_steps, spec.action_width), readout, spec)
        self.rnn = nn.LSTM(self.observation.width, config.hidden, config.layers, batch_first=True)
        self.head = nn.Linear(config.hidden, self._output.numbers)

    def states(self, observation: Observation) -> Tensor:
        """Run the LSTM over the observations: [B, To, hidden]."""
        return self.rnn(self.observation(observation))[0]
