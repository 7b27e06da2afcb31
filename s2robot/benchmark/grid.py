"""The grid: arms (what is compared) × tasks × training seeds = cells (what is run)."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from s2robot.backbones.table import find_spec
from s2robot.config import (
    BenchmarkConfig,
    EncoderConfig,
    PolicyConfig,
    ReadoutConfig,
    TaskConfig,
    TrainingConfig,
    build,
    require,
)
from s2robot.interfaces import ConfigError, EncoderError, unknown_name
from s2robot.policies import POLICIES
from s2robot.policies.readouts import change_readout
from s2robot.report.results import scales_label
from s2robot.training.state import FREE_TRAINING


@dataclass(frozen=True)
class Readout:
    """A readout and what reports call it."""

    label: str
    config: ReadoutConfig


@dataclass(frozen=True)
class Policy:
    """A policy, what reports call it, and how it is trained: the same for all arms that share it."""

    label: str
    config: PolicyConfig
    training: TrainingConfig

    @property
    def computed(self) -> Policy:
        """The same computation under the policy's own name, with defaults for the settings that do not change it."""
        defaults = TrainingConfig()
        training = replace(self.training, **{name: getattr(defaults, name) for name in FREE_TRAINING})
        return Policy(self.config.name, self.config, training)


@dataclass(frozen=True)
class Arm:
    """Everything of a cell but its task and its training seed.

    Attributes:
        encoder: of the images.
        readout: over the features.
        policy: with its training.
        variant: name of a control or of an arm of the list; empty for the product grid.
        control_of: for controls, the `encoder_key`s they are to be held against; not part of the identity.
    """

    encoder: EncoderConfig
    readout: Readout
    policy: Policy
    variant: str = ""
    control_of: tuple[str, ...] = field(default=(), compare=False)

    @property
    def key(self) -> str:
        """What the arm computes, whatever it is called."""
        policy = {**asdict(self.policy.computed), "config": self.policy.config.identity()}
        return as_json([encoder_settings(self.encoder), self.readout.config.identity(), policy])

    @property
    def encoder_key(self) -> str:
        """What its encoder computes."""
        return as_json(asdict(self.encoder))

    @property
    def selector(self) -> dict[str, Any]:
        """The settings by which a contrast finds this arm among the results."""
        return {
            "policy": self.policy.label,
            "backbone": self.encoder.backbone,
            "scales": list(self.encoder.scales),
            "readout": self.readout.label,
            "variant": self.variant,
        }

    @property
    def label(self) -> str:
        """Backbone, scales and variant, such as "efficientnet_lite0 {224, 448} upsampled"."""
        return f"{self.encoder.backbone} {scales_label(self.encoder.scales)} {self.variant}".strip()


@dataclass(frozen=True)
class Cell:
    """One entry of the grid: a task, an arm, a training seed."""

    task: TaskConfig
    arm: Arm
    training_seed: int

    @property
    def setting(self) -> dict[str, Any]:
        """By what a contrast finds the cell among the results; its training seed is not part of that."""
        return {"task": self.task.label, "demonstrations": self.task.demonstrations, **self.arm.selector}

    @property
    def name(self) -> str:
        """Readable, and ending in a hash of every setting that can change an episode's outcome."""
        task = {key: value for key, value in asdict(self.task).items() if key not in ("name", "calibration")}
        digest = hash_json([task, self.arm.key, self.training_seed])[:8]
        scales = "_".join(str(scale).replace(" ", "") for scale in self.arm.encoder.scales)
        words = [self.task.label, self.arm.encoder.backbone, scales, self.arm.variant]
        words += [self.arm.readout.label, self.arm.policy.label, f"seed{self.training_seed}"]
        kept = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words if word)
        return f"{kept}-{digest}"


def make_cells(config: BenchmarkConfig) -> list[Cell]:
    """The whole grid; cells that share an encoder are neighbours."""
    arms = make_arms(config)
    return [Cell(task, arm, seed) for task in config.task_list for arm in arms for seed in config.training_seeds]


def make_arms(config: BenchmarkConfig) -> list[Arm]:
    """All arms, each computation once: the product grid, its controls, the list. The first one is the base arm.

    Raises:
        ConfigError: an entry of `readouts`, `policies` or `arms` is malformed, or images are too small for a scale.
    """
    from s2robot.benchmark.controls import make_controls  # it needs the classes above

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


def make_policies(config: BenchmarkConfig) -> list[Policy]:
    """The policies of the grid.

    Raises:
        ConfigError: an entry is malformed.
    """
    if not config.policies:
        return [Policy(config.policy.name, config.policy, config.training)]
    return [_policy(config, entry) for entry in config.policies]


def make_readouts(config: BenchmarkConfig) -> list[Readout]:
    """The readouts of the grid; all share the width of `config.readout` unless they state another.

    Raises:
        ConfigError: an entry is malformed.
    """
    return [_readout(config, entry) for entry in config.readouts] or [Readout(config.readout.name, config.readout)]


def encoder_settings(encoder: EncoderConfig) -> dict[str, Any]:
    """All that the features depend on: the settings, and the content of weights that are a file of the user's."""
    with suppress(EncoderError):  # the plan, or the cell itself, says so
        if digest := weights_digest(encoder.backbone, encoder.weights):
            return {**asdict(encoder), "weights_sha256": digest}
    return asdict(encoder)


@lru_cache(maxsize=64)  # read once: a run goes on with the weights that it began with
def weights_digest(backbone: str, weights: str) -> str | None:
    """Sha256 of the user's file of weights; None where they come from elsewhere.

    Raises:
        EncoderError: there is no such backbone; as WeightsError, no such file.
    """
    from s2robot.backbones.loading import SOURCES, local_file

    if weights in SOURCES:
        return None
    with local_file(find_spec(backbone), weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(document: Any) -> str:
    """The one text of a document."""
    return json.dumps(document, sort_keys=True)


def hash_json(document: Any) -> str:
    """Sha256 of a document."""
    return hashlib.sha256(as_json(document).encode()).hexdigest()


def _policy(config: BenchmarkConfig, entry: Any) -> Policy:
    name, label, changes = _named(entry, "policies")
    training = _changed(config.training, changes.pop("training", {}), "training")
    chosen = config.policy if config.policy.name == name else POLICIES.settings(name)(name=name)
    return Policy(label, _changed(chosen, changes, f"policy {name}"), training)


def _readout(config: BenchmarkConfig, entry: Any) -> Readout:
    name, label, changes = _named(entry, "readouts")
    return Readout(label, change_readout(config.readout, name, **changes))


def _listed(config: BenchmarkConfig, entry: Any, readout: Readout, policies: list[Policy]) -> list[Arm]:
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
            raise ConfigError(f"two arms of different settings are both called {arm.label!r}; give them a name each")
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
