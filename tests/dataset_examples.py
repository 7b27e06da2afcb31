"""One small dataset of every format, written by the format's own library (tests/data/make.py), and its content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from moving_square import LENGTHS, numbers

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Example:
    """A dataset and its content.

    Attributes:
        file: name in `tests/data`.
        actions: function that returns the stored actions [T, A] of each episode.
        proprioception: a key, and a function that returns its values.
        camera: one of its cameras.
        needs: libraries that are needed to read it.
        optional: files without which it reads the same.
        headers: files in which tests flip single bytes.
    """

    file: str
    actions: Callable[[], list[np.ndarray]]
    proprioception: tuple[str, Callable[[], list[np.ndarray]]]
    camera: str
    needs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    headers: tuple[str, ...] = (".",)

    @property
    def path(self) -> Path:
        """Path of the dataset; nothing may write there."""
        for module in self.needs:
            pytest.importorskip(module, reason=f"{module} is not installed (pip install -e '.[dev]')")
        return DATA / self.file

    def copy(self, folder: Path) -> Path:
        """Copy the dataset, so that a test can change it."""
        target = folder / self.file
        if self.path.is_dir():
            shutil.copytree(self.path, target)
            return target
        for file in self.path.parent.glob(f"{self.path.stem}.*"):  # ManiSkill's has another file beside it
            shutil.copy(file, folder / file.name)
        return target


def files_of(path: Path) -> list[Path]:
    """Return every file of a dataset, in a fixed order."""
    return sorted(file for file in [path, *path.rglob("*")] if file.is_file())


def _square_actions() -> list[np.ndarray]:
    return [numbers(length, 2, 10 + seed) for seed, length in enumerate(LENGTHS)]


def _square_positions(extra: int = 0) -> list[np.ndarray]:
    return [numbers(length + extra, 3, seed)[:length] for seed, length in enumerate(LENGTHS)]


def _recorded(key: str) -> list[np.ndarray]:
    with h5py.File(DATA / "robomimic_lift.hdf5") as file:
        return [file[f"data/{demo}/{key}"][:].astype(np.float32) for demo in sorted(file["data"])]


EXAMPLES = {
    "lerobot": Example(
        "lerobot",
        _square_actions,
        ("state", _square_positions),
        "wrist",
        needs=("pyarrow", "av"),
        optional=("meta/stats.json", "meta/tasks.parquet"),
        headers=("data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"),
    ),
    "maniskill": Example(
        "maniskill.h5",
        _square_actions,
        ("agent.qpos", lambda: [numbers(length + 1, 9, seed)[:length] for seed, length in enumerate(LENGTHS)]),
        "sensor_data.base_camera.rgb",
    ),
    "minari": Example(
        "minari",
        _square_actions,
        ("position", lambda: _square_positions(1)),  # one more observation, after the last action
        "front",
        optional=("data/metadata.json",),
        headers=("data/main_data.hdf5",),
    ),
    "minari_arrow": Example(
        "minari_arrow",
        _square_actions,
        ("position", lambda: _square_positions(1)),
        "front",
        needs=("pyarrow",),
        optional=tuple(f"data/{episode}/metadata.json" for episode in range(3)),
        headers=("data/1/part-0.arrow",),
    ),
    "replay_buffer": Example(
        "replay.zarr.zip", _square_actions, ("state", _square_positions), "camera_0", needs=("zarr",)
    ),
    "robomimic": Example(
        "robomimic_lift.hdf5",
        lambda: _recorded("actions"),
        ("robot0_eef_pos", lambda: _recorded("obs/robot0_eef_pos")),
        "agentview",
    ),
}
