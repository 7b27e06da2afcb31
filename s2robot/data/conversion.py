"""Any readable dataset to robomimic HDF5 or a LeRobot folder: the verb `s2robot convert`."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from s2robot.data import open_dataset
from s2robot.data.lerobot_writer import LeRobotWriter
from s2robot.data.robomimic import RobomimicWriter
from s2robot.interfaces import DatasetError


def convert_dataset(path: str | Path, out: str | Path, *, fps: int = 20, video: bool = True) -> int:
    """Copy every demonstration into another format, one at a time.

    An interrupted conversion to robomimic goes on where it stopped when it is started again.

    Actions, states, rewards and low-dimensional observations stay bit-equal; images do too, except in LeRobot videos.

    Args:
        path: dataset to read.
        out: `*.hdf5` or `*.h5` for robomimic; any other name for a LeRobot folder. It must not exist.
        fps: steps per second (LeRobot only).
        video: whether images become videos (LeRobot only).

    Returns:
        The number of demonstrations.

    Raises:
        DatasetError: the dataset cannot be read, `out` exists, or an episode does not fit the format.
    """
    out = Path(out)
    if out.exists():
        raise DatasetError(f"out={str(out)!r} exists; choose another name")
    with open_dataset(path) as source:
        writer: RobomimicWriter | LeRobotWriter
        if out.suffix in (".hdf5", ".h5"):
            writer = RobomimicWriter(out, source.env_args, origin=source.fingerprint())
        else:
            writer = LeRobotWriter(out, fps=fps, env_args=source.env_args, video=video)
        with writer:
            # Of an interrupted run; LeRobot folders are written whole.
            done = writer.count if isinstance(writer, RobomimicWriter) else 0
            left = range(done, len(source))
            for index in tqdm(left, initial=done, total=len(source), unit="demo", desc="converting"):
                writer.add(source.episode(index))
        return len(source)
