"""Cross-attention of learned queries to all tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2robot.config import ReadoutConfig
from s2robot.interfaces import ConfigError, Features, FeatureShape
from s2robot.policies.readouts.base import Readout, projection


class AttentionReadout(Readout):
    """Cross-attention of learned queries to all map and prefix tokens (as AFA, arXiv 2511.10762), projected.

    `queries` is the number of queries. `width` is also the width of the attention, so `heads` must divide it.
    """

    def __init__(self, config: ReadoutConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        width, heads = config.width, config.heads
        if width % heads:
            raise ConfigError(f"readout 'attention': width={width} is not a multiple of heads={heads}")
        self.norm = nn.LayerNorm(shape.channels)
        self.embed = nn.Linear(shape.channels, width)
        self.position = nn.Parameter(torch.randn(1, shape.height * shape.width + shape.num_prefix, width) * 0.02)
        self.queries = nn.Parameter(torch.randn(1, config.queries, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.project = projection(config.queries * width, width)

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D]."""
        tokens = torch.cat([features.prefix, features.map.flatten(2).transpose(1, 2)], dim=1)
        tokens = self.embed(self.norm(tokens)) + self.position
        pooled, _ = self.attention(self.queries.expand(len(tokens), -1, -1), tokens, tokens, need_weights=False)
        return self.project(pooled.flatten(1))
