import subprocess
import sys

import pytest
import torch
from policy_toys import READOUT, SMALL, SPEC, build, generators
from trained_toys import BY_HEART, TOYS, learnt_by_heart

from s2robot.config import PolicyConfig
from s2robot.interfaces import ConfigError, Observation
from s2robot.policies import POLICIES, make_policy
from s2robot.policies.bc import BCConfig
from s2robot.policies.networks import ConditionalUnet1D, SinusoidalEmbedding


def test_every_policy_has_a_small_one_that_all_these_tests_run():
    assert {config.name for config in SMALL.values()} == set(POLICIES)
    assert {name.partition("-")[0] for name in BY_HEART} == set(POLICIES)


def test_every_policy_names_its_settings_and_they_its_name():
    for name, settings in POLICIES.default_settings().items():
        assert isinstance(settings, PolicyConfig)
        assert type(settings)() == settings, name


def test_listing_the_policies_imports_neither_torch_nor_any_of_them():
    program = (
        "import sys; from s2robot.config import TrainConfig; from s2robot.policies import POLICIES; list(POLICIES);"
        "print([name for name in ('torch', 'diffusers', 's2robot.policies.bc') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", list(SMALL))
def test_policy_learns_a_small_batch_by_heart(name):
    TOYS[f"{name} learns by heart"].check()


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
    policy, batch = learnt_by_heart(name)
    expected = policy.act(batch.observation, generators(len(batch)))
    for part in ("agentview", "wrist", "proprioception"):
        features = dict(batch.observation.features)
        proprioception = batch.observation.proprioception
        if part == "proprioception":
            proprioception = proprioception.flip(0)
        else:
            features[part] = features[part].flip(0)
        changed = Observation(features, proprioception, batch.observation.past_actions)
        assert not torch.allclose(policy.act(changed, generators(len(batch))), expected), part


@pytest.mark.parametrize("name", list(SMALL))
def test_state_dict_restores_the_policy_with_its_normalisation(name):
    policy, batch = build(name)
    policy.eval()
    other = make_policy(SMALL[name], READOUT, SPEC)
    other.load_state_dict(policy.state_dict())
    torch.testing.assert_close(
        other.eval().act(batch.observation, generators(12)), policy.act(batch.observation, generators(12))
    )


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
def test_few_steps_of_a_faster_sampler_repeat_a_batch_learnt_by_heart(sampler):
    TOYS[f"diffusion_unet with {sampler} repeats what it learnt"].check()


def test_unet_has_the_published_size():
    # Diffusion Policy's image UNet, 2 observation steps of 2 cameras x 64 + 9 numbers, has about 2.5e8 parameters
    with torch.device("meta"):
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
