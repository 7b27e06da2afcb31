"""Demonstrations on disk: one file per format, all read as `Episode`s."""

from __future__ import annotations

from pathlib import Path

from s2robot.data.base import DemonstrationDataset
from s2robot.data.lerobot import LeRobotDataset
from s2robot.data.lerobot_writer import LeRobotWriter
from s2robot.data.minari import MinariDataset
from s2robot.data.replay_buffer import ReplayBufferDataset
from s2robot.data.robomimic import RobomimicDataset, RobomimicWriter
from s2robot.interfaces import DatasetError

__all__ = [
    "FORMATS",
    "DemonstrationDataset",
    "LeRobotDataset",
    "LeRobotWriter",
    "MinariDataset",
    "ReplayBufferDataset",
    "RobomimicDataset",
    "RobomimicWriter",
    "open_dataset",
]

# The first that recognises a path reads it.
FORMATS: tuple[type[DemonstrationDataset], ...] = (
    LeRobotDataset,
    MinariDataset,
    ReplayBufferDataset,
    RobomimicDataset,
)


def open_dataset(path: str | Path) -> DemonstrationDataset:
    """Open recorded demonstrations for reading; the format follows from the name and kind of the path.

    Raises:
        DatasetError: the path does not exist, is of an unknown format, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"dataset {str(path)!r} does not exist; record one with `s2robot collect out={path}`")
    for reader in FORMATS:
        if reader.recognises(path):
            return reader(path)
    kind = "folder" if path.is_dir() else f"file ending {path.suffix!r}"
    raise DatasetError(
        f"dataset {str(path)!r} has an unknown format ({kind}); known: {'; '.join(f.layout for f in FORMATS)}"
    )
