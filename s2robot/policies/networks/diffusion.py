"""Denoising diffusion over action chunks: the objective, and the samplers of diffusers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2robot.config import require

SAMPLERS = ("ddpm", "ddim", "dpm_solver")


@dataclass
class DiffusionSettings:
    """Diffusion over chunks as published (arXiv 2303.04137): 100 DDPM steps in training and in acting.

    Attributes:
        train_timesteps: number of diffusion steps in training.
        sampler: `ddpm`, `ddim` or `dpm_solver` (DPM-Solver++, arXiv 2211.01095).
        inference_steps: number of sampling steps; ddim and dpm_solver act well with about 10. With ddim it must divide
            `train_timesteps`.
    """

    train_timesteps: int = 100
    sampler: str = "ddpm"
    inference_steps: int = 100

    @property
    def bounded(self) -> bool:
        """Whether only numbers in [-1, 1] can be given: every sampler clips to them."""
        return True

    def __post_init__(self) -> None:
        require(self.sampler in SAMPLERS, "policy.sampler", self.sampler, ", ".join(SAMPLERS))
        require(
            1 <= self.inference_steps <= self.train_timesteps,
            "policy.inference_steps",
            self.inference_steps,
            f"1 … train_timesteps={self.train_timesteps}",
        )
        total, steps = self.train_timesteps, self.inference_steps
        # diffusers' DDIM steps back by N // n between times that are N / n apart, so n must divide N. The other
        # samplers' times are np.arange(N, 0, -N / n): for some n, rounding adds one more, which lies before time 0.
        exact = total % steps == 0 if self.sampler == "ddim" else math.ceil(total / (total / steps)) == steps
        divisors = [str(n) for n in range(1, total + 1) if total % n == 0]
        require(
            exact,
            "policy.inference_steps",
            steps,
            f"a divisor of train_timesteps ({', '.join(divisors)}); ddpm and dpm_solver accept most other numbers too",
        )


class Diffusion:
    """Trains a network to predict the noise in a chunk, and samples chunks by denoising (arXiv 2303.04137).

    The network maps a noisy chunk [B, Ta, A], a step [B] and a condition to the noise [B, Ta, A]. Every sampler clips
    the predicted clean chunk to [-1, 1] at every step.
    """

    def __init__(self, settings: DiffusionSettings, chunk: tuple[int, int]) -> None:
        self._chunk = chunk
        self._train_timesteps = settings.train_timesteps
        self._inference_steps = settings.inference_steps
        schedule: dict[str, Any] = {
            "num_train_timesteps": settings.train_timesteps,
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "epsilon",
            # Sampling in few steps must start at pure noise, the last training step (arXiv 2305.08891, §3.3).
            "timestep_spacing": "trailing",
        }
        self._noiser: Any = _make_sampler("ddpm", schedule)
        self._sampler: Any = _make_sampler(settings.sampler, schedule)

    def loss(self, network: nn.Module, actions: Tensor, condition: Tensor) -> Tensor:
        """Mean squared error of the noise predicted at uniformly drawn diffusion steps; `actions` are normalised."""
        noise = torch.randn_like(actions)
        steps = torch.randint(self._train_timesteps, (len(actions),), device=actions.device)
        return F.mse_loss(network(self._noiser.add_noise(actions, noise, steps), steps, condition), noise)

    def sample(self, network: nn.Module, condition: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample normalised chunks [B, Ta, A], row i with `generators[i]`."""
        sample = torch.stack([torch.randn(self._chunk, generator=generator) for generator in generators])
        sample = sample.to(condition.device)
        self._sampler.set_timesteps(self._inference_steps)
        for step in self._sampler.timesteps:
            noise = network(sample, step.expand(len(sample)).to(condition.device), condition)
            sample = self._sampler.step(noise, step, sample, generator=list(generators)).prev_sample
        return sample


def _make_sampler(name: str, schedule: dict[str, Any]) -> Any:
    # Imported here: diffusers takes a second to import, and listing the policies and their settings does not need it.
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    match name:
        case "ddpm":
            return DDPMScheduler(**schedule, clip_sample=True)
        case "ddim":
            return DDIMScheduler(**schedule, clip_sample=True)
        case _:
            # This scheduler has no `clip_sample`; its dynamic threshold with `sample_max_value` 1 does the same.
            return DPMSolverMultistepScheduler(**schedule, thresholding=True, sample_max_value=1.0)
