"""The arm without a frozen encoder, from the dataset to the actions of a rollout."""

import numpy as np
import torch
from helpers import make_episode, write_dataset

from s2robot import S2Encoder
from s2robot.checkpoint import Checkpoint
from s2robot.cli.words import compose
from s2robot.config import EncoderConfig, ReadoutConfig, TrainConfig
from s2robot.data import open_dataset
from s2robot.feature_cache import cache_features
from s2robot.interfaces import Observation, PolicySpec
from s2robot.policies import make_policy
from s2robot.policies.bc import BCConfig
from s2robot.rollout import Actor

CPU = torch.device("cpu")


def test_a_rollout_sees_what_the_cache_holds_cropped_at_the_centre(tmp_path):
    config = TrainConfig(
        encoder=EncoderConfig(backbone="pixels", scales=[32]),
        readout=ReadoutConfig(name="resnet18", width=8),
        policy=BCConfig(hidden=[16], action_steps=4, execute_steps=2),
    )
    encoder = S2Encoder("pixels", (32,))
    spec = PolicySpec({"agentview": encoder.feature_shape(16, 16)}, proprioception_width=3, action_width=4)
    torch.manual_seed(0)
    policy = make_policy(config.policy, config.readout, spec).eval()
    checkpoint = Checkpoint(
        config=config,
        spec=spec,
        environment={},
        proprioception=["position"],
        fingerprints={},
        demonstrations=1,
        loss_curve=[],
        command="",
    )
    actor = Actor(policy, encoder, checkpoint, CPU)
    episode, running = make_episode(30, seed=0), actor.start(seed=0)
    position = episode.proprioception["position"][None, :1]
    actions = actor.act({"agentview_image": episode.images["agentview"][None, :1], "position": position}, [running])
    with open_dataset(write_dataset(tmp_path / "demos.hdf5", (30,))) as dataset:
        cached = cache_features(dataset, encoder, "agentview", tmp_path / "cache")
    rows = torch.from_numpy(np.array(cached.rows[:1]))[None]
    assert torch.equal(rows, rows.byte().half())  # the camera's bytes, resized
    past = torch.from_numpy(running.past_actions[None])
    seen = Observation({"agentview": rows}, torch.from_numpy(position), past)
    expected = policy.act(seen, [torch.Generator()])
    assert actions.shape == (1, 2, 4)
    # The same numbers go in; that two calls of a network agree to the last bit is nobody's promise.
    torch.testing.assert_close(torch.from_numpy(actions), expected[:, :2], rtol=0, atol=1e-5)


def test_the_experiment_is_the_published_network():
    config = compose("train_policy", ["dataset=d", "+experiment=lift_from_scratch"])
    assert (config.encoder.backbone, config.encoder.scales, config.readout.name) == ("pixels", [84], "resnet18")
    assert (config.training.weight_decay, config.training.betas) == (1e-6, [0.95, 0.999])
