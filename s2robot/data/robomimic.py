"""robomimic's HDF5 layout, the native format (https://robomimic.github.io/docs/datasets/overview.html).

```
data                     attrs: total, env_args (JSON: env_name, type, env_version, env_kwargs, s2robot)
data/demo_<i>            attrs: num_samples, model_file, success, seed
data/demo_<i>/actions    float64 [T, A];  states [T, S];  rewards [T];  dones [T]
data/demo_<i>/obs/<key>  <camera>_image uint8 [T, H, W, 3] upright; others float [T, d]
mask/{train,valid}       byte strings
```
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from s2robot.interfaces import DatasetError, Episode, unknown_name

_IMAGE = "_image"
# Lossless and readable by every HDF5 build; level 1 keeps recording off the critical path.
_COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}


def _demo_number(name: str) -> int:
    return int(name[len("demo_") :])


class RobomimicDataset:
    """Read-only view of one file; holds at most one episode in memory.

    Attributes:
        path: the file.
        demos: group names in numeric order.
        cameras: camera names with recorded images.
        proprioception: the other observation keys.
        env_args: the recorded environment description.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise DatasetError(
                f"dataset {str(path)!r} cannot be read as HDF5 (truncated or foreign): {error}"
            ) from error
        try:
            self._read_index()
        except BaseException:
            self._file.close()
            raise

    def _read_index(self) -> None:
        data = self._file.get("data")
        if not isinstance(data, h5py.Group):
            raise DatasetError(f"dataset {str(self.path)!r} has no group 'data'; it is not a robomimic file")
        self.demos = sorted((name for name in data if name.startswith("demo_")), key=_demo_number)
        if not self.demos:
            raise DatasetError(f"dataset {str(self.path)!r} holds no demonstrations (no group data/demo_<i>)")
        try:
            self.env_args: dict[str, Any] = json.loads(data.attrs.get("env_args", "{}"))
        except json.JSONDecodeError as error:
            raise DatasetError(f"dataset {str(self.path)!r}: attribute env_args is not JSON: {error}") from error
        keys = self._observations(self.demos[0]).keys()
        self.cameras = sorted(key[: -len(_IMAGE)] for key in keys if key.endswith(_IMAGE))
        self.proprioception = sorted(key for key in keys if not key.endswith(_IMAGE))
        self.lengths = [self._actions(demo).shape[0] for demo in self.demos]
        self.action_width = int(self._actions(self.demos[0]).shape[1])

    def _item(self, demo: str, key: str) -> Any:
        group = self._file["data"][demo]
        if key not in group:
            raise DatasetError(f"dataset {str(self.path)!r}, {demo}: field {key!r} is missing; it has {sorted(group)}")
        return group[key]

    def _actions(self, demo: str) -> h5py.Dataset:
        actions = self._item(demo, "actions")
        if actions.ndim != 2 or 0 in actions.shape:
            raise DatasetError(
                f"dataset {str(self.path)!r}, {demo}: 'actions' has shape {actions.shape}; valid: [T, A], not empty"
            )
        return actions

    def _observations(self, demo: str) -> h5py.Group:
        return self._item(demo, "obs")

    def __len__(self) -> int:
        return len(self.demos)

    def __enter__(self) -> RobomimicDataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _select(self, kind: str, wanted: list[str] | None, available: list[str]) -> list[str]:
        for name in wanted or []:
            if name not in available:
                raise DatasetError(f"dataset {str(self.path)!r}: {unknown_name(kind, name, available)}")
        return list(wanted) if wanted is not None else available

    def select_cameras(self, wanted: list[str] | None) -> list[str]:
        """Return `wanted`, or all cameras for None; an unknown one raises `DatasetError` with the choices."""
        cameras = self._select("camera", wanted, self.cameras)
        if not cameras:
            raise DatasetError(f"dataset {str(self.path)!r} has no camera images (no obs/<camera>_image)")
        return cameras

    def select_proprioception(self, wanted: list[str] | None) -> list[str]:
        """Return `wanted`, or all proprioception keys for None; an unknown one raises with the choices."""
        return self._select("proprioception key", wanted, self.proprioception)

    def image_size(self, camera: str) -> tuple[int, int]:
        """Height and width in pixels of `camera`'s recorded images."""
        shape = self._images(self.demos[0], camera).shape
        return int(shape[1]), int(shape[2])

    def _images(self, demo: str, camera: str) -> h5py.Dataset:
        key = camera + _IMAGE
        observations = self._observations(demo)
        if key not in observations:
            raise DatasetError(f"dataset {str(self.path)!r}, {demo}: {unknown_name('camera', camera, self.cameras)}")
        images = observations[key]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise DatasetError(
                f"dataset {str(self.path)!r}, {demo}: obs/{key} is {images.dtype} {images.shape}; "
                "valid: uint8 [T, H, W, 3]"
            )
        return images

    def _checked(self, demo: str, key: str, values: np.ndarray, length: int) -> np.ndarray:
        if len(values) != length:
            raise DatasetError(
                f"dataset {str(self.path)!r}, {demo}: {key!r} has {len(values)} steps, 'actions' has {length}"
            )
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            step = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise DatasetError(f"dataset {str(self.path)!r}, {demo}: {key!r} is not finite at step {step}")
        return values

    def episode(self, index: int, cameras: list[str] | None = None, proprioception: list[str] | None = None) -> Episode:
        """Read one demonstration.

        Args:
            index: 0 … len-1.
            cameras: which images to read; `[]` for none (fast), None for all.
            proprioception: which other observations; None for all.

        Raises:
            DatasetError: a field is missing, of unequal length, or not finite; names file, episode and field.
        """
        demo = self.demos[index]
        length = self.lengths[index]
        try:
            group = self._file["data"][demo]
            observations = self._observations(demo)
            actions = self._checked(demo, "actions", self._actions(demo)[:].astype(np.float32), length)
            low_dim = {}
            for key in self.select_proprioception(proprioception):
                if key not in observations:
                    raise DatasetError(f"dataset {str(self.path)!r}, {demo}: observation {key!r} is missing")
                values = observations[key][:].astype(np.float32).reshape(len(observations[key]), -1)
                low_dim[key] = self._checked(demo, f"obs/{key}", values, length)
            images = {
                camera: self._checked(demo, f"obs/{camera}{_IMAGE}", self._images(demo, camera)[:], length)
                for camera in (self.cameras if cameras is None else cameras)
            }
            return Episode(
                actions=actions,
                images=images,
                proprioception=low_dim,
                success=bool(group.attrs.get("success", True)),
                rewards=group["rewards"][:] if "rewards" in group else None,
                states=group["states"][:] if "states" in group else None,
                model_file=group.attrs.get("model_file"),
                attributes={key: _plain(value) for key, value in group.attrs.items() if key != "model_file"},
            )
        except OSError as error:
            raise DatasetError(f"dataset {str(self.path)!r}, {demo} cannot be read (truncated?): {error}") from error

    def fingerprint(self) -> str:
        """Sha256 of the file's bytes."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


class RobomimicWriter:
    """Write demonstrations to one file, under a temporary name until `close` makes it whole.

    Used as a context manager: leaving it by an exception removes the unfinished file.
    """

    def __init__(self, path: str | Path, env_args: dict[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._file = h5py.File(self._partial, "w")
        data = self._file.create_group("data")
        data.attrs["env_args"] = json.dumps(env_args)
        self._count = 0
        self._total = 0

    def __enter__(self) -> RobomimicWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def add(self, episode: Episode) -> None:
        """Append one episode; the images are compressed without loss, one chunk a frame."""
        length = len(episode)
        group = self._file["data"].create_group(f"demo_{self._count}")
        group.attrs["num_samples"] = length
        group.attrs["success"] = bool(episode.success)
        for key, value in episode.attributes.items():
            group.attrs[key] = value
        if episode.model_file is not None:
            group.attrs["model_file"] = episode.model_file
        group["actions"] = episode.actions.astype(np.float64)
        if episode.states is not None:
            group["states"] = episode.states
        if episode.rewards is not None:
            group["rewards"] = episode.rewards
        group["dones"] = np.arange(length) == length - 1
        observations = group.create_group("obs")
        for key, values in episode.proprioception.items():
            observations[key] = values
        for camera, images in episode.images.items():
            observations.create_dataset(camera + _IMAGE, data=images, chunks=(1, *images.shape[1:]), **_COMPRESSION)
        self._count += 1
        self._total += length

    def close(self, validation_fraction: float = 0.1) -> None:
        """Write the totals and the train/valid masks, flush to disk and give the file its name."""
        self._file["data"].attrs["total"] = self._total
        names = [f"demo_{i}" for i in range(self._count)]
        held_out = round(len(names) * validation_fraction)
        mask = self._file.create_group("mask")
        mask["train"] = np.array(names[: len(names) - held_out], dtype="S")
        mask["valid"] = np.array(names[len(names) - held_out :], dtype="S")
        self._file.close()
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        self._partial.rename(self.path)
