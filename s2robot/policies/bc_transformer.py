"""The S² paper's robot policy: a transformer over features, proprioception and actions (arXiv 2403.13043, §3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from s2robot.config import BCTransformerConfig, ReadoutConfig
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.base import Policy
from s2robot.policies.networks import block_causal_mask, chunks_from_every_step, make_output


class BCTransformerPolicy(Policy):
    """A causal transformer over the last To steps that puts out a chunk, or a mixture of chunks, at each step.

    As in RPT (arXiv 2306.10007), which the paper's experiment follows, every step is one token per camera, one for
    the proprioception and one for the action executed before it. The tokens of a step see each other and all earlier
    steps; their mean is read out. Training supervises every step of the window with the chunk that began there
    (that step's own action is a token of the next step only), acting reads the last step's.
    """

    mask: Tensor

    def __init__(self, config: BCTransformerConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        super().__init__(readout, spec)
        self._output = make_output(config, (config.action_steps, spec.action_width))
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

    def _states(self, observation: Observation) -> Tensor:
        """[B, To, width]: what the transformer makes of each step and those before it."""
        parts = self.observation.parts(observation)
        if self._past_actions:
            parts.append(self.actions(observation.past_actions))
        tokens = torch.stack([embed(part) for embed, part in zip(self.embed, parts, strict=True)], dim=2)
        tokens = (tokens + self.position + self.modality).flatten(1, 2)
        return self.transformer(tokens, mask=self.mask).unflatten(1, (-1, self._tokens)).mean(2)

    def loss(self, batch: Batch) -> Tensor:
        """Loss of the chunks from every step, both normalised: smooth-L1 or negative log-likelihood."""
        chunks, valid = chunks_from_every_step(batch)
        raw = self.head(self._states(batch.observation)[valid])
        return self._output.loss(raw, self.actions(chunks[valid])).mean()

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Action chunks [B, Ta, A] in environment units; a mixture's mode is drawn with `generators[i]`."""
        raw = self.head(self._states(observation)[:, -1])
        return self.actions.inverse(self._output.sample(raw, generators))
