"""Recurrent behaviour cloning: an LSTM over the last To observations (robomimic's BC-RNN, arXiv 2108.03298)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from s2robot.config import PolicyConfig, ReadoutConfig
from s2robot.config.policy import require_positive
from s2robot.interfaces import Observation, PolicySpec
from s2robot.policies.networks import HeadSettings
from s2robot.policies.sequence import SequencePolicy


@dataclass
class BCRNNConfig(HeadSettings, PolicyConfig):
    """An LSTM over the last To observations: robomimic's BC-RNN-GMM for images (arXiv 2108.03298, App. D).

    The 2 layers of width 1000, the sequences of 10 steps and the mixture are published. The chunks are our addition,
    with the length that `bc` has.
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
