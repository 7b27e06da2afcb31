"""The denoising network of Diffusion Policy's CNN form: a temporal U-Net."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from s2robot.config import require
from s2robot.config.policy import require_positive
from s2robot.policies.networks.basic import SinusoidalEmbedding


@dataclass
class UNetSettings:
    """Diffusion Policy's temporal U-Net (arXiv 2303.04137)."""

    down_dims: list[int] = field(default_factory=lambda: [512, 1024, 2048])
    kernel_size: int = 5
    groups: int = 8
    step_embedding: int = 128

    def check_unet(self, action_steps: int) -> None:
        """Refuse sizes that are impossible for chunks of `action_steps`."""
        require(
            self.kernel_size >= 1 and self.kernel_size % 2 == 1, "policy.kernel_size", self.kernel_size, "1, 3, 5, …"
        )
        require(
            self.step_embedding >= 4 and self.step_embedding % 2 == 0,
            "policy.step_embedding",
            self.step_embedding,
            "an even number of 4 or more",
        )
        require_positive(self, "groups")
        require(
            len(self.down_dims) >= 1 and min(self.down_dims) >= 1,
            "policy.down_dims",
            self.down_dims,
            "at least one width, each 1 or more",
        )
        require(
            all(d % self.groups == 0 for d in self.down_dims),
            "policy.down_dims",
            self.down_dims,
            f"multiples of groups={self.groups}",
        )
        stride = 2 ** (len(self.down_dims) - 1)
        require(
            action_steps % stride == 0,
            "policy.action_steps",
            action_steps,
            f"a multiple of {stride}, because the U-Net halves the sequence {len(self.down_dims) - 1} times",
        )


def _conv_block(channels_in: int, channels_out: int, kernel_size: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
        nn.GroupNorm(groups, channels_out),
        nn.Mish(),
    )


class FiLMResidualBlock(nn.Module):
    """Two temporal convolutions, between which the condition scales and shifts every channel."""

    def __init__(self, channels_in: int, channels_out: int, condition: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.first = _conv_block(channels_in, channels_out, kernel_size, groups)
        self.second = _conv_block(channels_out, channels_out, kernel_size, groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * channels_out))
        self.skip = nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map [B, channels_in, Ta] and a condition [B, condition] to [B, channels_out, Ta]."""
        scale, shift = self.film(condition)[..., None].chunk(2, dim=1)
        return self.second(scale * self.first(x) + shift) + self.skip(x)


class ConditionalUnet1D(nn.Module):
    """Temporal U-Net over an action chunk, conditioned by FiLM on time and observation (arXiv 2303.04137, §3.1).

    Maps a noisy chunk [B, Ta, A], a time [B] and a condition [B, …], which is flattened, to [B, Ta, A]. Ta must be
    a multiple of 2**(len(down_dims) - 1).
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
        """Map actions [B, Ta, A], times [B] and conditions [B, …] to [B, Ta, A]."""
        condition = torch.cat([self.time(time), condition.flatten(1)], dim=-1)
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


def make_unet(settings: UNetSettings, action_width: int, condition_width: int) -> ConditionalUnet1D:
    """Make the U-Net that `settings` describe, conditioned on `condition_width` numbers."""
    return ConditionalUnet1D(
        action_width,
        condition_width,
        down_dims=settings.down_dims,
        kernel_size=settings.kernel_size,
        groups=settings.groups,
        step_embedding=settings.step_embedding,
    )
