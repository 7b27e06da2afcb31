"""The smallest blocks: an MLP and the embedding of a scalar time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MLP(nn.Sequential):
    """Linear layers with GELU and optional dropout between them, but not after the last layer."""

    def __init__(self, width_in: int, hidden: list[int], width_out: int, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(width_in, width), nn.GELU(), nn.Dropout(dropout)]
            width_in = width
        super().__init__(*layers, nn.Linear(width_in, width_out))


class SinusoidalEmbedding(nn.Module):
    """Embedding of a scalar time [B] into [B, width] by sines and cosines (arXiv 1706.03762, §3.5)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.register_buffer(
            "frequencies", torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1)), persistent=False
        )

    def forward(self, time: Tensor) -> Tensor:
        """Embed times [B] into [B, width]."""
        angles = time[:, None].float() * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
