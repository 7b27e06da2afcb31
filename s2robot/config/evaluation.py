"""Settings of rollouts."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from s2robot.config.checks import require

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
