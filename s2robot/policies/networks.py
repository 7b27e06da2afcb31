"""Blocks that several policies share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from s2robot.interfaces import Observation, PolicySpec
from s2robot.normalization import ProprioceptionNormalizer
from s2robot.readout import make_readout

if TYPE_CHECKING:
    from s2robot.config import ReadoutConfig


class ObservationNetwork(nn.Module):
    """One trainable readout per camera, beside normalised proprioception.

    Maps an `Observation` to [B, To, width], where width = cameras · readout width + d.
    """

    def __init__(self, spec: PolicySpec, readout: ReadoutConfig) -> None:
        super().__init__()
        self._shapes = spec.features
        self.readouts = nn.ModuleDict(
            {
                camera: make_readout(
                    readout.name, shape, readout.width, channels=readout.channels, queries=readout.queries
                )
                for camera, shape in spec.features.items()
            }
        )
        self.proprioception = ProprioceptionNormalizer(spec.proprioception_width)
        self.width = len(spec.features) * readout.width + spec.proprioception_width

    def forward(self, observation: Observation) -> Tensor:
        """[B, To, width] from B observations of To steps."""
        parts = [self.proprioception(observation.proprioception)]
        for camera, shape in self._shapes.items():
            rows = observation.features[camera]
            vectors = self.readouts[camera](shape.unflatten(rows.flatten(0, 1).float()))
            parts.append(vectors.unflatten(0, rows.shape[:2]))
        return torch.cat(parts, dim=-1)


class MLP(nn.Sequential):
    """Linear layers with GELU and optional dropout between them, none after the last."""

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
        """[B] -> [B, width]."""
        angles = time[:, None].float() * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _conv_block(channels_in: int, channels_out: int, kernel_size: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
        nn.GroupNorm(groups, channels_out),
        nn.Mish(),
    )


class FiLMResidualBlock(nn.Module):
    """Two temporal convolutions with a feature-wise scale and shift from the condition between them."""

    def __init__(self, channels_in: int, channels_out: int, condition: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.first = _conv_block(channels_in, channels_out, kernel_size, groups)
        self.second = _conv_block(channels_out, channels_out, kernel_size, groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * channels_out))
        self.skip = nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B, channels_in, Ta] and [B, condition] -> [B, channels_out, Ta]."""
        scale, shift = self.film(condition)[..., None].chunk(2, dim=1)
        return self.second(scale * self.first(x) + shift) + self.skip(x)


class ConditionalUnet1D(nn.Module):
    """Temporal U-Net over an action chunk, conditioned by FiLM on time and observation (arXiv 2303.04137, §3.1).

    Maps a noisy chunk [B, Ta, A], a time [B] and a condition [B, width] to [B, Ta, A]. Ta must be a multiple
    of 2**(len(down_dims) - 1).
    """

    def __init__(
        self,
        action_width: int,
        condition_width: int,
        *,
        down_dims: list[int],
        kernel_size: int,
        groups: int,
        step_embedding: int,
    ) -> None:
        super().__init__()
        self.time = nn.Sequential(
            SinusoidalEmbedding(step_embedding),
            nn.Linear(step_embedding, 4 * step_embedding),
            nn.Mish(),
            nn.Linear(4 * step_embedding, step_embedding),
        )

        def block(channels_in: int, channels_out: int) -> FiLMResidualBlock:
            return FiLMResidualBlock(channels_in, channels_out, step_embedding + condition_width, kernel_size, groups)

        widths = [action_width, *down_dims]
        self.down = nn.ModuleList()
        for i, width in enumerate(down_dims):
            last = i == len(down_dims) - 1
            halve = nn.Identity() if last else nn.Conv1d(width, width, 3, stride=2, padding=1)
            self.down.append(nn.ModuleList([block(widths[i], width), block(width, width), halve]))
        self.middle = nn.ModuleList([block(down_dims[-1], down_dims[-1]) for _ in range(2)])
        self.up = nn.ModuleList()
        for width, skip in zip(reversed(down_dims[:-1]), reversed(down_dims[1:]), strict=True):
            double = nn.ConvTranspose1d(width, width, 4, stride=2, padding=1)
            self.up.append(nn.ModuleList([block(2 * skip, width), block(width, width), double]))
        self.head = nn.Sequential(
            _conv_block(down_dims[0], down_dims[0], kernel_size, groups), nn.Conv1d(down_dims[0], action_width, 1)
        )

    def forward(self, actions: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """[B, Ta, A], [B], [B, width] -> [B, Ta, A]."""
        condition = torch.cat([self.time(time), condition], dim=-1)
        x = actions.transpose(1, 2)
        skips = []
        for stage in self.down:
            first, second, halve = cast(nn.ModuleList, stage)
            x = second(first(x, condition), condition)
            skips.append(x)
            x = halve(x)
        for block in self.middle:
            x = block(x, condition)
        for stage in self.up:
            first, second, double = cast(nn.ModuleList, stage)
            x = torch.cat([x, skips.pop()], dim=1)
            x = double(second(first(x, condition), condition))
        return self.head(x).transpose(1, 2)
