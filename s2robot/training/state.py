"""The whole training state on disk; on the same machine, a run continues from it as if never interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from s2robot.checkpoint import packages_of, set_checkpoint_aside
from s2robot.config import TrainConfig
from s2robot.config.checks import without_former
from s2robot.config.environment import EnvironmentSettings
from s2robot.interfaces import TrainingError, differences
from s2robot.system.files import durable_file

STATE_FILE = "training_state.pt"
# Settings that may change when a run is resumed. They change results by rounding at most (`device`). `dataset` is a
# path: the content of the file is compared by its fingerprint.
# The environment is where the policy is evaluated later; training does not know it. What a run starts from is told by
# the hash of its weights.
_FREE = {
    "dataset",
    "task_vectors",
    "output",
    "device",
    "cache_dir",
    "resume",
    "init_from",
    "init_normalization",
    *EnvironmentSettings.__dataclass_fields__,
}
FREE_TRAINING = {"save_every_steps", "checkpoint_every", "keep_checkpoints", "loggers", "wandb_project"}


def identity(
    config: TrainConfig, encoder_fingerprint: str, data_fingerprint: str, initial: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return everything that determines a run's result up to rounding; the machine is therefore not part of it.

    `initial` is what is recorded of the checkpoint that the run starts from: the hash of its weights, not its path.
    """
    settings = {key: value for key, value in without_former(config).items() if key not in _FREE}
    if isinstance(config.cameras, dict):  # as a list, because a policy reads its cameras in this order
        settings["cameras"] = list(map(list, config.cameras.items()))
    settings["policy"] = config.policy.identity()
    settings["readout"] = config.readout.identity()
    if packages := packages_of(config.policy, config.readout):
        settings["packages"] = packages  # another version may compute something else
    if initial:
        settings["initial"] = initial
    settings["training"] = {key: value for key, value in settings["training"].items() if key not in FREE_TRAINING}
    return {**settings, "encoder weights": encoder_fingerprint, "data": data_fingerprint}


def require_same_run(path: Path, run: dict[str, Any]) -> None:
    """Check that the saved state, if there is one, can be read and belongs to this run.

    Raises:
        TrainingError: it cannot be read or belongs to another run; the message names the settings that differ.
    """
    if path.exists():
        _check(path, _read(path, mmap=True), run)  # mapped, so that only `run` is read and not the tensors


def load_state(path: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """Load the saved state onto the CPU; None if there is none.

    Raises:
        TrainingError: it cannot be read or belongs to another run.
    """
    if not path.exists():
        return None
    state = _read(path, mmap=False)
    _check(path, state, run)
    return state


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Replace the saved state atomically."""
    with durable_file(path) as file:
        torch.save(state, file)


def intermediate(output: Path, epoch: int) -> Path:
    """Return the folder of the checkpoint after `epoch` epochs."""
    return output / f"epoch_{epoch:05}" / "checkpoint"


def keep_last(output: Path, count: int) -> None:
    """Delete all intermediate checkpoints except the last `count`; other files beside them are kept."""
    found = sorted(output.glob("epoch_*/checkpoint"))
    for checkpoint in found[: max(len(found) - count, 0)]:
        shutil.rmtree(checkpoint)
        if not any(checkpoint.parent.iterdir()):
            checkpoint.parent.rmdir()


def set_aside(output: Path) -> None:
    """Clear the output for a run that starts anew, so that nothing of a former run is resumed or taken for its result.

    The former checkpoint is kept as `checkpoint.old` until a new one replaces it.
    """
    (output / STATE_FILE).unlink(missing_ok=True)  # first: if the rest is interrupted, nothing can be resumed from it
    keep_last(output, 0)
    (output / "log.csv").unlink(missing_ok=True)
    set_checkpoint_aside(output / "checkpoint")


def finished_epochs(state: dict[str, Any], run: dict[str, Any]) -> int | None:
    """Return the epochs of a saved run that is finished, if `run` differs from it only in having more; else None."""
    found = differences(state["run"], run)
    if [name for name, _, _ in found] != ["training.epochs"] or "step" not in state:
        return None
    ((_, before, wanted),) = found
    return before if len(state["rows"]) == before < wanted else None


def _read(path: Path, mmap: bool) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many kinds of error for a damaged file
        raise TrainingError(
            f"training state {str(path)!r} cannot be read ({type(error).__name__}: truncated or another kind of file); "
            "delete it or give resume=false"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("run"), dict):
        raise TrainingError(
            f"training state {str(path)!r} was not written by this version; delete it or give resume=false"
        )
    return state


def _check(path: Path, state: dict[str, Any], run: dict[str, Any]) -> None:
    changed = [name for name, _, _ in differences(state["run"], run)]
    if changed and finished_epochs(state, run) is None:
        only = "; only a finished run can get other epochs, and only more" if changed == ["training.epochs"] else ""
        raise TrainingError(
            f"{str(path.parent)!r} holds a run with other settings ({', '.join(changed)} differ{only}); choose another "
            "output or give resume=false"
        )
