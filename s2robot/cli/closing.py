"""The last words of a training run."""

from __future__ import annotations

import shlex
from pathlib import Path

from s2robot.checkpoint import load_checkpoint


def describe_checkpoint(folder: Path) -> str:
    """Where the checkpoint is and which command takes it further: rollouts need a task, which a robot's data lack."""
    checkpoint = f"checkpoint={shlex.quote(str(folder))}"
    if "task" in load_checkpoint(folder)[0].environment:
        command = f"s2robot evaluate {checkpoint}"
    else:
        command = f"s2robot serve {checkpoint}, or s2robot export {checkpoint} out=policy.onnx"
    return f"checkpoint: {folder}\nnext: {command}"
