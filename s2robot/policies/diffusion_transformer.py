"""Diffusion Policy, transformer form: a decoder denoises an action chunk (arXiv 2303.04137)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s2robot.config import PolicyConfig, ReadoutConfig, require
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy
from s2robot.policies.networks import (
    DenoisingTransformerSettings,
    Diffusion,
    DiffusionSettings,
    make_denoising_transformer,
)


@dataclass
class DiffusionTransformerConfig(DenoisingTransformerSettings, DiffusionSettings, PolicyConfig):
    """Diffusion Policy, transformer form (arXiv 2303.04137); the defaults are the published ones.

    `transformer_weight_decay` replaces `training.weight_decay` for the transformer's matrices.
    """

    name: str = "diffusion_transformer"
    observation_steps: int = 2
    action_steps: int = 10
    execute_steps: int = 8
    transformer_weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        PolicyConfig.__post_init__(self)
        DiffusionSettings.__post_init__(self)
        self.check_transformer()
        require(
            self.transformer_weight_decay >= 0,
            "policy.transformer_weight_decay",
            self.transformer_weight_decay,
            "0 or more",
        )


class DiffusionTransformerPolicy(Policy):
    """Predicts the noise in a chunk; acts by denoising from Gaussian noise."""

    settings = DiffusionTransformerConfig

    def __init__(self, config: DiffusionTransformerConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(readout, spec)
        self._weight_decay = config.transformer_weight_decay
        self._diffusion = Diffusion(config, (config.action_steps, spec.action_width))
        self.transformer = make_denoising_transformer(
            config,
            (config.action_steps, spec.action_width),
            (config.observation_steps, self.observation.width),
        )

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Give the transformer its own weight decay, which applies to its matrices only."""
        decayed = self.transformer.decayed()
        own = {id(parameter) for parameter in self.transformer.parameters()}
        matrices = {id(parameter) for parameter in decayed}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in own]
        undecayed = [parameter for parameter in self.transformer.parameters() if id(parameter) not in matrices]
        return [
            {"params": rest, "weight_decay": weight_decay},
            {"params": decayed, "weight_decay": self._weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ]

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of the predicted noise at uniformly drawn diffusion steps."""
        return self._diffusion.loss(self.transformer, self.actions(batch.actions), self.observation(batch.observation))

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample action chunks [B, Ta, A] in environment units, row i from `generators[i]`."""
        return self.actions.inverse(self._diffusion.sample(self.transformer, self.observation(observation), generators))
