"""The arms of a benchmark: the product of its factors, the controls, the list."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from s2robot.benchmark.cells import Arm, PolicyChoice, ReadoutChoice, as_json
from s2robot.benchmark.controls import make_controls
from s2robot.config import BenchmarkConfig, EncoderConfig, build, require
from s2robot.interfaces import ConfigError, unknown_name
from s2robot.policies import POLICIES
from s2robot.policies.readouts import change_readout


def make_arms(config: BenchmarkConfig) -> list[Arm]:
    """All arms, each computation once: the product grid, its controls, the list. The first one is the base arm.

    Raises:
        ConfigError: an entry of `readouts`, `policies` or `arms` is malformed, or images are too small for a scale.
    """
    policies, readouts = make_policies(config), make_readouts(config)
    encoders = product_encoders(config)
    arms = [Arm(encoder, readout, policy) for encoder in encoders for readout in readouts for policy in policies]
    arms += make_controls(config, encoders, readouts, policies)
    arms += [arm for entry in config.arms for arm in _listed(config, entry, readouts[0], policies)]
    arms = _each_once(arms)
    _check_image_sizes(config, arms)
    return arms


def product_encoders(config: BenchmarkConfig) -> list[EncoderConfig]:
    """Backbones × scale sets."""
    return [
        replace(config.encoder, backbone=backbone, scales=list(scales))
        for backbone in config.backbones
        for scales in config.scale_sets
    ]


def make_policies(config: BenchmarkConfig) -> list[PolicyChoice]:
    """The policies of the grid.

    Raises:
        ConfigError: an entry is malformed.
    """
    if not config.policies:
        return [PolicyChoice(config.policy.name, config.policy, config.training)]
    return [_policy(config, entry) for entry in config.policies]


def make_readouts(config: BenchmarkConfig) -> list[ReadoutChoice]:
    """The readouts of the grid; all share the width of `config.readout` unless they state another.

    Raises:
        ConfigError: an entry is malformed.
    """
    return [_readout(config, entry) for entry in config.readouts] or [
        ReadoutChoice(config.readout.name, config.readout)
    ]


def _policy(config: BenchmarkConfig, entry: Any) -> PolicyChoice:
    name, label, changes = _named(entry, "policies")
    training = _changed(config.training, changes.pop("training", {}), "training")
    chosen = config.policy if config.policy.name == name else POLICIES.settings(name)(name=name)
    return PolicyChoice(label, _changed(chosen, changes, f"policy {name}"), training)


def _readout(config: BenchmarkConfig, entry: Any) -> ReadoutChoice:
    name, label, changes = _named(entry, "readouts")
    return ReadoutChoice(label, change_readout(config.readout, name, **changes))


def _listed(config: BenchmarkConfig, entry: Any, readout: ReadoutChoice, policies: list[PolicyChoice]) -> list[Arm]:
    known = ("name", "encoder", "readout", "policy")
    require(isinstance(entry, dict) and bool(entry.get("name")), "arms", entry, "mappings with a name")
    for key in entry:
        if key not in known:
            raise ConfigError(unknown_name("key of an arm", key, known))
    encoder = _changed(config.encoder, dict(entry.get("encoder", {})), "encoder")
    if "readout" in entry:
        readout = _readout(config, entry["readout"])
    if isinstance(entry.get("policy"), str) and any(policy.label == entry["policy"] for policy in policies):
        policies = [policy for policy in policies if policy.label == entry["policy"]]
    elif "policy" in entry:
        policies = [_policy(config, entry["policy"])]
    return [Arm(encoder, readout, policy, entry["name"]) for policy in policies]


def _named(entry: Any, where: str) -> tuple[str, str, dict[str, Any]]:
    """Name, label and changed settings of a list entry: a name, or a mapping with one."""
    values = {"name": entry} if isinstance(entry, str) else entry
    require(isinstance(values, dict) and bool(values.get("name")), where, entry, "names, or mappings with a name")
    changes = {key: value for key, value in values.items() if key not in ("name", "label")}
    return values["name"], values.get("label", values["name"]), changes


def _changed(settings: Any, changes: dict[str, Any], where: str) -> Any:
    """A copy of a config dataclass with changed fields."""
    return build(type(settings), {**{key: getattr(settings, key) for key in asdict(settings)}, **changes}, where)


def _each_once(arms: Iterable[Arm]) -> list[Arm]:
    """Arms that compute the same are one arm, named by the first; what they are controls of adds up."""
    unique: dict[str, Arm] = {}
    for arm in arms:
        first = unique.setdefault(arm.key, arm)
        if first is not arm:
            unique[arm.key] = replace(first, control_of=tuple(dict.fromkeys([*first.control_of, *arm.control_of])))
    names = [as_json(arm.selector) for arm in unique.values()]
    for arm, name in zip(unique.values(), names, strict=True):
        if names.count(name) > 1:
            raise ConfigError(f"two arms with different settings are both named {arm.label!r}; give each its own name")
    return list(unique.values())


def _check_image_sizes(config: BenchmarkConfig, arms: Iterable[Arm]) -> None:
    """Refuse scales beyond the images: they would be upsampled without saying so."""
    for arm, task in itertools.product(arms, config.task_list):
        require(
            (task.size or 0) >= arm.encoder.needed_side,
            f"size of task {task.label!r}",
            task.size,
            f"{arm.encoder.needed_side} or more, for {arm.label} (or encoder.upsampled=true)",
        )
