"""The S² paper's robot policy: a transformer over features, proprioception and actions (arXiv 2403.13043, §3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2robot.config import PolicyConfig, ReadoutConfig
from s2robot.config.policy import require_dropout, require_heads, require_positive
from s2robot.interfaces import Observation, PolicySpec
from s2robot.policies.networks import HeadSettings, block_causal_mask
from s2robot.policies.sequence import SequencePolicy


@dataclass
class BCTransformerConfig(HeadSettings, PolicyConfig):
    """The S² paper's robot policy: a transformer over the last 16 steps that predicts the next 16 actions.

    Its horizons are the paper's (arXiv 2403.13043, §3.2). The paper states no sizes; these are RPT's, whose setting it
    follows (arXiv 2306.10007: 4 blocks, width 192, 4 heads, MLP ratio 2). How many of the 16 actions are executed
    is not stated either: half of them, as Diffusion Policy does. `dropout` is robomimic's BC-Transformer's.

    `past_actions` shows the policy the actions executed before each step, as the paper does. Without them it cannot
    learn to copy its last action instead of looking (arXiv 1905.11979).
    """

    name: str = "bc_transformer"
    observation_steps: int = 16
    action_steps: int = 16
    execute_steps: int = 8
    past_actions: bool = True
    layers: int = 4
    width: int = 192
    heads: int = 4
    mlp_ratio: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        HeadSettings.__post_init__(self)
        PolicyConfig.__post_init__(self)
        require_positive(self, "layers", "width", "heads", "mlp_ratio")
        require_heads(self.width, self.heads)
        require_dropout(self, "dropout")


class BCTransformerPolicy(SequencePolicy):
    """A causal transformer over the last To steps that puts out a chunk, or a mixture of chunks, at each step.

    As in RPT (arXiv 2306.10007), which the paper's experiment follows, every step is one token per camera, one for
    the proprioception and one for the action executed before it. The tokens of a step see each other and all earlier
    steps; their mean is read out. Training supervises every step of the window with the chunk that began there
    (that step's own action is a token of the next step only), acting reads the last step's.
    """

    settings = BCTransformerConfig

    mask: Tensor

    def __init__(self, config: BCTransformerConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(config, (config.action_steps, spec.action_width), readout, spec)
        self._past_actions = config.past_actions
        widths = [*self.observation.widths, *([spec.action_width] if config.past_actions else [])]
        self._tokens = len(widths)
        self.embed = nn.ModuleList([nn.Linear(width, config.width) for width in widths])
        self.position = nn.Parameter(0.02 * torch.randn(config.observation_steps, 1, config.width))
        self.modality = nn.Parameter(0.02 * torch.randn(self._tokens, config.width))
        self.register_buffer("mask", block_causal_mask(config.observation_steps, self._tokens), persistent=False)
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            dim_feedforward=config.mlp_ratio * config.width,
            dropout=config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.transformer = nn.TransformerEncoder(
            layer, config.layers, norm=nn.LayerNorm(config.width), enable_nested_tensor=False
        )
        for parameter in self.transformer.parameters():
            if parameter.ndim == 2:  # PyTorch makes the layers as copies of one
                nn.init.xavier_uniform_(parameter)
        self.head = nn.Linear(config.width, self._output.numbers)

    def states(self, observation: Observation) -> Tensor:
        """[B, To, width]: what the transformer makes of each step and those before it."""
        parts = self.observation.parts(observation)
        if self._past_actions:
            parts.append(self.actions(observation.past_actions))
        tokens = torch.stack([embed(part) for embed, part in zip(self.embed, parts, strict=True)], dim=2)
        tokens = (tokens + self.position + self.modality).flatten(1, 2)
        return self.transformer(tokens, mask=self.mask).unflatten(1, (-1, self._tokens)).mean(2)
