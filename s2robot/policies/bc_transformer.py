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

    The horizons are the paper's (arXiv 2403.13043, §3.2). The paper states neither the network's sizes nor how many of
    the 16 actions it executes. The sizes here are those of RPT, whose setting the paper follows (arXiv 2306.10007: 4
    blocks, width 192, 4 heads, MLP ratio 2). Half of the actions are executed, as in Diffusion Policy. `dropout` is
    that of robomimic's BC-Transformer.

    `past_actions` shows the policy the actions executed before each step, as the paper does. Without them the policy
    cannot learn to copy its last action instead of looking (arXiv 1905.11979).
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
    """A causal transformer over the last To steps that predicts a chunk, or a mixture of chunks, at each step.

    As in RPT (arXiv 2306.10007), which the paper's experiment follows, every step has one token per camera, one for
    proprioception and one for the action executed before it. The tokens of a step attend to each other and to all
    earlier steps; the prediction is made from their mean. Training supervises every step of the window with the chunk
    that began there. This leaks nothing, because an action is a token of the next step only. Acting uses the last
    step's chunk.
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
            if parameter.ndim == 2:  # PyTorch's layers are copies of one layer and start with equal weights
                nn.init.xavier_uniform_(parameter)
        self.head = nn.Linear(config.width, self._output.numbers)

    def states(self, observation: Observation) -> Tensor:
        """Encode each step together with the steps before it: [B, To, width]."""
        parts = self.observation.parts(observation)
        if self._past_actions:
            parts.append(self.actions(observation.past_actions))
        tokens = torch.stack([embed(part) for embed, part in zip(self.embed, parts, strict=True)], dim=2)
        tokens = (tokens + self.position + self.modality).flatten(1, 2)
        return self.transformer(tokens, mask=self.mask).unflatten(1, (-1, self._tokens)).mean(2)
