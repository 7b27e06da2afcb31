"""LeRobot's own processors: they standardise vectors, scale actions to [-1, 1] and leave images unchanged."""

from __future__ import annotations

from typing import Any

from lerobot.processor import PolicyProcessorPipeline, make_default_pre_post_processors
from torch import Tensor

from lerobot_policy_s2robot.configuration_s2robot import S2RobotConfig

Pipeline = PolicyProcessorPipeline[Any, Any]


def make_s2robot_pre_post_processors(
    config: S2RobotConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[Pipeline, Pipeline]:
    """Make the processors that LeRobot runs before and after the policy; LeRobot finds this function by its name."""
    return make_default_pre_post_processors(config, dataset_stats, normalizer_device=config.device)
