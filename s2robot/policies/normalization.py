"""Normalisation by statistics of the training episodes: applied to a policy's inputs, undone on its actions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

# A dimension that varies less than this over the whole training set counts as constant: scaling would amplify noise.
_MIN_RANGE = 1e-4


class ActionNormalizer(nn.Module):
    """Scales each action dimension from its minimum and maximum to [-1, 1], as diffusion's `clip_sample` needs.

    A constant dimension maps to 0, and back to its constant value.
    """

    minimum: Tensor
    maximum: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("minimum", -torch.ones(width))
        self.register_buffer("maximum", torch.ones(width))

    def fit(self, actions: Iterable[np.ndarray]) -> None:
        """Set the range from the training episodes' actions, one array [T, A] per episode."""
        arrays = list(actions)
        self.minimum.copy_(torch.from_numpy(np.min([a.min(0) for a in arrays], axis=0)))
        self.maximum.copy_(torch.from_numpy(np.max([a.max(0) for a in arrays], axis=0)))

    def _center_and_scale(self) -> tuple[Tensor, Tensor]:
        scale = (self.maximum - self.minimum) / 2
        constant = scale * 2 < _MIN_RANGE
        return (self.maximum + self.minimum) / 2, torch.where(constant, torch.ones_like(scale), scale)

    def forward(self, actions: Tensor) -> Tensor:
        """Map actions […, A] from environment units to [-1, 1]."""
        center, scale = self._center_and_scale()
        return (actions - center) / scale

    def inverse(self, actions: Tensor) -> Tensor:
        """Map actions […, A] from [-1, 1] to environment units, clipped to the range seen in training."""
        center, scale = self._center_and_scale()
        return torch.minimum(torch.maximum(actions * scale + center, self.minimum), self.maximum)


class ProprioceptionNormalizer(nn.Module):
    """Standardises each dimension of proprioception to zero mean and unit variance, clipped to ±10."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, values: Iterable[np.ndarray]) -> None:
        """Set mean and standard deviation from the training episodes, one array [T, d] per episode."""
        stacked = np.concatenate(list(values)).astype(np.float64)
        std = stacked.std(0)
        self.mean.copy_(torch.from_numpy(stacked.mean(0)))
        self.std.copy_(torch.from_numpy(np.where(std < _MIN_RANGE, 1.0, std)))

    def forward(self, values: Tensor) -> Tensor:
        """Standardise values […, d] given in simulator units."""
        return ((values - self.mean) / self.std).clamp(-10, 10)
