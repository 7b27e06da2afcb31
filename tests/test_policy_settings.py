from dataclasses import asdict

import pytest

from s2robot.config import PolicyConfig
from s2robot.interfaces import ConfigError
from s2robot.policies import policy_from_dict
from s2robot.policies.bc import BCConfig
from s2robot.policies.bc_rnn import BCRNNConfig
from s2robot.policies.bc_transformer import BCTransformerConfig
from s2robot.policies.diffusion_transformer import DiffusionTransformerConfig
from s2robot.policies.diffusion_unet import DiffusionUNetConfig
from s2robot.policies.flow_matching import FlowMatchingConfig


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (BCConfig, {"head": "gnn"}, "policy.head='gnn' is not possible; valid: deterministic, gmm"),
        (BCConfig, {"modes": 0}, "policy.modes=0 is not possible; valid: 1 or more"),
        (BCConfig, {"min_std": 0.0}, "valid: a positive number"),
        (BCConfig, {"dropout": 1.0}, r"policy.dropout=1.0 is not possible; valid: a number in \[0, 1\)"),
        (BCConfig, {"hidden": [64, 0]}, "valid: widths of 1 or more"),
        (BCRNNConfig, {"layers": 0}, "policy.layers=0 is not possible; valid: an integer of 1 or more"),
        (BCTransformerConfig, {"width": 190}, "policy.width=190 is not possible; valid: a multiple of heads=4"),
        (BCTransformerConfig, {"execute_steps": 17}, r"valid: 1 … action_steps=16"),
        (DiffusionUNetConfig, {"execute_steps": 20}, r"policy.execute_steps=20 is not possible; valid: 1 … action"),
        (DiffusionUNetConfig, {"action_steps": 18}, r"policy.action_steps=18 is not possible; valid: a multiple of 4"),
        (DiffusionUNetConfig, {"down_dims": [30]}, "multiples of groups=8"),
        (DiffusionUNetConfig, {"down_dims": []}, "at least one width"),
        (DiffusionUNetConfig, {"sampler": "euler"}, "valid: ddpm, ddim, dpm_solver"),
        (DiffusionUNetConfig, {"inference_steps": 101}, "valid: 1 … train_timesteps=100"),
        (
            DiffusionUNetConfig,
            {"sampler": "ddim", "inference_steps": 16},
            r"a divisor of train_timesteps \(1, 2, 4, 5, 10",
        ),
        (DiffusionUNetConfig, {"inference_steps": 31}, "policy.inference_steps=31 is not possible"),
        (DiffusionUNetConfig, {"sampler": "dpm_solver", "inference_steps": 62}, "policy.inference_steps=62 is not"),
        (DiffusionUNetConfig, {"kernel_size": 4}, "policy.kernel_size=4 is not possible; valid: 1, 3, 5"),
        (DiffusionUNetConfig, {"step_embedding": 2}, "policy.step_embedding=2 is not possible; valid: an even number"),
        (DiffusionUNetConfig, {"step_embedding": 65}, "an even number of 4 or more"),
        (DiffusionUNetConfig, {"groups": 0}, "policy.groups=0 is not possible; valid: an integer of 1 or more"),
        (DiffusionUNetConfig, {"down_dims": [0, 8]}, r"policy.down_dims=\[0, 8\] is not possible"),
        (
            DiffusionTransformerConfig,
            {"width": 45, "heads": 5},
            "policy.width=45 is not possible; valid: an even number",
        ),
        (
            DiffusionTransformerConfig,
            {"transformer_weight_decay": -1.0},
            "transformer_weight_decay=-1.0 is not possible",
        ),
        (DiffusionUNetConfig, {"observation_steps": 0}, "valid: 1 or more"),
        (DiffusionTransformerConfig, {"attention_dropout": -0.1}, r"policy.attention_dropout=-0.1 is not possible"),
        (DiffusionTransformerConfig, {"sampler": "plms"}, "valid: ddpm, ddim, dpm_solver"),
        (DiffusionTransformerConfig, {"heads": 3}, "policy.width=256 is not possible; valid: a multiple of heads=3"),
        (FlowMatchingConfig, {"network": "mlp"}, "policy.network='mlp' is not possible; valid: unet, transformer"),
        (FlowMatchingConfig, {"time_sampling": "normal"}, "valid: beta, uniform"),
        (FlowMatchingConfig, {"inference_steps": 0}, "policy.inference_steps=0 is not possible"),
        (FlowMatchingConfig, {"action_steps": 10}, "valid: a multiple of 4"),
    ],
)
def test_impossible_policy_settings_name_the_valid_ones(config, values, message):
    with pytest.raises(ConfigError, match=message):
        config(**values)


def test_flow_matching_by_transformer_takes_chunks_of_any_length():
    assert FlowMatchingConfig(network="transformer", action_steps=10, execute_steps=8).action_steps == 10


def test_a_setting_that_came_later_leaves_the_identity_of_earlier_runs_alone():
    for config in (
        DiffusionTransformerConfig(),
        FlowMatchingConfig(),
        FlowMatchingConfig(network="transformer", causal=True),
    ):
        later = {"causal", *PolicyConfig.former}
        assert config.identity() == {key: value for key, value in asdict(config).items() if key not in later}
    for config in (DiffusionTransformerConfig(causal=False), FlowMatchingConfig(network="transformer")):
        assert config.identity() == {k: v for k, v in asdict(config).items() if k not in PolicyConfig.former}
        assert config.identity()["causal"] is False


def test_a_policy_written_before_it_could_be_chosen_is_causal():
    for name in ("flow_matching", "diffusion_transformer"):
        assert policy_from_dict({"name": name}).causal
        assert not policy_from_dict({"name": name, "causal": False}).causal
