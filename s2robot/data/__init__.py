"""Demonstrations on disk: one file per format, all read as `Episode`s."""

from __future__ import annotations

from pathlib import Path

from s2robot.data.robomimic import RobomimicDataset, RobomimicWriter
from s2robot.interfaces import DatasetError

__all__ = ["RobomimicDataset", "RobomimicWriter", "open_dataset"]

FORMATS = {".hdf5": RobomimicDataset, ".h5": RobomimicDataset}


def open_dataset(path: str | Path) -> RobomimicDataset:
    """Open a demonstration dataset for reading, by its file name's ending.

    Raises:
        DatasetError: the file is missing, of an unknown format, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"dataset {str(path)!r} does not exist; record one with `s2robot collect out={path}`")
    if path.suffix not in FORMATS:
        raise DatasetError(f"dataset {str(path)!r} has an unknown format {path.suffix!r}; known: {', '.join(FORMATS)}")
    return FORMATS[path.suffix](path)
