"""Success rate of a checkpoint over held-out seeds: rollouts, videos, and one `results.json`."""

from s2robot.evaluation.log import EpisodeLog
from s2robot.evaluation.run import RESULTS_SCHEMA, MakeVectorEnv, evaluate

__all__ = ["RESULTS_SCHEMA", "EpisodeLog", "MakeVectorEnv", "evaluate"]
