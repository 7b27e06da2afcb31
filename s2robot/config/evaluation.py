"""Settings of rollouts and of the benchmark grid."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from s2robot.config.checks import require
from s2robot.config.encoder import EncoderConfig, ReadoutConfig
from s2robot.config.policies import PolicyConfig
from s2robot.config.training import TrainingConfig

EVALUATION_SEED = 100_000
"""Evaluation seeds start here; collection seeds stay below it, so rollouts never repeat a demonstration's start."""


@dataclass
class EvaluateConfig:
    """`s2robot evaluate`: rollouts of a checkpoint over held-out seeds."""

    checkpoint: str = MISSING
    episodes: int = 100
    first_seed: int = EVALUATION_SEED
    num_envs: int | None = None  # null = one for each core, fewer where memory is short
    horizon: int | None = None  # null = the task's own
    videos: int = 4
    output: str | None = None  # null = the checkpoint's parent folder
    device: str = "auto"
    engine: str | None = None  # what runs the backbone; null = as in training (features differ by rounding only)

    def __post_init__(self) -> None:
        require(self.episodes >= 1, "episodes", self.episodes, "1 or more")
        require(self.first_seed >= 0, "first_seed", self.first_seed, "0 or more")
        require(self.num_envs is None or self.num_envs >= 1, "num_envs", self.num_envs, "1 or more, or null")


@dataclass
class BenchmarkConfig:
    """`s2robot benchmark`: a grid of cells that share demonstrations, budget and initial states."""

    output: str = MISSING
    tasks: list[str] = field(default_factory=lambda: ["Lift"])
    backbones: list[str] = field(default_factory=lambda: ["efficientnet_lite0", "efficientnet_lite1"])
    scale_sets: list[list[int]] = field(default_factory=lambda: [[224], [224, 448]])
    training_seeds: list[int] = field(default_factory=lambda: [0])
    demonstrations: int = 60
    size: int = 448
    cameras: list[str] | None = None
    episodes: int = 50
    first_seed: int = EVALUATION_SEED
    num_envs: int | None = None
    device: str = "auto"
    dry_run: bool = False
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    policy: PolicyConfig = MISSING
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        for name in ("tasks", "backbones", "scale_sets", "training_seeds"):
            require(len(getattr(self, name)) >= 1, name, getattr(self, name), "a list with at least one entry")
