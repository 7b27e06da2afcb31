"""Minari 0.5: one HDF5 file and its metadata (https://minari.farama.org/content/dataset_standards/).

```
data/metadata.json               env_spec, jpeg_encoding, …
data/main_data.hdf5
    episode_<i>/observations     an array [T+1, …], or a group of arrays for dictionaries and tuples
    episode_<i>/actions          [T, A];  rewards, terminations, truncations [T]
    episode_<i>/infos            a group of arrays [T+1]
```

- The observation after the last action has no action and is dropped.
- Images are stored as JPEG (lossy) unless the dataset was made with `jpeg_encoding=False`.
- Arrays with more axes than vectors are read if they are uint8 pictures with 1, 3 or 4 channels, last or first. Others,
  such as depth maps, are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from s2robot.data.base import DemonstrationDataset, Index, decode_picture
from s2robot.data.fields import recorded_success
from s2robot.data.hdf5 import (
    DAMAGE,
    LAST,
    child,
    leaves,
    numbered,
    pictures_of,
    plain_attributes,
    require_array,
    why_not_read,
)
from s2robot.data.pictures import Pictures
from s2robot.interfaces import Episode

_MAIN_FILE = "main_data.hdf5"
_GYM = 2  # robomimic's EnvType
_JPEG = b"\xff\xd8\xff"


def _main_file(path: Path) -> Path | None:
    candidates = [path] if path.name == _MAIN_FILE else [path / _MAIN_FILE, path / "data" / _MAIN_FILE]
    return next((file for file in candidates if file.is_file()), None)


class MinariDataset(DemonstrationDataset):
    """Demonstrations in one Minari dataset (its HDF5 storage)."""

    layout = f"Minari: a folder with data/{_MAIN_FILE}"
    read_errors = DAMAGE

    @staticmethod
    def recognises(path: Path) -> bool:
        """Return whether this is `main_data.hdf5` or a folder that contains it."""
        return _main_file(path) is not None

    def _files(self) -> list[Path]:
        main = _main_file(self.path) or self.path
        metadata = main.with_name("metadata.json")
        return [main, metadata] if metadata.is_file() else [main]

    def _open(self) -> None:
        main, *metadata = self._files()
        self._metadata: dict[str, Any] = {}
        for file in metadata:
            with self.reading(file):
                self._metadata = json.loads(file.read_text(encoding="utf-8"))
        with self.reading(main):
            self._file = h5py.File(main, "r")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_index(self) -> Index:
        demos = numbered(self._file, "episode_")
        if not demos:
            raise self.error("holds no demonstrations (no group episode_<i>)")
        actions = [self._field(demo, "actions") for demo in demos]
        leaves = dict(self._leaves(demos[0]))
        found = {name: self._pictures_of(name, leaf) for name, leaf in leaves.items()}
        self._pictures = {name: pictures for name, pictures in found.items() if isinstance(pictures, Pictures)}
        others = {name: leaf for name, leaf in leaves.items() if name not in self._pictures}
        skipped = {name: str(why) for name, leaf in others.items() if (why := found[name] or why_not_read(leaf))}
        return Index(
            demos=demos,
            lengths=[len(values) for values in actions],
            action_width=int(np.prod(actions[0].shape[1:])),
            image_sizes={name: pictures.size for name, pictures in self._pictures.items()},
            conversions={name: pictures.conversion for name, pictures in self._pictures.items()},
            doubts={name: pictures.doubt for name, pictures in self._pictures.items() if pictures.doubt},
            proprioception=[name for name in others if name not in skipped],
            skipped=skipped | LAST,
            integer_actions=any(values.dtype.kind in "iub" for values in actions),
            action_space=action_space_of(self._metadata),
            env_args=environment_of(self._metadata),
        )

    def _field(self, demo: str, name: str) -> h5py.Dataset:
        return require_array(self, child(self, child(self, self._file, demo), name, demo), name, demo)

    def _leaves(self, demo: str) -> Iterator[tuple[str, h5py.Dataset]]:
        """Yield name and array of each observation; names of nested spaces are joined by dots."""
        observations = child(self, child(self, self._file, demo), "observations", demo)
        if isinstance(observations, h5py.Dataset):
            yield "observation", observations
        else:
            for path, member in leaves(self, observations, demo):
                yield ".".join(name.removeprefix("_index_") for name in path.split("/")), member

    def _pictures_of(self, name: str, leaf: h5py.Dataset) -> Pictures | str | None:
        if (found := pictures_of(name, leaf)) or not len(leaf) or not self._holds_jpeg(leaf):
            return found
        height, width, _ = decode_picture(leaf[0].tobytes()).shape
        return Pictures((height, width))

    def _holds_jpeg(self, leaf: h5py.Dataset) -> bool:
        variable = h5py.check_vlen_dtype(leaf.dtype) == np.uint8
        # If all JPEG streams happen to have the same length, Minari stores a plain matrix of bytes.
        matrix = leaf.dtype == np.uint8 and leaf.ndim == 2
        encoded = self._metadata.get("jpeg_encoding", True) and (variable or matrix)
        return bool(encoded) and leaf[0].tobytes().startswith(_JPEG)

    def _read(self, index: int, cameras: list[str], proprioception: list[str]) -> Episode:
        demo, length = self.demos[index], self.lengths[index]
        leaves = dict(self._leaves(demo))
        for name in (*cameras, *proprioception):
            if name not in leaves:
                raise self.error(f"observation {name!r} is missing; it has {sorted(leaves)}", demo)
            if len(leaves[name]) != length + 1:
                raise self.error(
                    f"observation {name!r} has {len(leaves[name])} steps, but {length} actions need {length + 1}", demo
                )
        group = child(self, self._file, demo)
        attributes = plain_attributes(group)
        success = self._success(demo, group)
        rewards = self.optional(demo, "rewards", self._field(demo, "rewards")[()]) if "rewards" in group else None
        return Episode(
            actions=self.numbers(demo, "actions", self._field(demo, "actions")[:]),
            images={camera: self._images(demo, camera, leaves[camera], length) for camera in cameras},
            proprioception={key: self.numbers(demo, key, leaves[key][:length]) for key in proprioception},
            success=success is not False,
            rewards=None if rewards is None else rewards[:, 0],
            attributes=attributes if success is None else {**attributes, "success": success},
        )

    def _images(self, demo: str, camera: str, leaf: h5py.Dataset, length: int) -> np.ndarray:
        if leaf.ndim >= 3:
            self._pictures[camera].require_layout(self, demo, camera, leaf)
            return self._pictures[camera].rgb(self, demo, camera, leaf[:length])
        return np.stack([decode_picture(stream.tobytes()) for stream in leaf[:length]])

    def _success(self, demo: str, group: h5py.Group) -> bool | None:
        infos = child(self, group, "infos", demo) if "infos" in group else {}
        for name in ("success", "is_success"):
            if name in infos:
                recorded = require_array(self, child(self, infos, name, demo), name, demo)
                return recorded_success(self, demo, f"infos/{name}", recorded[-1])
        return None


def action_space_of(metadata: Mapping[str, Any]) -> str:
    """Return gymnasium's type of the recorded action space; empty if none is recorded."""
    space = metadata.get("action_space")
    space = json.loads(space) if isinstance(space, str) else space
    return str(space.get("type", "")) if isinstance(space, dict) else ""


def environment_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded environment in robomimic's form; empty if none is recorded."""
    spec = metadata.get("env_spec")
    spec = json.loads(spec) if isinstance(spec, str) else spec
    return {"env_name": spec["id"], "type": _GYM, "env_kwargs": spec.get("kwargs", {})} if spec else {}
