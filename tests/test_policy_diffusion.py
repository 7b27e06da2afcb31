"""Sampling of the diffusion policies, against distributions whose best denoiser is known in closed form."""

from dataclasses import replace

import pytest
import torch
from policy_toys import READOUT, SMALL, SPEC, build, generators, repeated

from s2robot.config import TrainingConfig
from s2robot.interfaces import ConfigError
from s2robot.policies import make_policy
from s2robot.policies.diffusion_transformer import DiffusionTransformerConfig
from s2robot.policies.diffusion_unet import DiffusionUNetConfig
from s2robot.policies.networks import Diffusion
from s2robot.training.optimization import make_optimizer


class Denoiser(torch.nn.Module):
    """The exact noise prediction for chunks that are a fixed target plus Gaussian noise of `spread`."""

    def __init__(self, target, spread):
        super().__init__()
        self.target, self.spread = target, spread
        self.alphas = Diffusion(DiffusionUNetConfig(), (4, 2))._noiser.alphas_cumprod

    def forward(self, noisy, step, condition):
        alpha = self.alphas[step][:, None, None]
        variance = alpha * self.spread**2 + 1 - alpha
        return (1 - alpha).sqrt() * (noisy - alpha.sqrt() * self.target) / variance


def sample(sampler, steps, spread, count=256):
    target = torch.linspace(-0.5, 0.5, 8).reshape(4, 2)
    diffusion = Diffusion(DiffusionUNetConfig(sampler=sampler, inference_steps=steps), (4, 2))
    return diffusion.sample(Denoiser(target, spread), torch.zeros(count, 1), generators(count)), target


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver"])
@pytest.mark.parametrize("steps", [2, 5, 10, 100])
def test_a_known_target_is_hit_with_few_steps_and_with_many(sampler, steps):
    chunks, target = sample(sampler, steps, spread=1e-3)
    torch.testing.assert_close(chunks, target.expand_as(chunks), atol=0.03, rtol=0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver"])
def test_every_number_of_steps_that_is_accepted_hits_the_target(sampler):
    accepted = 0
    for steps in (2, 3, 4, 5, 7, 10, 13, 20, 25, 31, 50, 53, 64, 97, 99, 100):
        try:
            chunks, target = sample(sampler, steps, spread=1e-3, count=1)
        except ConfigError:
            continue
        accepted += 1
        torch.testing.assert_close(chunks, target.expand_as(chunks), atol=0.03, rtol=0, msg=f"{steps} steps")
    assert accepted >= 8  # ddim takes divisors of its training steps only


@pytest.mark.parametrize(
    ("sampler", "steps", "spread"),  # a large last step keeps to the mean: few steps lose some of the spread
    [
        ("ddpm", 100, (0.17, 0.22)),
        ("ddim", 100, (0.18, 0.22)),
        ("dpm_solver", 100, (0.18, 0.22)),
        ("ddim", 10, (0.13, 0.21)),
        ("dpm_solver", 10, (0.13, 0.21)),
    ],
)
def test_samplers_agree_on_mean_and_spread(sampler, steps, spread):
    chunks, target = sample(sampler, steps, spread=0.2, count=1000)
    torch.testing.assert_close(chunks.mean(0), target, atol=0.03, rtol=0)
    assert spread[0] < chunks.std(0).mean() < spread[1]


def test_deterministic_samplers_agree_row_by_row_at_many_steps():
    ddim, _ = sample("ddim", 100, spread=0.2)
    solver, _ = sample("dpm_solver", 100, spread=0.2)
    # They draw the same noise and differ by the size of a step; other noise would part rows by several spreads.
    torch.testing.assert_close(ddim, solver, atol=0.07, rtol=0)


@pytest.mark.parametrize("name", ["diffusion_unet", "diffusion_transformer"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver"])
def test_rows_are_sampled_by_their_own_generator(name, sampler):
    policy, batch = build(name)
    config = replace(SMALL[name], sampler=sampler, inference_steps=5)
    fast = make_policy(config, READOUT, SPEC).eval()
    fast.load_state_dict(policy.state_dict())
    pair = repeated(batch, 1, 2)
    first, second = fast.act(pair.observation, generators(2))
    alone = fast.act(repeated(batch, 1, 1).observation, generators(1, first=1))[0]
    torch.testing.assert_close(second, alone, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(first, second, atol=1e-2)


def test_transformer_has_its_own_weight_decay_on_matrices_alone():
    policy = make_policy(DiffusionTransformerConfig(layers=2, width=32), READOUT, SPEC)
    groups = make_optimizer(policy, TrainingConfig(weight_decay=1e-6), torch.device("cpu")).param_groups
    assert [group["weight_decay"] for group in groups] == [1e-6, 1e-3, 0.0]
    readouts, matrices, others = ([*group["params"]] for group in groups)
    assert {id(p) for p in readouts} == {id(p) for p in policy.observation.parameters()}
    assert all(p.ndim == 2 for p in matrices)
    position = policy.transformer.action_position
    assert any(p is position for p in others)
    assert not any(p is position for p in matrices)
    assert len(readouts) + len(matrices) + len(others) == len(list(policy.parameters()))


def test_transformer_has_the_published_size():
    # Diffusion Policy's transformer of 8 layers, width 256 has about 9 million parameters
    with torch.device("meta"):  # shapes without numbers
        policy = make_policy(DiffusionTransformerConfig(), READOUT, SPEC)
    assert 8.0e6 < sum(p.numel() for p in policy.transformer.parameters()) < 9.5e6
