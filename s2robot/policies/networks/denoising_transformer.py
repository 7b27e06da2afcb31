"""The denoising network of Diffusion Policy's transformer form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from s2robot.config import require
from s2robot.config.policy import require_dropout, require_heads, require_positive
from s2robot.policies.networks.basic import SinusoidalEmbedding


@dataclass
class DenoisingTransformerSettings:
    """Diffusion Policy's transformer for images (arXiv 2303.04137); its dropouts and weight decay are published too.

    `causal` hides the later actions of a chunk from the earlier ones, as published. The earlier actions then cannot
    agree with the later ones while all are denoised together: if demonstrations go two ways, one chunk in ten mixes
    both ways (docs/policies.md).
    """

    former: ClassVar[dict[str, Any]] = {"causal": True}

    layers: int = 8
    heads: int = 4
    width: int = 256
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.3
    causal: bool = True

    def check_transformer(self) -> None:
        """Refuse impossible sizes."""
        require_positive(self, "layers", "heads")
        # The embedding of the step consists of sines and cosines, half of the width each.
        require(self.width >= 4 and self.width % 2 == 0, "policy.width", self.width, "an even number of 4 or more")
        require_heads(self.width, self.heads)
        require_dropout(self, "embedding_dropout", "attention_dropout")


class DenoisingTransformer(nn.Module):
    """A transformer decoder over the actions of a chunk that attends to the observations (arXiv 2303.04137, §3.1).

    Maps a noisy chunk [B, Ta, A], a time [B] and observations [B, To, width] to [B, Ta, A]. An action attends to the
    whole chunk, or with `causal` only to itself and earlier actions. All actions attend to the time and to all
    observations by cross-attention: no observation is later than the chunk, so none has to be hidden.
    """

    hidden: Tensor | None

    def __init__(
        self,
        action_width: int,
        condition_width: int,
        chunk_steps: int,
        observation_steps: int,
        *,
        layers: int,
        heads: int,
        width: int,
        embedding_dropout: float,
        attention_dropout: float,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.time = SinusoidalEmbedding(width)
        self.embed_condition = nn.Linear(condition_width, width)
        self.condition_position = nn.Parameter(torch.zeros(1 + observation_steps, width))
        self.condition = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self.embed_action = nn.Linear(action_width, width)
        self.action_position = nn.Parameter(torch.zeros(chunk_steps, width))
        self.dropout = nn.Dropout(embedding_dropout)
        layer = nn.TransformerDecoderLayer(
            width, heads, 4 * width, attention_dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))
        self.head = nn.Linear(width, action_width)
        mask = torch.ones(chunk_steps, chunk_steps, dtype=torch.bool).triu(1)  # True where attention is forbidden
        self.register_buffer("hidden", mask if causal else None, persistent=False)
        self._initialise(std=0.02 * (256 / width) ** 0.5)

    def _initialise(self, std: float) -> None:
        """Set all biases to zero, and draw matrices and positions from a normal distribution.

        Its standard deviation is the published 0.02 at the published width of 256. With the same value, a narrower
        network would hardly pass the observations on at first: the signal shrinks with every matrix.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=std)

    def forward(self, actions: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Map actions [B, Ta, A], times [B] and observations [B, To, width] to [B, Ta, A]."""
        memory = torch.cat([self.time(time)[:, None], self.embed_condition(condition)], dim=1)
        memory = self.condition(self.dropout(memory + self.condition_position))
        x = self.dropout(self.embed_action(actions) + self.action_position)
        return self.head(self.decoder(x, memory, tgt_mask=self.hidden))

    def decayed(self) -> list[nn.Parameter]:
        """Return the parameters that the published training decays: the matrices, not positions, biases or norms."""
        positions = (self.condition_position, self.action_position)
        return [p for p in self.parameters() if p.ndim == 2 and all(p is not position for position in positions)]


def make_denoising_transformer(
    settings: DenoisingTransformerSettings, chunk: tuple[int, int], observation: tuple[int, int]
) -> DenoisingTransformer:
    """Make the transformer that `settings` describe, from observations (To, width) to chunks (Ta, A)."""
    return DenoisingTransformer(
        chunk[1],
        observation[1],
        chunk[0],
        observation[0],
        layers=settings.layers,
        heads=settings.heads,
        width=settings.width,
        embedding_dropout=settings.embedding_dropout,
        attention_dropout=settings.attention_dropout,
        causal=settings.causal,
    )
