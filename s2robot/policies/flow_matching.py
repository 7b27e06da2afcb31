"""Flow matching: a network learns the velocity that moves noise to an action chunk (arXiv 2210.02747, 2209.03003)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2robot.config import PolicyConfig, ReadoutConfig, require
from s2robot.config.policy import require_positive
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy
from s2robot.policies.networks import DenoisingTransformerSettings, UNetSettings, make_denoising_transformer, make_unet

NETWORKS = ("unet", "transformer")
TIME_SAMPLINGS = ("beta", "uniform")
_TIME_SCALE = 100  # the networks' time embedding is designed for the diffusion steps 0 … 99, not for times in [0, 1]


@dataclass
class FlowMatchingConfig(UNetSettings, DenoisingTransformerSettings, PolicyConfig):
    """Flow matching with the networks of Diffusion Policy; the objective and sampling are π0's (arXiv 2410.24164).

    Attributes:
        network: `unet` or `transformer`; the settings of the other one are ignored.
        causal: whether the transformer hides later actions of a chunk from earlier ones; off by default, as in π0.
        time_sampling: distribution of the training times: `beta` (π0) or `uniform` (rectified flow, arXiv 2209.03003).
        inference_steps: number of Euler steps from noise to actions.
    """

    name: str = "flow_matching"
    observation_steps: int = 2
    action_steps: int = 16
    execute_steps: int = 8
    causal: bool = False
    network: str = "unet"
    time_sampling: str = "beta"
    inference_steps: int = 10

    def __post_init__(self) -> None:
        PolicyConfig.__post_init__(self)
        require(self.network in NETWORKS, "policy.network", self.network, ", ".join(NETWORKS))
        require(
            self.time_sampling in TIME_SAMPLINGS, "policy.time_sampling", self.time_sampling, ", ".join(TIME_SAMPLINGS)
        )
        require_positive(self, "inference_steps")
        if self.network == "unet":
            self.check_unet(self.action_steps)
        self.check_transformer()

    def identity(self) -> dict[str, Any]:
        """Leave out `causal` as well if the network is a U-Net, where it has no effect."""
        return {key: value for key, value in super().identity().items() if key != "causal" or self.network != "unet"}


class FlowMatchingPolicy(Policy):
    """Moves noise to actions along straight lines, with the networks of Diffusion Policy.

    The chunk at time τ in [0, 1] is τ·actions + (1 - τ)·noise. The network predicts its velocity, actions - noise.
    Acting starts from noise at τ = 0 and follows the velocity by Euler steps. The objective, the distribution of τ and
    the 10 steps are π0's (arXiv 2410.24164, §IV and App. B).
    """

    settings = FlowMatchingConfig

    network: nn.Module

    def __init__(self, config: FlowMatchingConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(readout, spec)
        self._chunk = (config.action_steps, spec.action_width)
        self._inference_steps = config.inference_steps
        self._time_sampling = config.time_sampling
        if config.network == "unet":
            self.network = make_unet(config, spec.action_width, self.observation.width * config.observation_steps)
        else:
            self.network = make_denoising_transformer(
                config, self._chunk, (config.observation_steps, self.observation.width)
            )

    def _draw_time(self, count: int, device: torch.device) -> Tensor:
        """Draw times [count] in [0, 1]: uniform, or π0's 0.999 · (1 - Beta(1.5, 1)), which favours times near noise."""
        uniform = torch.rand(count, device=device)
        if self._time_sampling == "uniform":
            return uniform
        return 0.999 * (1 - uniform ** (1 / 1.5))  # if u is uniform, u^(1/a) is distributed as Beta(a, 1)

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of the predicted velocity at random times."""
        actions = self.actions(batch.actions)
        noise = torch.randn_like(actions)
        time = self._draw_time(len(actions), actions.device)
        between = torch.lerp(noise, actions, time[:, None, None])
        velocity = self.network(between, _TIME_SCALE * time, self.observation(batch.observation))
        return F.mse_loss(velocity, actions - noise)

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample action chunks [B, Ta, A] in environment units, row i from `generators[i]`."""
        condition = self.observation(observation)
        sample = torch.stack([torch.randn(self._chunk, generator=generator) for generator in generators])
        sample = sample.to(condition.device)
        for step in range(self._inference_steps):
            time = torch.full((len(sample),), step / self._inference_steps, device=condition.device)
            sample = sample + self.network(sample, _TIME_SCALE * time, condition) / self._inference_steps
        return self.actions.inverse(sample)
