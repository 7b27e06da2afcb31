import functools
from dataclasses import replace

import pytest
import torch
from policy_toys import READOUT, SMALL, SPEC, build, generators, mean_error, repeated, train

from s2robot.config import POLICIES, BCConfig
from s2robot.interfaces import ConfigError, Observation
from s2robot.policies import make_policy
from s2robot.policies.networks import ConditionalUnet1D, SinusoidalEmbedding

BY_HEART = {  # training steps, learning rate, and the error allowed afterwards (untrained: 0.4 to 0.8)
    "bc": (300, 3e-3, 0.05),
    "bc-gmm": (300, 3e-3, 0.08),
    "bc_rnn": (300, 4e-3, 0.12),
    "bc_transformer": (150, 3e-3, 0.08),
    "diffusion_transformer": (250, 2e-3, 0.25),
    "diffusion_unet": (250, 3e-3, 0.2),
    "flow_matching": (250, 3e-3, 0.2),
    "flow_matching-transformer": (250, 3e-3, 0.2),
}


def test_every_configured_policy_can_be_built():
    assert {config.name for config in SMALL.values()} == set(POLICIES)


@pytest.fixture(scope="module")
def memorised():
    """Policies trained on one small batch, made once."""

    @functools.cache
    def make(name):
        policy, batch = build(name)
        batch = repeated(batch, 4, 4)
        return train(policy, batch, *BY_HEART[name][:2]), batch

    return make


@pytest.mark.parametrize("name", list(SMALL))
def test_policy_learns_a_small_batch_by_heart(memorised, name):
    policy, batch = memorised(name)
    tolerance = BY_HEART[name][2]
    assert mean_error(policy, batch) < tolerance < 0.8 * mean_error(build(name)[0].eval(), batch)


@pytest.mark.parametrize("name", list(SMALL))
def test_actions_are_in_environment_units_and_inside_the_training_range(name):
    policy, batch = build(name)
    actions = policy.eval().act(batch.observation, generators(12))
    assert actions.shape == batch.actions.shape
    low, high = batch.actions.flatten(0, 1).aminmax(dim=0)
    assert (actions >= low - 1e-6).all()
    assert (actions <= high + 1e-6).all()


@pytest.mark.parametrize("name", list(SMALL))
def test_action_of_a_row_does_not_depend_on_its_neighbours(name):
    policy, batch = build(name)
    policy.eval()
    together = policy.act(batch.observation, generators(12))
    seen = batch.observation
    features = {camera: rows[4:5] for camera, rows in seen.features.items()}
    row = Observation(features, seen.proprioception[4:5], seen.past_actions[4:5])
    alone = policy.act(row, generators(1, first=4))
    torch.testing.assert_close(alone[0], together[4], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", list(SMALL))
def test_every_camera_and_the_proprioception_matter(name):
    policy, batch = build(name)
    policy = train(policy, batch, 20)
    expected = policy.act(batch.observation, generators(12))
    for part in ("agentview", "wrist", "proprioception"):
        features = dict(batch.observation.features)
        proprioception = batch.observation.proprioception
        if part == "proprioception":
            proprioception = proprioception.flip(0)
        else:
            features[part] = features[part].flip(0)
        changed = Observation(features, proprioception, batch.observation.past_actions)
        assert not torch.allclose(policy.act(changed, generators(12)), expected), part


@pytest.mark.parametrize("name", list(SMALL))
def test_state_dict_restores_the_policy_with_its_normalisation(name):
    policy, batch = build(name)
    train(policy, batch, 3)
    other = make_policy(SMALL[name], READOUT, SPEC)
    other.load_state_dict(policy.state_dict())
    torch.testing.assert_close(
        other.eval().act(batch.observation, generators(12)), policy.act(batch.observation, generators(12))
    )


@pytest.mark.parametrize(("sampler", "steps", "tolerance"), [("ddim", 10, 0.25), ("dpm_solver", 10, 0.4)])
def test_few_steps_of_a_faster_sampler_repeat_a_batch_learnt_by_heart(memorised, sampler, steps, tolerance):
    policy, batch = memorised("diffusion_unet")
    config = replace(SMALL["diffusion_unet"], sampler=sampler, inference_steps=steps)
    fast = make_policy(config, READOUT, SPEC).eval()
    fast.load_state_dict(policy.state_dict())
    assert mean_error(fast, batch) < tolerance  # untrained: 0.83


def test_unet_has_the_published_size():
    # Diffusion Policy's image UNet, 2 observation steps of 2 cameras x 64 + 9 numbers, has about 2.5e8 parameters
    unet = ConditionalUnet1D(10, 274, down_dims=[512, 1024, 2048], kernel_size=5, groups=8, step_embedding=128)
    assert 2.2e8 < sum(p.numel() for p in unet.parameters()) < 3.0e8


def test_sinusoidal_embedding_tells_times_apart():
    embedding = SinusoidalEmbedding(32)(torch.arange(100))
    distances = torch.cdist(embedding, embedding) + 10 * torch.eye(100)
    assert embedding.shape == (100, 32)
    assert distances.min() > 0.1


def test_unknown_policy_names_the_choices():
    with pytest.raises(ConfigError, match="unknown policy 'bcc'; did you mean 'bc'"):
        make_policy(BCConfig(name="bcc"), READOUT, SPEC)
