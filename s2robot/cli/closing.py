"""The closing message of a training run."""

from __future__ import annotations

import shlex
from pathlib import Path

from s2robot.checkpoint import load_checkpoint


def describe_checkpoint(folder: Path) -> str:
    """Say where the checkpoint is and which command comes next.

    Rollouts need a simulated task. Without one, as with data from a real robot, the policy is served or exported.
    """
    checkpoint = f"checkpoint={shlex.quote(str(folder))}"
    if "task" in load_checkpoint(folder)[0].environment:
        command = f"s2robot evaluate {checkpoint}"
    else:
        command = f"s2robot serve {checkpoint}, or s2robot export {checkpoint} out=policy.onnx"
    return f"checkpoint: {folder}\nnext: {command}"
