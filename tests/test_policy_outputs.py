from dataclasses import replace

import pytest
import torch
from policy_toys import READOUT, SMALL, SPEC, generators
from trained_toys import TOYS, TWO_WAYS, fork_in_the_road

from s2robot.policies import make_policy
from s2robot.policies.networks import MixtureChunk


@pytest.mark.parametrize("name", [*TWO_WAYS, "diffusion_transformer that is not causal"])
def test_both_of_two_ways_are_taken_and_never_mixed(name):
    TOYS[f"{name} takes both of two ways"].check()


@pytest.mark.parametrize("name", ["diffusion_transformer", "flow_matching-transformer"])
def test_only_a_transformer_that_is_not_causal_lets_the_first_action_see_the_second(name):
    for causal in (True, False):
        torch.manual_seed(0)
        policy = make_policy(replace(SMALL[name], causal=causal), READOUT, SPEC).eval()
        network = policy.network if name.startswith("flow") else policy.transformer
        chunk, time, condition = (
            torch.randn(2, 8, 3),
            torch.tensor([0.3, 0.9]),
            torch.randn(2, 2, policy.observation.width),
        )
        before = network(chunk, time, condition)
        chunk[:, 1:] += 1
        assert torch.allclose(network(chunk, time, condition)[:, 0], before[:, 0]) == causal


def test_smooth_l1_knows_one_answer_only():
    chunks = fork_in_the_road("bc", 1, seed=0)
    torch.testing.assert_close(chunks, chunks[:1].expand_as(chunks))


def test_mixture_loss_is_the_negative_log_likelihood():
    output = MixtureChunk((2, 3), modes=2, min_std=0.1, low_noise=False)
    raw = torch.randn(5, output.numbers, generator=torch.Generator().manual_seed(0))
    actions = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    gaussians = raw[:, 2:].unflatten(1, (2, 2, 6))
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=raw[:, :2]),
        torch.distributions.Independent(
            torch.distributions.Normal(gaussians[:, 0].tanh(), torch.nn.functional.softplus(gaussians[:, 1]) + 0.1), 1
        ),
    )
    torch.testing.assert_close(output.loss(raw, actions), -mixture.log_prob(actions.flatten(1)) / 6)


def test_low_noise_draws_a_mode_and_executes_its_mean():
    raw = torch.zeros(2000, 2 * (1 + 2 * 6))
    raw[:, 0] = 1.0  # logits: 1, 0 -> the first mode in 73% of draws
    raw[:, 2:8], raw[:, 8:14] = 0.5, -0.5
    quiet = MixtureChunk((2, 3), modes=2, min_std=1e-4, low_noise=True).sample(raw, generators(2000))
    loud = MixtureChunk((2, 3), modes=2, min_std=1e-4, low_noise=False).sample(raw, generators(2000))
    torch.testing.assert_close(quiet.abs(), torch.full_like(quiet, 0.5).tanh(), atol=1e-3, rtol=0)
    assert 0.69 < (quiet[:, 0, 0] > 0).float().mean() < 0.77  # four standard deviations of a share of 2000
    assert 0.5 < (loud - quiet).std() < 0.9  # softplus(0) = 0.69
