"""A training run as commands start it, and its closing message."""

from __future__ import annotations

import shlex
from pathlib import Path

from s2robot.checkpoint import load_record
from s2robot.cli.environment import environment_of
from s2robot.config import TrainConfig


def train_checked(config: TrainConfig) -> Path:
    """Train a policy, but check data and environment before torch is imported; return the folder of the checkpoint.

    Raises:
        S2RobotError: as for `s2robot.training.train`, or the environment of the policy does not fit the data.
    """
    environments = [environment_of(alone) for alone in config.each()]
    if config.init_from is not None:
        load_record(config.init_from)
    from s2robot.training import train

    return train(config, environment=environments)


def describe_checkpoint(folder: Path) -> str:
    """Say where the checkpoint is and which command comes next.

    Rollouts need a simulated task. Without one, as with data from a real robot, the policy is served or exported.
    """
    checkpoint = f"checkpoint={shlex.quote(str(folder))}"
    if "task" in load_record(folder).environment:
        command = f"s2robot evaluate {checkpoint}"
    else:
        command = f"s2robot serve {checkpoint}, or s2robot export {checkpoint} out=policy.onnx"
    return f"checkpoint: {folder}\nnext: {command}"
