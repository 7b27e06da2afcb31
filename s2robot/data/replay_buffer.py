"""Diffusion Policy's replay buffer: all episodes, one after another, in one zarr v2 group (a folder or a zip).

```
data/action         [N, A]; UMI's files have none
data/action_<…>     other actions [N] or [N, d], chosen by `action_key=`
data/<camera>       uint8 [N, H, W, C] or [N, C, H, W], C 1, 3 or 4; or float32 [N, H, W, 3] holding whole numbers from
                    0 to 255 (PushT)
data/<key>          [N] or [N, d] numbers; arrays with more axes are skipped
data/<group>/<key>  the same, in groups at any depth, named `<group>.<key>`
meta/episode_ends   int [episodes], index after the last step of each episode
```

Source: `diffusion_policy/common/replay_buffer.py` of https://github.com/real-stanford/diffusion_policy.
Pictures may be packed as JPEG XL or JPEG 2000 by `imagecodecs` (`image_policy` caches of Diffusion Policy, UMI).
The format records neither environment nor success. Arrays of pickled objects are refused, because unpickling runs code.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from s2robot.data.base import READ_ERRORS, DemonstrationDataset, Index
from s2robot.data.index import ActionArray, dotted
from s2robot.data.kinds import why_not_vector
from s2robot.data.pictures import Pictures, find_pictures
from s2robot.interfaces import Episode
from s2robot.system.extras import import_extra

_ACTION = "action"
_METADATA = (".zgroup", ".zattrs", ".zarray", ".zmetadata", "zarr.json")
_BLOSC_HEADER = struct.Struct("<4B3I")  # versions, flags, type size; bytes unpacked, of a block, packed
_PICKLES = {"pickle", "numcodecs.pickle"}
_IMAGE_CODEC = "imagecodecs_"  # codecs of the package `imagecodecs`: JPEG XL, JPEG 2000, …


class ReplayBufferDataset(DemonstrationDataset):
    """Demonstrations in one zarr replay buffer."""

    layout = "Diffusion Policy: a folder *.zarr or a file *.zarr.zip"
    read_errors = (*READ_ERRORS, struct.error, zlib.error, zipfile.BadZipFile)

    @staticmethod
    def recognises(path: Path) -> bool:
        """Return whether this is a zarr group, by its ending or its `.zgroup`."""
        return path.name.endswith(".zarr.zip") if path.is_file() else (path / ".zgroup").is_file()

    def _files(self) -> list[Path]:
        return [self.path] if self.path.is_file() else [file for file in self.path.rglob("*") if file.is_file()]

    def _open(self) -> None:
        images = set()
        for name, content in self._metadata():
            with self.reading(self.path / name):
                description = json.loads(content)
            codecs = _codecs(description)
            if codecs & _PICKLES:
                raise self.error(f"{name} uses the codec 'pickle', which can run code that is stored in the data")
            images |= {codec for codec in codecs if codec.startswith(_IMAGE_CODEC)}
            if name.endswith(".zarray") and self.path.is_dir():
                self._refuse_cut_chunks((self.path / name).parent, description)
        if images:
            import_extra("imagecodecs.numcodecs", "zarr-images").register_codecs(images, verbose=False)
        zarr = import_extra("zarr", "zarr")
        storage = import_extra("zarr.storage", "zarr")
        self._store: Any = (
            storage.ZipStore(self.path, mode="r")
            if self.path.is_file()
            else storage.LocalStore(self.path, read_only=True)
        )
        self._root: Any = zarr.open_group(self._store, mode="r", zarr_format=2)

    def _refuse_cut_chunks(self, array: Path, description: dict[str, Any]) -> None:
        """Compare each chunk's size with its header, because Blosc reads beyond the end of a truncated chunk.

        A zip needs no such check: the archive's checksums find truncated chunks.
        """
        if (description.get("compressor") or {}).get("id") not in ("blosc", f"{_IMAGE_CODEC}blosc"):
            return
        for chunk in array.rglob("*"):
            if chunk.name.startswith(".") or not chunk.is_file():
                continue
            with chunk.open("rb") as file:
                header = file.read(_BLOSC_HEADER.size)
            size = _BLOSC_HEADER.unpack(header)[-1] if len(header) == _BLOSC_HEADER.size else None
            if size != chunk.stat().st_size:
                name = chunk.relative_to(self.path).as_posix()
                raise self.error(f"{name} is damaged: it has {chunk.stat().st_size} bytes, its header says {size}")

    def _metadata(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of every metadata file."""
        if self.path.is_file():
            with zipfile.ZipFile(self.path) as archive:
                for name in archive.namelist():
                    if name.rpartition("/")[2] in _METADATA:
                        yield name, archive.read(name)
            return
        for path in self.path.rglob("*"):
            if path.is_symlink():  # links to folders too, which `_files` does not list
                self.refuse_escape(path)
            if path.name in _METADATA:
                yield path.relative_to(self.path).as_posix(), path.read_bytes()

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _array(self, name: str) -> Any:
        if name not in self._root:
            raise self.error(f"has no array {name!r}; it is not a replay buffer of Diffusion Policy")
        return self._root[name]

    def _read_index(self) -> Index:
        with self.reading(self.path / "meta/episode_ends"):
            ends = np.asarray(self._array("meta/episode_ends")[:])
        if ends.dtype.kind not in "iu" or ends.ndim != 1 or (np.diff(ends, prepend=0) <= 0).any():
            raise self.error(f"meta/episode_ends is {ends.tolist()[:10]}; valid: increasing positive integers")
        lengths = np.diff(ends, prepend=0)
        self._starts = (ends - lengths).tolist()
        if not len(ends):
            raise self.error("holds no demonstrations (meta/episode_ends is empty)")
        arrays = self._arrays()
        if _ACTION in arrays and arrays[_ACTION].ndim != 2:
            raise self.error(f"data/{_ACTION} has shape {list(arrays[_ACTION].shape)}; valid: [N, A]")
        odd = {
            name: f"it has shape {list(array.shape)}, but meta/episode_ends ends at {ends[-1]}"
            for name, array in arrays.items()
            if array.shape[:1] != (ends[-1],)
        }
        if _ACTION in odd:
            raise self.error(f"data/{_ACTION}: {odd[_ACTION]}")
        arrays = {name: array for name, array in arrays.items() if name not in odd}
        found = {name: self._pictures_of(name, array, lengths[0]) for name, array in arrays.items() if name != _ACTION}
        self._pictures = {name: pictures for name, pictures in found.items() if isinstance(pictures, Pictures)}
        others = {name: arrays[name] for name in found if name not in self._pictures}
        skipped = {
            name: str(why)
            for name, array in others.items()
            if (why := found[name] or why_not_vector(array.dtype, array.shape))
        }
        actions = {
            name: ActionArray(int(np.prod(array.shape[1:])), array.dtype.kind in "iub")
            for name, array in arrays.items()
            # UMI records no actions: its policies predict the poses that were recorded.
            if name.startswith(_ACTION) or _ACTION not in arrays
            if array.ndim in (1, 2) and array.dtype.kind in "fiub"
        }
        own = actions.setdefault(_ACTION, ActionArray(0, False))
        return Index(
            demos=[f"episode_{index}" for index in range(len(ends))],
            lengths=lengths.tolist(),
            action_width=own.width,
            image_sizes={name: pictures.size for name, pictures in self._pictures.items()},
            conversions={name: pictures.conversion for name, pictures in self._pictures.items()},
            doubts={name: pictures.doubt for name, pictures in self._pictures.items() if pictures.doubt},
            proprioception=sorted(name for name in others if name not in skipped),
            skipped=skipped | odd | self._hidden,
            integer_actions=own.integer,
            action_arrays={name: actions[name] for name in sorted(actions, key=lambda name: name != _ACTION)},
        )

    def _arrays(self) -> dict[str, Any]:
        """Return name -> array of all that is in `data`; an array in a group is named by its path, joined by dots."""
        if "data" not in self._root:
            raise self.error("has no group 'data'; it is not a replay buffer of Diffusion Policy")
        members = dict(self._root["data"].members(max_depth=None))
        self._paths, self._hidden = dotted(path for path, member in members.items() if hasattr(member, "shape"))
        return {name: members[path] for name, path in self._paths.items()}

    def _pictures_of(self, name: str, array: Any, length: int) -> Pictures | str | None:
        def read() -> np.ndarray:
            with self.reading(self.path / "data" / self._paths[name]):
                return np.asarray(array[:length])

        return find_pictures(name, array.dtype, array.shape, read)

    def _read(self, index: int, cameras: list[str], proprioception: list[str]) -> Episode:
        demo = self.demos[index]
        pictures = {camera: self._values(index, camera) for camera in cameras}
        return Episode(
            actions=self.numbers(demo, _ACTION, self._values(index, _ACTION)),
            images={camera: self._pictures[camera].rgb(self, demo, camera, pictures[camera]) for camera in cameras},
            proprioception={key: self.numbers(demo, key, self._values(index, key)) for key in proprioception},
        )

    def _values(self, index: int, name: str) -> np.ndarray:
        if name not in self._paths:  # no actions are recorded
            return np.zeros((self.lengths[index], 0), np.float32)
        path = f"data/{self._paths[name]}"
        with self.reading(self.path / path, self.demos[index]):
            return np.asarray(self._array(path)[self._starts[index] : self._starts[index] + self.lengths[index]])

    def read_actions(self, index: int, key: str) -> np.ndarray:
        """Return one array of actions as recorded."""
        return self._values(index, key)


def _codecs(description: Any) -> set[str]:
    """Return the names of all filters and compressors in zarr's metadata, at any depth.

    zarr itself does not always refuse `pickle`, for example as the second filter after a harmless one.
    """
    found, pending = set(), [description]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            found |= {item[key] for key in ("id", "name") if isinstance(item.get(key), str)}
            pending += item.values()
        elif isinstance(item, list):
            pending += item
    return found
