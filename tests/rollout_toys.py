"""Untrained policies on a small real encoder, whose features depend on the batch in which they are computed."""

from __future__ import annotations

import numpy as np
import torch

from s2robot import S2Encoder
from s2robot.checkpoint import Checkpoint, save_checkpoint
from s2robot.config import EncoderConfig, EvaluateConfig, PolicyConfig, ReadoutConfig, TrainConfig
from s2robot.evaluation import evaluate
from s2robot.interfaces import PolicySpec
from s2robot.policies import make_policy
from s2robot.policies.bc import BCConfig
from s2robot.policies.bc_rnn import BCRNNConfig
from s2robot.policies.bc_transformer import BCTransformerConfig
from s2robot.policies.diffusion_unet import DiffusionUNetConfig
from s2robot.rollout import Actor

SIZE, PROPRIOCEPTION = 64, {"robot0_gripper_qpos": 2, "robot0_eef_pos": 3}  # as trained: not in alphabetical order
CAMERAS = ("agentview", "robot0_eye_in_hand")
POLICIES: dict[str, PolicyConfig] = {
    "bc": BCConfig(observation_steps=3, action_steps=4, execute_steps=2, hidden=[64]),
    "bc_rnn": BCRNNConfig(observation_steps=4, action_steps=4, execute_steps=2, hidden=32, modes=2),
    "bc_transformer": BCTransformerConfig(
        observation_steps=4, action_steps=4, execute_steps=2, layers=1, width=32, heads=2
    ),
    "diffusion_unet": DiffusionUNetConfig(
        action_steps=4, execute_steps=2, down_dims=[32, 64], step_embedding=32, train_timesteps=4, inference_steps=4
    ),
}


def make_checkpoint(policy: str, engine: str = "eager") -> tuple[Checkpoint, S2Encoder, torch.nn.Module]:
    """Make a checkpoint for Lift with two cameras at 64 pixels, a horizon of 12 and 7 action dimensions."""
    encoder_config = EncoderConfig(backbone="test_efficientnet", scales=[32, 64], weights="none", engine=engine)
    encoder = S2Encoder("test_efficientnet", (32, 64), weights="none", engine=engine)
    config = TrainConfig(
        dataset="demos.hdf5",
        output="run",
        encoder=encoder_config,
        readout=ReadoutConfig(name="conv", width=64, channels=8),
        policy=POLICIES[policy],
    )
    shape = encoder.feature_shape(SIZE, SIZE)
    spec = PolicySpec(dict.fromkeys(CAMERAS, shape), sum(PROPRIOCEPTION.values()), action_width=7)
    checkpoint = Checkpoint(
        config=config,
        spec=spec,
        environment={"task": "Lift", "cameras": list(CAMERAS), "image_size": SIZE, "horizon": 12},
        proprioception=list(PROPRIOCEPTION),
        fingerprints={"encoder": encoder.fingerprint(), "backbone": encoder.backbone.weights_hash(), "data": "0"},
        demonstrations=3,
        loss_curve=[],
        command="train_policy.py",
    )
    torch.manual_seed(0)
    model = make_policy(config.policy, config.readout, spec).eval()
    rng = np.random.default_rng(0)
    low_dim = rng.normal(size=(50, spec.proprioception_width)).astype(np.float32)
    model.fit_normalization([rng.uniform(-1, 1, (50, 7)).astype(np.float32)], [low_dim])
    return checkpoint, encoder, model


def write_checkpoint(folder, policy: str):
    checkpoint, _, model = make_checkpoint(policy)
    save_checkpoint(folder, model.state_dict(), checkpoint)
    return folder


def make_actor(policy: str, engine: str = "eager", **settings) -> Actor:
    checkpoint, encoder, model = make_checkpoint(policy, engine)
    return Actor(model, encoder, checkpoint, torch.device("cpu"), **settings)


def random_observation(rng: np.random.Generator, rows: int, steps: int) -> dict[str, np.ndarray]:
    images = {
        f"{camera}_image": rng.integers(0, 256, (rows, steps, SIZE, SIZE, 3), dtype=np.uint8) for camera in CAMERAS
    }
    # In the environment's order, which differs from the training's.
    low_dim = {key: rng.normal(size=(rows, steps, d)).astype(np.float32) for key, d in sorted(PROPRIOCEPTION.items())}
    return images | low_dim


def evaluate_checkpoint(checkpoint, output, make, **settings):
    """Return the results of a short evaluation in two environments that `make` makes."""
    config = EvaluateConfig(
        checkpoint=str(checkpoint), output=str(output), **{"episodes": 4, "videos": 0, "device": "cpu", **settings}
    )
    return evaluate(config, make, num_envs=2)


def outcomes(results):
    """Return seed, success, steps and error of every episode of an evaluation."""
    return [(row["seed"], row["success"], row["steps"], row["error"]) for row in results["episode_results"]]
