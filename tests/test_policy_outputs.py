import pytest
import torch
from policy_toys import SHAPE, build, generators, train

from s2robot.config import BCConfig
from s2robot.interfaces import Batch, ConfigError, Observation
from s2robot.policies.networks import MixtureChunk


def fork_in_the_road(name):
    """A policy trained where the same observation was answered by all +1 or by all -1, and 40 of its answers."""
    policy, template = build(name)
    seen = template.observation
    side = torch.where(torch.arange(12) % 2 == 0, 1.0, -1.0)[:, None, None]
    same = Observation(
        {camera: torch.ones_like(rows) for camera, rows in seen.features.items()},
        torch.ones_like(seen.proprioception),
        torch.zeros_like(seen.past_actions),
    )
    chunks = side.expand_as(template.actions).contiguous()
    policy.actions.fit([chunks.flatten(0, 1).numpy()])
    train(policy, Batch(same, chunks), 400, 1e-3)
    many = Observation(
        {camera: torch.ones(40, rows.shape[1], SHAPE.numel).half() for camera, rows in same.features.items()},
        torch.ones(40, *seen.proprioception.shape[1:]),
        torch.zeros(40, *seen.past_actions.shape[1:]),
    )
    return policy.act(many, generators(40))


@pytest.mark.parametrize("name", ["bc-gmm"])
def test_both_of_two_ways_are_taken_and_never_mixed(name):
    chunks = fork_in_the_road(name).flatten(1)
    assert (chunks.abs() > 0.7).float().mean() > 0.95
    sides = chunks.sign()
    assert (sides == sides[:, :1]).float().mean() > 0.95  # a chunk keeps to its side
    assert 8 <= (sides[:, 0] > 0).sum() <= 32


def test_smooth_l1_knows_one_answer_only():
    chunks = fork_in_the_road("bc")
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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head": "gnn"}, "policy.head='gnn' is not possible; valid: deterministic, gmm"),
        ({"modes": 0}, "policy.modes=0 is not possible; valid: 1 or more"),
        ({"min_std": 0.0}, "valid: a positive number"),
        ({"dropout": 1.0}, r"policy.dropout=1.0 is not possible; valid: \[0, 1\)"),
        ({"hidden": [64, 0]}, "valid: widths of 1 or more"),
    ],
)
def test_impossible_settings_of_a_head_name_the_valid_ones(values, message):
    with pytest.raises(ConfigError, match=message):
        BCConfig(**values)
