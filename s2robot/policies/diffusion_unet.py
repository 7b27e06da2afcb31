"""Diffusion Policy, CNN form: a temporal U-Net denoises an action chunk (arXiv 2303.04137)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from s2robot.config import DiffusionUNetConfig, ReadoutConfig
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy
from s2robot.policies.networks import ConditionalUnet1D

_SAMPLERS: dict[str, Any] = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}


class DiffusionUNetPolicy(Policy):
    """Predicts the noise in a chunk; acts by denoising from Gaussian noise with DDPM or DDIM."""

    def __init__(self, config: DiffusionUNetConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(readout, spec)
        self._chunk = (config.action_steps, spec.action_width)
        self._inference_steps = config.inference_steps
        self.unet = ConditionalUnet1D(
            spec.action_width,
            self.observation.width * config.observation_steps,
            down_dims=config.down_dims,
            kernel_size=config.kernel_size,
            groups=config.groups,
            step_embedding=config.step_embedding,
        )
        noise_schedule: dict[str, Any] = {
            "num_train_timesteps": config.train_timesteps,
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "epsilon",
            "clip_sample": True,
            # Few sampling steps must start at pure noise, the last step of training (arXiv 2305.08891, §3.3).
            "timestep_spacing": "trailing",
        }
        self._train_timesteps = config.train_timesteps
        self._noiser: Any = DDPMScheduler(**noise_schedule)  # diffusers builds its members dynamically
        self._sampler: Any = _SAMPLERS[config.sampler](**noise_schedule)

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of the predicted noise at uniformly drawn diffusion steps."""
        actions = self.actions(batch.actions)
        noise = torch.randn_like(actions)
        steps = torch.randint(self._train_timesteps, (len(actions),), device=actions.device)
        noisy = self._noiser.add_noise(actions, noise, steps)
        condition = self.observation(batch.observation).flatten(1)
        return F.mse_loss(self.unet(noisy, steps, condition), noise)

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample action chunks [B, Ta, A] in environment units, row i from `generators[i]`."""
        condition = self.observation(observation).flatten(1)
        sample = torch.stack([torch.randn(self._chunk, generator=generator) for generator in generators])
        sample = sample.to(condition.device)
        self._sampler.set_timesteps(self._inference_steps)
        for step in self._sampler.timesteps:
            noise = self.unet(sample, step.expand(len(sample)).to(condition.device), condition)
            sample = self._sampler.step(noise, step, sample, generator=list(generators)).prev_sample
        return self.actions.inverse(sample)
