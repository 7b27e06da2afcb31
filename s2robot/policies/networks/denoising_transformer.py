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
    """Diffusion Policy's transformer for images (arXiv 2303.04137): dropouts and weight decay are its own too.

    `causal` hides the later actions of a chunk from the earlier ones, as published. What is denoised first cannot
    follow what is denoised beside it then: where demonstrations go two ways, one chunk in ten takes a step of each
    (docs/policies.md).
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
        # Sines and cosines of the step, half of the width each.
        require(self.width >= 4 and self.width % 2 == 0, "policy.width", self.width, "an even number of 4 or more")
        require_heads(self.width, self.heads)
        require_dropout(self, "embedding_dropout", "attention_dropout")


class DenoisingTransformer(nn.Module):
    """A transformer decoder over the actions of a chunk that attends to the observations (arXiv 2303.04137, §3.1).

    Maps a noisy chunk [B, Ta, A], a time [B] and observations [B, To, width] to [B, Ta, A]. An action sees the whole
    chunk, or with `causal` itself and the earlier ones; time and observations are read by cross-attention. All
    observations lie before the chunk, so none is hidden from any action.
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
        """Zero for all biases, a normal distribution for matrices and positions.

        Its standard deviation is the published 0.02 at the published width of 256. A narrower network with the same
        would hardly pass the observations on at first: what reaches the actions shrinks with every matrix.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=std)

    def forward(self, actions: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """[B, Ta, A], [B], [B, To, width] -> [B, Ta, A]."""
        memory = torch.cat([self.time(time)[:, None], self.embed_condition(condition)], dim=1)
        memory = self.condition(self.dropout(memory + self.condition_position))
        x = self.dropout(self.embed_action(actions) + self.action_position)
        return self.head(self.decoder(x, memory, tgt_mask=self.hidden))

    def decayed(self) -> list[nn.Parameter]:
        """The matrices, to which the published training applies weight decay; not positions, biases and norms."""
        positions = (self.condition_position, self.action_position)
        return [p for p in self.parameters() if p.ndim == 2 and all(p is not position for position in positions)]


def make_denoising_transformer(
    settings: DenoisingTransformerSettings, chunk: tuple[int, int], observation: tuple[int, int]
) -> DenoisingTransformer:
    """The transformer that `settings` describe, from observations (To, width) to chunks (Ta, A)."""
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
