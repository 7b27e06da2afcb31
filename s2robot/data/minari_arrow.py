"""Minari 0.5 in its storages `arrow` and `parquet`: one folder per episode.

```
data/metadata.json           data_format, observation_space, action_space, env_spec, jpeg_encoding, …
data/<i>/part-0.arrow        T+1 rows: observations (a struct for dictionaries and tuples), actions, rewards, infos, …
data/<i>/metadata.json       total_steps, seed, …; not read
```

Arrays are stored flat, and their shapes are in `observation_space`. The last row is padding: it holds the observation
after the last action. Pictures are JPEG streams, unless the dataset was made with `jpeg_encoding=False`. Observations
are named and pictures recognised as in Minari's HDF5 storage.

Source: `minari/dataset/_storages/arrow_storage.py` of https://github.com/Farama-Foundation/Minari (0.5.4).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from s2robot.data.base import DemonstrationDataset, Index, decode_picture
from s2robot.data.fields import recorded_success
from s2robot.data.hdf5 import LAST
from s2robot.data.kinds import why_not_vector
from s2robot.data.minari import action_space_of, environment_of
from s2robot.data.pictures import Pictures, find_pictures
from s2robot.interfaces import Episode
from s2robot.system.extras import import_extra

_FORMATS = ("arrow", "parquet")
_METADATA = "metadata.json"
_EXTRA = "parquet"


def _data_folder(path: Path) -> Path | None:
    """Return the folder that holds `metadata.json` and folders of episodes with files of Arrow or Parquet."""
    for folder in (path, path / "data"):
        if (folder / _METADATA).is_file() and any(next(folder.glob(f"[0-9]*/*.{kind}"), None) for kind in _FORMATS):
            return folder
    return None


class MinariArrowDataset(DemonstrationDataset):
    """Demonstrations in one Minari dataset (its Arrow or Parquet storage)."""

    layout = "Minari: a folder with data/metadata.json and data/<i>/*.arrow or *.parquet"

    @staticmethod
    def recognises(path: Path) -> bool:
        """Return whether this is such a folder, or the folder `data` in it."""
        return path.is_dir() and _data_folder(path) is not None

    def _files(self) -> list[Path]:
        return [file for file in (_data_folder(self.path) or self.path).rglob("*") if file.is_file()]

    def _open(self) -> None:
        self._arrow = import_extra("pyarrow.dataset", _EXTRA)
        self._folder = _data_folder(self.path) or self.path
        with self.reading(self._folder / _METADATA):
            self._metadata = dict(json.loads((self._folder / _METADATA).read_text(encoding="utf-8")))
        self._format = self._metadata.get("data_format")
        if self._format not in _FORMATS:
            raise self.error(f"{_METADATA} has data_format {self._format!r}; valid: {', '.join(_FORMATS)}")

    def close(self) -> None:
        """Do nothing: no file stays open between episodes."""

    def _read_index(self) -> Index:
        numbered = sorted(int(folder.name) for folder in self._folder.iterdir() if folder.name.isdecimal())
        demos = [f"episode_{number}" for number in numbered]
        lengths = [self._stored(demo).count_rows() - 1 for demo in demos]
        if lengths and min(lengths) < 1:
            raise self.error("has no steps", demos[int(np.argmin(lengths))])
        self._spaces = dict(self._leaves(self._space("observation_space"), ()))
        actions = self._space("action_space")
        table = self._table(demos[0]) if demos else None
        found = {name: self._recognised(name, table, where, space) for name, (where, space) in self._spaces.items()}
        self._pictures = {name: how for name, how in found.items() if isinstance(how, Pictures)}
        return Index(
            demos=demos,
            lengths=lengths,
            action_width=int(np.prod(_shape(actions))) if actions.get("type") not in ("Dict", "Tuple") else 0,
            image_sizes={name: pictures.size for name, pictures in self._pictures.items()},
            conversions={name: pictures.conversion for name, pictures in self._pictures.items()},
            doubts={name: pictures.doubt for name, pictures in self._pictures.items() if pictures.doubt},
            proprioception=[name for name, how in found.items() if how is None],
            skipped={name: how for name, how in found.items() if isinstance(how, str)} | LAST,
            integer_actions=_dtype(actions).kind in "iub",
            action_space=action_space_of(self._metadata),
            env_args=environment_of(self._metadata),
        )

    def _space(self, name: str) -> dict[str, Any]:
        space = self._metadata.get(name)
        space = json.loads(space) if isinstance(space, str) else space
        if not isinstance(space, dict):
            raise self.error(f"{_METADATA} has no {name}, which says how the arrays are shaped")
        return space

    def _leaves(
        self, space: dict[str, Any], where: tuple[str, ...]
    ) -> Iterator[tuple[str, tuple[tuple[str, ...], dict[str, Any]]]]:
        """Yield the name of each observation, its place in the struct, and its space."""
        inside = space.get("subspaces")
        if inside is None:
            yield ".".join(where) or "observation", (where, space)
            return
        named = inside.items() if isinstance(inside, dict) else ((str(i), item) for i, item in enumerate(inside))
        for key, subspace in named:
            yield from self._leaves(subspace, (*where, key))

    def _recognised(
        self, name: str, table: Any, where: tuple[str, ...], space: dict[str, Any]
    ) -> Pictures | str | None:
        """Return how an observation holds pictures, why it is not read, or None for proprioception."""
        if space.get("type") not in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"):
            return f"it is {space.get('type')}, which does not hold numbers"
        stored = _column(table, "observations", where)
        if _holds_streams(stored):
            height, width, _ = decode_picture(stored[0].as_py()).shape
            return Pictures((height, width))
        shape = (len(stored), *_shape(space))
        found = find_pictures(name, _dtype(space), shape, lambda: _values(stored, space))
        return found or why_not_vector(_dtype(space), shape)

    def _stored(self, demo: str) -> Any:
        folder = self._folder / demo.removeprefix("episode_")
        files = sorted(folder.glob(f"*.{self._format}"))
        if not files:
            raise self.error(f"has no file *.{self._format}", demo)
        with self.reading(folder, demo):
            return self._arrow.dataset([str(file) for file in files], format=self._format)

    def _table(self, demo: str) -> Any:
        with self.reading(self._folder / demo.removeprefix("episode_"), demo):
            return self._stored(demo).to_table()

    def _read(self, index: int, cameras: list[str], proprioception: list[str]) -> Episode:
        demo, length = self.demos[index], self.lengths[index]
        table = self._table(demo)
        columns = {name: _column(table, "observations", self._spaces[name][0]) for name in (*cameras, *proprioception)}
        success = self._success(demo, table)
        rewards = None
        if "rewards" in table.column_names:
            rewards = self.optional(demo, "rewards", _column(table, "rewards", ()).to_pylist()[:length])
        return Episode(
            actions=self.numbers(
                demo, "actions", _values(_column(table, "actions", ()), self._space("action_space"))[:length]
            ),
            images={name: self._images(demo, name, columns[name][:length]) for name in cameras},
            proprioception={
                key: self.numbers(demo, key, _values(columns[key], self._spaces[key][1])[:length])
                for key in proprioception
            },
            success=success is not False,
            rewards=None if rewards is None else rewards[:, 0],
            attributes={} if success is None else {"success": success},
        )

    def _images(self, demo: str, camera: str, stored: Any) -> np.ndarray:
        if _holds_streams(stored):
            return np.stack([decode_picture(stream) for stream in stored.to_pylist()])
        values = _values(stored, self._spaces[camera][1])
        self._pictures[camera].require_layout(self, demo, camera, values)
        return self._pictures[camera].rgb(self, demo, camera, values)

    def _success(self, demo: str, table: Any) -> bool | None:
        infos = table.column("infos").type if "infos" in table.column_names else []
        for name in ("success", "is_success"):
            if name in [field.name for field in infos]:
                return recorded_success(self, demo, f"infos/{name}", _column(table, "infos", (name,)).to_pylist()[-1])
        return None


def _column(table: Any, name: str, where: tuple[str, ...]) -> Any:
    """Return one array of a table; `where` is its place in a struct."""
    column = table.column(name).combine_chunks()
    for key in where:
        column = column.field(key)
    return column


def _holds_streams(stored: Any) -> bool:
    return str(stored.type) in ("binary", "large_binary")


def _values(stored: Any, space: dict[str, Any]) -> np.ndarray:
    """Return an array [T+1, …] in the shape of its space."""
    flat = stored.flatten() if hasattr(stored, "flatten") and stored.type.num_fields else stored
    values = np.asarray(flat.to_numpy(zero_copy_only=False))
    return values.reshape(len(stored), *_shape(space))


def _shape(space: dict[str, Any]) -> tuple[int, ...]:
    match space.get("type"):
        case "Box":
            return tuple(space["shape"])
        case "MultiDiscrete":
            return np.shape(space["nvec"])
        case "MultiBinary":
            return tuple(np.atleast_1d(space["n"]).tolist())
        case _:
            return ()


def _dtype(space: dict[str, Any]) -> np.dtype[Any]:
    defaults = {"Discrete": "int64", "MultiDiscrete": "int64", "MultiBinary": "int8", "Box": "float32"}
    return np.dtype(space.get("dtype", defaults.get(str(space.get("type")), "O")))
