"""Settings of rollouts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from s2robot.config.checks import require
from s2robot.config.environment import EnvironmentSettings

EVALUATION_SEED = 100_000
"""Evaluation seeds start here; collection seeds stay below, so rollouts never start where a demonstration started."""


@dataclass
class EvaluateConfig(EnvironmentSettings):
    """`s2robot evaluate`: roll out a checkpoint over held-out seeds.

    `task` and the other `EnvironmentSettings` name the environment of a checkpoint that records none. For others,
    `task` is an error if the checkpoint was trained on another task.
    """

    checkpoint: str = MISSING
    task_text: str | None = None  # of a policy that is told its task: this one; null = all that it knows
    episodes: int = 100
    first_seed: int = EVALUATION_SEED  # lower seeds give a warning: demonstrations may have used them
    num_envs: int | None = None  # null = one per core, fewer if memory is short
    horizon: int | None = None  # null = as recorded with the demonstrations, else the task's own
    render_profile: str | None = None  # null = as in training; another needs allow_mismatch
    variant: dict[str, Any] | None = None  # null = as in training, {} = the task itself; another needs allow_mismatch
    allow_mismatch: bool = False  # allow images that look different from those the policy was trained on
    execute_steps: int | None = None  # actions executed of each predicted chunk; null = as in training
    temporal_ensemble: float | None = None  # m: average overlapping chunks with weights exp(-m·i), i = 0 the oldest
    videos: int = 4  # number of videos: half successes and half failures, if there are enough of both
    step_timeout: float = 300.0  # seconds without an answer after which a simulator counts as hung
    output: str | None = None  # null = the checkpoint's parent folder
    device: str = "auto"
    engine: str | None = None  # engine that runs the backbone; null = as in training (features differ by rounding only)

    def __post_init__(self) -> None:
        require(self.episodes >= 1, "episodes", self.episodes, "1 or more")
        require(self.first_seed >= 0, "first_seed", self.first_seed, "0 or more")
        require(self.num_envs is None or self.num_envs >= 1, "num_envs", self.num_envs, "1 or more, or null")
        steps, m = self.execute_steps, self.temporal_ensemble
        require(steps is None or steps >= 1, "execute_steps", steps, "1 or more, or null")
        require(m is None or (m >= 0 and math.isfinite(m)), "temporal_ensemble", m, "0 or more, or null")
        require(self.videos >= 0, "videos", self.videos, "0 or more")
        require(self.step_timeout > 0, "step_timeout", self.step_timeout, "more than 0 seconds")
