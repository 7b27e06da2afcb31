"""The whole state of a run on disk, from which it goes on as if it had never been interrupted, on the same machine."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from s2robot.checkpoint import set_checkpoint_aside
from s2robot.config import TrainConfig
from s2robot.interfaces import TrainingError, differences
from s2robot.system.files import durable_file

STATE_FILE = "training_state.pt"
# Settings that a run may be resumed with other values of: what is computed changes by rounding at most (`device`).
_FREE = {"dataset", "output", "device", "cache_dir", "resume"}
FREE_TRAINING = {"save_every_steps", "checkpoint_every", "keep_checkpoints", "loggers", "wandb_project"}


def identity(config: TrainConfig, encoder_fingerprint: str, data_fingerprint: str) -> dict[str, Any]:
    """Everything that determines a run's result but for rounding, and so not the machine."""
    settings = {key: value for key, value in asdict(config).items() if key not in _FREE}
    settings["policy"] = config.policy.identity()
    settings["readout"] = config.readout.identity()
    settings["training"] = {key: value for key, value in settings["training"].items() if key not in FREE_TRAINING}
    return {**settings, "encoder weights": encoder_fingerprint, "data": data_fingerprint}


def require_same_run(path: Path, run: dict[str, Any]) -> None:
    """Refuse a saved state that cannot be read or belongs to another run; that there is none is fine.

    Raises:
        TrainingError: names the file and the settings that differ.
    """
    if path.exists():
        _check(path, _read(path, mmap=True), run)


def load_state(path: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """The saved state, on the CPU; None where there is none.

    Raises:
        TrainingError: it cannot be read or belongs to another run.
    """
    if not path.exists():
        return None
    state = _read(path, mmap=False)
    _check(path, state, run)
    return state


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Replace the saved state, as a whole."""
    with durable_file(path) as file:
        torch.save(state, file)


def intermediate(output: Path, epoch: int) -> Path:
    """Where the checkpoint after `epoch` epochs lies."""
    return output / f"epoch_{epoch:05}" / "checkpoint"


def keep_last(output: Path, count: int) -> None:
    """Delete intermediate checkpoints but the last `count`; what else lies beside them is kept."""
    found = sorted(output.glob("epoch_*/checkpoint"))
    for checkpoint in found[: max(len(found) - count, 0)]:
        shutil.rmtree(checkpoint)
        if not any(checkpoint.parent.iterdir()):
            checkpoint.parent.rmdir()


def set_aside(output: Path) -> None:
    """Clear the way for a run that starts anew: nothing of a former one is resumed or taken for its result.

    The former checkpoint is kept as `checkpoint.old` until a new one takes its place.
    """
    (output / STATE_FILE).unlink(missing_ok=True)  # first: what is left then is resumed by nobody
    keep_last(output, 0)
    (output / "log.csv").unlink(missing_ok=True)
    set_checkpoint_aside(output / "checkpoint")


def _read(path: Path, mmap: bool) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise TrainingError(
            f"training state {str(path)!r} cannot be read ({type(error).__name__}: truncated or foreign); delete it or "
            "give resume=false"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("run"), dict):
        raise TrainingError(
            f"training state {str(path)!r} was not written by this version; delete it or give resume=false"
        )
    return state


def _check(path: Path, state: dict[str, Any], run: dict[str, Any]) -> None:
    changed = [name for name, _, _ in differences(state["run"], run)]
    if changed:
        raise TrainingError(
            f"{str(path.parent)!r} holds a run with other settings ({', '.join(changed)} differ); choose another "
            "output or give resume=false"
        )
