"""Policies over cached S² features; each file holds one policy: its settings, its loss and `act`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from s2robot.config import PolicyConfig, ReadoutConfig, build
from s2robot.config.checks import former_of
from s2robot.config.policy import FORMER_PROPRIOCEPTION
from s2robot.interfaces import ConfigError, PolicySpec, unknown_name
from s2robot.system.registry import Registry

if TYPE_CHECKING:
    from s2robot.policies.base import Policy

__all__ = ["POLICIES", "Policy", "make_policy", "policy_from_dict"]

POLICIES = Registry(
    "policy",
    "s2robot.policies",
    {
        "bc": "s2robot.policies.bc:BCPolicy",
        "bc_rnn": "s2robot.policies.bc_rnn:BCRNNPolicy",
        "bc_transformer": "s2robot.policies.bc_transformer:BCTransformerPolicy",
        "diffusion_transformer": "s2robot.policies.diffusion_transformer:DiffusionTransformerPolicy",
        "diffusion_unet": "s2robot.policies.diffusion_unet:DiffusionUNetPolicy",
        "flow_matching": "s2robot.policies.flow_matching:FlowMatchingPolicy",
        "knn": "s2robot.policies.knn:KNNPolicy",
    },
)
"""Name -> the policy's class, which names its settings dataclass as `settings`; installed packages add theirs."""


def make_policy(config: PolicyConfig, readout: ReadoutConfig, spec: PolicySpec) -> Policy:
    """Build an untrained policy, with the normalisation and the form of rotations that its settings ask for.

    The policy's class is given the width of actions as they are learned, which is larger than the recorded one if
    there are rotations.

    Raises:
        ConfigError: the policy's name is unknown, its settings are of another policy or do not suit the action's width,
            or the package that provides it cannot be imported.
    """
    from s2robot.policies.action_layout import make_layout, resolve_modes
    from s2robot.policies.normalization import ActionNormalizer, ProprioceptionNormalizer

    POLICIES.require_settings(config)
    layout = make_layout(config, spec.action_width)
    learned = spec if layout is None else replace(spec, action_width=layout.learned_width)
    policy: Policy = POLICIES[config.name](config, readout, learned)
    if layout is not None:
        policy.actions = ActionNormalizer(spec.action_width, layout)
    modes = config.proprioception_normalization
    if modes != FORMER_PROPRIOCEPTION:
        width, (low, high) = spec.proprioception_width, config.action_quantiles
        resolved = resolve_modes("proprioception_normalization", modes, FORMER_PROPRIOCEPTION, width)
        policy.observation.proprioception = ProprioceptionNormalizer(width, resolved, (low, high))
    return policy


def policy_from_dict(values: dict[str, Any]) -> PolicyConfig:
    """Rebuild a policy's settings from the plain mapping that a checkpoint stores.

    A setting that is newer than the mapping gets the value that the code used then (`PolicyConfig.former`).

    Raises:
        ConfigError: the name is unknown or a field does not belong to the policy.
    """
    name = values.get("name")
    if not isinstance(name, str):
        raise ConfigError(unknown_name("policy", name, POLICIES))
    settings: type[PolicyConfig] = POLICIES.settings(name)
    made: PolicyConfig = build(settings, {**former_of(settings), **values}, "policy")
    return made


def __getattr__(name: str) -> Any:
    """Import `Policy`, and with it torch, on first use: listing the policies must not import torch."""
    if name == "Policy":
        from s2robot.policies.base import Policy

        return Policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
