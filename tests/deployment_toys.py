"""A checkpoint that looks trained and is small enough to load in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2robot import S2Encoder
from s2robot.checkpoint import Checkpoint, save_checkpoint
from s2robot.config import EncoderConfig, PolicyConfig, ReadoutConfig, TrainConfig
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies import make_policy
from s2robot.policies.bc import BCConfig

SIZE = 64
CAMERAS = ("agentview", "wrist")
ENCODER = EncoderConfig(backbone="test_efficientnet", weights="none", scales=[32, 64])
BC = BCConfig(hidden=[32], observation_steps=2, action_steps=6, execute_steps=3)


def write_checkpoint(folder: Path, policy: PolicyConfig = BC, environment: dict[str, Any] | None = None) -> Path:
    """Save a checkpoint of a policy with random weights and fitted normalisation at `folder`."""
    torch.manual_seed(0)
    encoder = ENCODER
    s2 = S2Encoder(encoder.backbone, encoder.scales, weights=encoder.weights)
    spec = PolicySpec(dict.fromkeys(CAMERAS, s2.feature_shape(SIZE, SIZE)), proprioception_width=5, action_width=4)
    config = TrainConfig(
        dataset="toy", output="toy", encoder=encoder, readout=ReadoutConfig(width=16, channels=4), policy=policy
    )
    module = make_policy(config.policy, config.readout, spec)
    rng = np.random.default_rng(0)
    module.fit_normalization([rng.uniform(-1, 1, (50, 4))], [rng.normal(size=(50, 5))])
    module.fit([_windows(30, policy, spec)])
    checkpoint = Checkpoint(
        config=config,
        spec=spec,
        environment={"task": "Toy", "image_size": dict.fromkeys(CAMERAS, SIZE)} if environment is None else environment,
        proprioception=["position", "gripper"],
        fingerprints={"encoder": s2.fingerprint()},
        demonstrations=1,
        loss_curve=[],
        command="toy",
    )
    save_checkpoint(folder, module.state_dict(), checkpoint)
    return folder


def _windows(count: int, policy: PolicyConfig, spec: PolicySpec) -> Batch:
    """Return windows of noise, for a policy that stores its training windows."""
    size = (count, policy.observation_steps)
    features = {camera: torch.rand(*size, shape.numel).half() for camera, shape in spec.features.items()}
    observation = Observation(features, torch.randn(*size, 5), torch.zeros(*size, 4))
    return Batch(observation, 2 * torch.rand(count, policy.action_steps, 4) - 1)


def make_observation(seed: int, size: int = SIZE) -> dict[str, np.ndarray]:
    """Return a robot's observation at one step."""
    rng = np.random.default_rng(seed)
    images = {f"{camera}_image": rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for camera in CAMERAS}
    position, gripper = rng.normal(size=3).astype(np.float32), rng.normal(size=2)
    return {"gripper": gripper, "position": position, **images}  # in another order than the policy was trained on
