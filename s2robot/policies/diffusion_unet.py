"""Diffusion Policy, CNN form: a temporal U-Net denoises an action chunk (arXiv 2303.04137)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2robot.config import PolicyConfig, ReadoutConfig
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy
from s2robot.policies.networks import Diffusion, DiffusionSettings, UNetSettings, make_unet


@dataclass
class DiffusionUNetConfig(UNetSettings, DiffusionSettings, PolicyConfig):
    """Diffusion Policy, CNN form (arXiv 2303.04137); the defaults are the published ones."""

    name: str = "diffusion_unet"
    observation_steps: int = 2
    action_steps: int = 16
    execute_steps: int = 8

    def __post_init__(self) -> None:
        PolicyConfig.__post_init__(self)
        DiffusionSettings.__post_init__(self)
        self.check_unet(self.action_steps)


class DiffusionUNetPolicy(Policy):
    """Predicts the noise in a chunk; acts by denoising from Gaussian noise."""

    settings = DiffusionUNetConfig

    def __init__(self, config: DiffusionUNetConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(readout, spec)
        self._diffusion = Diffusion(config, (config.action_steps, spec.action_width))
        self.unet = make_unet(config, spec.action_width, self.observation.width * config.observation_steps)

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of the predicted noise at uniformly drawn diffusion steps."""
        return self._diffusion.loss(self.unet, self.actions(batch.actions), self.observation(batch.observation))

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample action chunks [B, Ta, A] in environment units, row i from `generators[i]`."""
        return self.actions.inverse(self._diffusion.sample(self.unet, self.observation(observation), generators))
