"""Policies over cached S² features; each file holds one policy's loss and its way to act."""

from __future__ import annotations

from typing import Any

from s2robot.config import PolicyConfig, ReadoutConfig
from s2robot.interfaces import ConfigError, PolicySpec, unknown_name
from s2robot.policies.base import Policy
from s2robot.policies.bc import BCPolicy
from s2robot.policies.bc_rnn import BCRNNPolicy
from s2robot.policies.bc_transformer import BCTransformerPolicy
from s2robot.policies.diffusion_transformer import DiffusionTransformerPolicy
from s2robot.policies.diffusion_unet import DiffusionUNetPolicy
from s2robot.policies.flow_matching import FlowMatchingPolicy

__all__ = ["Policy", "make_policy"]

_POLICIES: dict[str, Any] = {
    "bc": BCPolicy,
    "bc_rnn": BCRNNPolicy,
    "bc_transformer": BCTransformerPolicy,
    "diffusion_transformer": DiffusionTransformerPolicy,
    "diffusion_unet": DiffusionUNetPolicy,
    "flow_matching": FlowMatchingPolicy,
}


def make_policy(config: PolicyConfig, readout: ReadoutConfig, spec: PolicySpec) -> Policy:
    """Build an untrained policy.

    Raises:
        ConfigError: the policy's name is unknown.
    """
    if config.name not in _POLICIES:
        raise ConfigError(unknown_name("policy", config.name, _POLICIES))
    return _POLICIES[config.name](config, readout, spec)
