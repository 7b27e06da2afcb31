"""Small policies of every kind, and batches small enough to memorise."""

from __future__ import annotations

import torch

from s2robot.config import PolicyConfig, ReadoutConfig
from s2robot.interfaces import Batch, FeatureShape, Observation, PolicySpec
from s2robot.policies import Policy, make_policy
from s2robot.policies.bc import BCConfig
from s2robot.policies.bc_rnn import BCRNNConfig
from s2robot.policies.bc_transformer import BCTransformerConfig
from s2robot.policies.diffusion_transformer import DiffusionTransformerConfig
from s2robot.policies.diffusion_unet import DiffusionUNetConfig
from s2robot.policies.flow_matching import FlowMatchingConfig
from s2robot.policies.knn import KNNConfig

SHAPE = FeatureShape(channels=6, height=4, width=4, num_prefix=1)
SPEC = PolicySpec({"agentview": SHAPE, "wrist": SHAPE}, proprioception_width=5, action_width=3)
READOUT = ReadoutConfig(name="conv", width=16, channels=4)
RANGE = torch.tensor([0.1, 1.0, 5.0])
SMALL: dict[str, PolicyConfig] = {
    "bc": BCConfig(hidden=[64], action_steps=8, execute_steps=4),
    "bc-gmm": BCConfig(hidden=[64], action_steps=8, execute_steps=4, head="gmm", modes=3, min_std=0.02),
    "bc_rnn": BCRNNConfig(observation_steps=4, hidden=64, modes=2, min_std=0.02),
    "bc_transformer": BCTransformerConfig(
        observation_steps=4, action_steps=8, execute_steps=4, width=32, layers=2, dropout=0.0
    ),
    "diffusion_transformer": DiffusionTransformerConfig(
        action_steps=8, width=64, layers=2, attention_dropout=0.0, train_timesteps=20, inference_steps=20
    ),
    "diffusion_unet": DiffusionUNetConfig(
        action_steps=8, down_dims=[32, 64], step_embedding=32, train_timesteps=20, inference_steps=20
    ),
    "flow_matching": FlowMatchingConfig(action_steps=8, down_dims=[32, 64], step_embedding=32),
    "knn": KNNConfig(k=12, temperature=0.3),
    "flow_matching-transformer": FlowMatchingConfig(
        network="transformer", action_steps=8, width=64, layers=2, attention_dropout=0.0
    ),
}


def make_batch(size: int, observation_steps: int, action_steps: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    features = {
        camera: torch.randn(size, observation_steps, SHAPE.numel, generator=generator).half()
        for camera in SPEC.features
    }
    proprioception = torch.randn(size, observation_steps, 5, generator=generator)
    actions = (torch.rand(size, action_steps, 3, generator=generator) * 2 - 1) * RANGE
    past_actions = (torch.rand(size, observation_steps, 3, generator=generator) * 2 - 1) * RANGE
    return Batch(Observation(features, proprioception, past_actions), actions)


def build(name: str, seed: int = 0) -> tuple[Policy, Batch]:
    torch.manual_seed(seed)
    config = SMALL[name]
    policy = make_policy(config, READOUT, SPEC)
    batch = make_batch(12, config.observation_steps, config.action_steps, seed)
    policy.actions.fit([batch.actions.flatten(0, 1).numpy()])
    # One that is fitted acts on what it remembers: here something else, which its training replaces.
    policy.fit([make_batch(12, config.observation_steps, config.action_steps, seed + 1000)])
    return policy, batch


def repeated(batch: Batch, rows: int, times: int) -> Batch:
    """Repeat the first `rows` of a batch `times` times, so that each row gets several draws of noise."""
    seen = batch.observation
    features = {camera: values[:rows].repeat(times, 1, 1) for camera, values in seen.features.items()}
    proprioception, past = (part[:rows].repeat(times, 1, 1) for part in (seen.proprioception, seen.past_actions))
    return Batch(Observation(features, proprioception, past), batch.actions[:rows].repeat(times, 1, 1))


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def train(policy: Policy, batch: Batch, steps: int, learning_rate: float = 3e-3) -> Policy:
    policy.fit([batch])
    if not policy.trainable:
        return policy.eval()
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    for _ in range(steps):
        loss = policy.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy.eval()


def mean_error(policy: Policy, batch: Batch) -> torch.Tensor:
    """Return the mean distance to the demonstrated actions, in units of each dimension's range."""
    actions = policy.act(batch.observation, generators(len(batch)))
    return ((actions - batch.actions) / RANGE).abs().mean()
