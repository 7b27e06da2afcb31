"""Demonstrations on disk: one file per format, all read as `Episode`s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s2robot.data.base import DemonstrationDataset
from s2robot.data.cameras import Cameras, CameraView
from s2robot.data.lerobot import LeRobotDataset
from s2robot.data.lerobot_writer import LeRobotWriter
from s2robot.data.maniskill import ManiSkillDataset
from s2robot.data.minari import MinariDataset
from s2robot.data.minari_arrow import MinariArrowDataset
from s2robot.data.replay_buffer import ReplayBufferDataset
from s2robot.data.robomimic import RobomimicDataset, RobomimicWriter
from s2robot.interfaces import ConfigError, DatasetError
from s2robot.system.registry import Registry

__all__ = [
    "FORMATS",
    "CameraView",
    "DemonstrationDataset",
    "LeRobotDataset",
    "LeRobotWriter",
    "ManiSkillDataset",
    "MinariArrowDataset",
    "MinariDataset",
    "ReplayBufferDataset",
    "RobomimicDataset",
    "RobomimicWriter",
    "format_of",
    "open_dataset",
]

# The first reader that recognises a path reads it. Readers of installed packages come after this package's own, so an
# installed package cannot change how a known format is read.
FORMATS = Registry(
    "dataset format",
    "s2robot.formats",
    {
        "lerobot": "s2robot.data.lerobot:LeRobotDataset",
        "maniskill": "s2robot.data.maniskill:ManiSkillDataset",
        "minari": "s2robot.data.minari:MinariDataset",
        "minari_arrow": "s2robot.data.minari_arrow:MinariArrowDataset",
        "replay_buffer": "s2robot.data.replay_buffer:ReplayBufferDataset",
        "robomimic": "s2robot.data.robomimic:RobomimicDataset",
    },
)


def open_dataset(
    path: str | Path, *, cameras: Cameras = None, flip: Sequence[str] = (), action_key: Sequence[str] = ()
) -> DemonstrationDataset:
    """Open recorded demonstrations for reading; the format follows from the name and kind of the path.

    Args:
        path: the file or folder.
        cameras: cameras to offer, a list of names or a mapping of new names to recorded ones; None for all.
        flip: cameras, by the names they have here, whose pictures are turned upside down.
        action_key: recorded arrays that actions are read from, one beside the other; empty for the format's own.

    Raises:
        DatasetError: the path does not exist, is of an unknown format or damaged, or a camera or array of actions is
            unknown.
    """
    path = Path(path)
    name = format_of(path)
    reader: type[DemonstrationDataset] = FORMATS[name]
    dataset = reader(path)
    dataset.package = FORMATS.provider(name)
    try:
        if action_key:
            dataset.choose_actions(list(action_key))
        return dataset if cameras is None and not flip else CameraView(dataset, cameras, flip)
    except BaseException:
        dataset.close()
        raise


def format_of(path: str | Path) -> str:
    """Return the key of `FORMATS` whose reader recognises a file or folder by its name or the names inside it.

    Raises:
        DatasetError: the path does not exist, or no reader recognises it; the message lists the known formats and the
            readers of installed packages that cannot be loaded.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"dataset {str(path)!r} does not exist; record one with `s2robot collect out={path}`")
    known, broken = [], []
    for name in FORMATS:
        try:
            reader = _reader(name)
        except ConfigError as error:  # a broken package may have nothing to do with this path, so go on
            broken.append(f". Not tried: {error}")
            continue
        if reader.recognises(path):
            return name
        known.append(reader.layout)
    kind = "folder" if path.is_dir() else f"file ending {path.suffix!r}"
    raise DatasetError(
        f"dataset {str(path)!r} has an unknown format ({kind}); known: {'; '.join(known)}{''.join(broken)}"
    )


def _reader(name: str) -> type[DemonstrationDataset]:
    reader = FORMATS[name]
    if not (isinstance(reader, type) and issubclass(reader, DemonstrationDataset)):
        raise ConfigError(
            f"dataset format {name!r} of {FORMATS.provider(name)} is {reader!r}; valid: a subclass of "
            "s2robot.data.DemonstrationDataset"
        )
    return reader
