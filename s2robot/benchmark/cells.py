"""What a benchmark compares and runs, and what identifies it: arms; cells of an arm, a task and a training seed."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from s2robot.backbones.table import BACKBONES, find_spec
from s2robot.checkpoint import packages_of
from s2robot.config import EncoderConfig, PolicyConfig, ReadoutConfig, TaskConfig, TrainingConfig
from s2robot.config.checks import without_former
from s2robot.interfaces import EncoderError
from s2robot.report.arm_results import Setting, scales_label
from s2robot.report.plan_document import make_selector
from s2robot.system.registry import OUTSIDE_EXPERTS, OUTSIDE_TASKS, providers
from s2robot.training.state import FREE_TRAINING


@dataclass(frozen=True)
class ReadoutChoice:
    """A readout and its label in reports."""

    label: str
    config: ReadoutConfig


@dataclass(frozen=True)
class PolicyChoice:
    """A policy, its label in reports, and its training, which all arms with this policy share."""

    label: str
    config: PolicyConfig
    training: TrainingConfig

    @property
    def computed(self) -> PolicyChoice:
        """The same computation under the policy's own name, with defaults for the settings that do not change it."""
        defaults = TrainingConfig()
        training = replace(self.training, **{name: getattr(defaults, name) for name in FREE_TRAINING})
        return PolicyChoice(self.config.name, self.config, training)


@dataclass(frozen=True)
class Arm:
    """Everything of a cell but its task and its training seed.

    Attributes:
        encoder: turns images into features.
        readout: turns features into a vector.
        policy: the action head and how it is trained.
        variant: name of a control or of a listed arm; empty for the product of the factors.
        control_of: for a control, the `encoder_key` of each encoder it is compared with; not part of its identity.
    """

    encoder: EncoderConfig
    readout: ReadoutChoice
    policy: PolicyChoice
    variant: str = ""
    control_of: tuple[str, ...] = field(default=(), compare=False)

    @property
    def key(self) -> str:
        """Identity of the computation, independent of labels."""
        policy = {**asdict(self.policy.computed), "config": self.policy.config.identity()}
        others = [self.packages] if self.packages else []
        return as_json([encoder_settings(self.encoder), self.readout.config.identity(), policy, *others])

    @property
    def packages(self) -> dict[str, str]:
        """Installed packages that bring the policy or the readout: another version may compute something else."""
        return packages_of(self.policy.config, self.readout.config)

    @property
    def encoder_key(self) -> str:
        """Identity of the encoder's computation."""
        return as_json(asdict(self.encoder))

    @property
    def selector(self) -> dict[str, Any]:
        """Settings by which a contrast selects this arm."""
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
    def setting(self) -> Setting:
        """Settings by which a contrast selects this cell; the training seed is not one of them."""
        selector = make_selector(self.arm.selector)
        return Setting(task=self.task.label, demonstrations=self.task.demonstrations or 0, **selector)

    @property
    def name(self) -> str:
        """Readable, and ending in a hash of every setting that can change an episode's outcome."""
        settings = without_former(self.task).items()
        task = {key: value for key, value in settings if key not in ("name", "calibration")}
        packages = providers([(OUTSIDE_TASKS, self.task.task), (OUTSIDE_EXPERTS, self.task.task)])
        digest = hash_json([task, self.arm.key, self.training_seed, *([packages] if packages else [])])[:8]
        scales = "_".join(str(scale).replace(" ", "") for scale in self.arm.encoder.scales)
        words = [self.task.label, self.arm.encoder.backbone, scales, self.arm.variant]
        words += [self.arm.readout.label, self.arm.policy.label, f"seed{self.training_seed}"]
        kept = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words if word)
        return f"{kept}-{digest}"


def encoder_settings(encoder: EncoderConfig) -> dict[str, Any]:
    """All that the features depend on.

    That is the settings, the content of weights that are a file of the user's, and of an installed package's backbone
    the version: the one that the package gives the features of its network, else the package's own.
    """
    settings = asdict(encoder)
    with suppress(EncoderError):  # the plan, or the cell itself, says so
        if network := find_spec(encoder.backbone).network:
            settings["features_version"] = network.version
        elif package := BACKBONES.provider(encoder.backbone):
            settings["package"] = package
        if digest := weights_digest(encoder.backbone, encoder.weights):
            settings["weights_sha256"] = digest
    return settings


@lru_cache(maxsize=64)  # read once: a run goes on with the weights that it began with
def weights_digest(backbone: str, weights: str) -> str | None:
    """Sha256 of the user's file of weights; None where they come from elsewhere.

    Raises:
        EncoderError: the backbone is unknown.
        WeightsError: the file does not exist.
    """
    from s2robot.backbones.loading import SOURCES, local_file

    if weights in SOURCES:
        return None
    with local_file(find_spec(backbone), weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(document: Any) -> str:
    """Canonical JSON text of a document."""
    return json.dumps(document, sort_keys=True)


def hash_json(document: Any) -> str:
    """Sha256 of a document."""
    return hashlib.sha256(as_json(document).encode()).hexdigest()
