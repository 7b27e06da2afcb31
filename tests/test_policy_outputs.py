import pytest
import torch
from policy_toys import build, generators, train

from s2robot.interfaces import Batch, Observation
from s2robot.policies.networks import MixtureChunk


def fork_in_the_road(name, steps):
    """Answers of a policy that was shown all +1 and all -1 as the answer to one and the same observation."""
    policy, template = build(name)
    size = 64
    seen = template.observation
    same = Observation(
        {camera: torch.ones(size, *rows.shape[1:]).half() for camera, rows in seen.features.items()},
        torch.ones(size, *seen.proprioception.shape[1:]),
        torch.zeros(size, *seen.past_actions.shape[1:]),
    )
    side = torch.where(torch.arange(size) % 2 == 0, 1.0, -1.0)[:, None, None]
    chunks = side.expand(size, *template.actions.shape[1:]).contiguous()
    policy.actions.fit([chunks.flatten(0, 1).numpy()])
    train(policy, Batch(same, chunks), steps, 3e-3)
    return policy.act(same, generators(size))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("bc-gmm", 150),
        ("bc_rnn", 150),
    ],
)
def test_both_of_two_ways_are_taken_and_never_mixed(name, steps):
    chunks = fork_in_the_road(name, steps).flatten(1)
    sides = chunks.sign()
    assert (chunks.abs() > 0.6).float().mean() > 0.9
    assert (sides == sides[:, :1]).all(1).float().mean() > 0.9  # a chunk keeps to its side
    assert 12 <= (sides[:, 0] > 0).sum() <= 52


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
