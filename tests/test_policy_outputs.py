from dataclasses import replace

import pytest
import torch
from policy_toys import READOUT, SMALL, SPEC, generators, make_batch, train

from s2robot.interfaces import Batch, Observation
from s2robot.policies import make_policy
from s2robot.policies.networks import MixtureChunk


def fork_in_the_road(name, steps, size=128):
    """Answers of a policy that was shown all +1 and all -1 as the answer to one and the same observation."""
    torch.manual_seed(0)
    config = replace(SMALL[name], observation_steps=1, action_steps=2, execute_steps=1)
    policy = make_policy(config, READOUT, SPEC)
    seen = make_batch(1, 1, 2).observation
    features = {camera: rows.expand(size, -1, -1) for camera, rows in seen.features.items()}
    same = Observation(features, seen.proprioception.expand(size, -1, -1), torch.zeros(size, 1, 3))
    side = torch.where(torch.arange(size) % 2 == 0, 1.0, -1.0)
    chunks = side[:, None, None].expand(size, 2, 3).contiguous()
    train(policy, Batch(same, chunks), steps, 3e-3)
    return policy.act(same, generators(size))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("bc-gmm", 100),
        ("bc_rnn", 100),
        ("diffusion_unet", 200),
        ("flow_matching", 200),
        ("flow_matching-transformer", 250),
    ],
)
def test_both_of_two_ways_are_taken_and_never_mixed(name, steps):
    chunks = fork_in_the_road(name, steps).flatten(1)
    sides = chunks.sign()
    assert (chunks.abs() > 0.6).float().mean() > 0.9
    assert (sides == sides[:, :1]).all(1).float().mean() > 0.9  # a chunk keeps to its side
    assert 32 <= (sides[:, 0] > 0).sum() <= 96


def test_smooth_l1_knows_one_answer_only():
    chunks = fork_in_the_road("bc", 100)
    torch.testing.assert_close(chunks, chunks[:1].expand_as(chunks))


def test_mixture_loss_is_the_negative_log_likelihood():
    output = MixtureChunk((2, 3), modes=2, min_std=0.1, low_noise=False)
    raw = torch.randn(5, output.numbers, generator=torch.Generator().manual_seed(0))
    actions = torch.rand(5, 2, 3) * 2 - 1
    gaussians = raw[:, 2:].unflatten(1, (2, 2, 6))
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=raw[:, :2]),
        torch.distributions.Independent(
            torch.distributions.Normal(gaussians[:, 0].tanh(), torch.nn.functional.softplus(gaussians[:, 1]) + 0.1), 1
        ),
    )
    torch.testing.assert_close(output.loss(raw, actions), -mixture.log_prob(actions.flatten(1)) / 6)


def test_low_noise_draws_a_mode_and_executes_its_mean():
    raw = torch.zeros(200, 2 * (1 + 2 * 6))
    raw[:, 0] = 1.0  # logits: 1, 0 -> the first mode in 73% of draws
    raw[:, 2:8], raw[:, 8:14] = 0.5, -0.5
    quiet = MixtureChunk((2, 3), modes=2, min_std=1e-4, low_noise=True).sample(raw, generators(200))
    loud = MixtureChunk((2, 3), modes=2, min_std=1e-4, low_noise=False).sample(raw, generators(200))
    torch.testing.assert_close(quiet.abs(), torch.full_like(quiet, 0.5).tanh(), atol=1e-3, rtol=0)
    assert 0.62 < (quiet[:, 0, 0] > 0).float().mean() < 0.84
    assert 0.5 < (loud - quiet).std() < 0.9  # softplus(0) = 0.69
