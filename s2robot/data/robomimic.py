"""robomimic's HDF5 layout, the native format (https://robomimic.github.io/docs/datasets/overview.html).

```
data                     attrs: total, env_args (JSON: env_name, type, env_version, env_kwargs, s2robot), fps
data/demo_<i>            attrs: num_samples, model_file, success, seed, renderer
data/demo_<i>/actions    float64 [T, A];  states [T, S];  rewards [T];  dones [T]
data/demo_<i>/actions_<…>, data/demo_<i>/action_dict/<name>  other actions [T] or [T, d], chosen by `action_key=`
data/demo_<i>/obs/<key>  <camera>_image uint8 [T, H, W, 3] upright; others float [T, d]
mask/<filter key>        names of demonstrations as byte strings; ours: train, valid
```

The reader also accepts

- files without `obs` (states and actions only, as robomimic hosts them),
- robosuite's own recordings, whose attributes `env`, `env_info` and `repository_version` describe the environment in
  place of `env_args`,
- groups of observations at any depth: `obs/images/front` is the observation `images.front`,
- LIBERO's demonstrations (`s2robot.data.libero`),
- pictures under any key and in the layouts of `kinds.picture_size`; those that the attribute `macros_image_convention`
  of LIBERO calls `opengl` (stored from the bottom row up) are turned upright.

robomimic does not define `success`, `renderer` and `fps`. This package adds them where they are known.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from s2robot.data import libero
from s2robot.data.base import DemonstrationDataset, Index
from s2robot.data.fields import recorded_success, spoken_task, task_texts
from s2robot.data.hdf5 import (
    DAMAGE,
    child,
    leaf,
    leaves,
    names,
    numbered,
    pictures_of,
    plain_attributes,
    plain_value,
    read_rows,
    require_array,
    why_not_read,
)
from s2robot.data.index import ActionArray, dotted
from s2robot.data.kinds import LIKE_PICTURES
from s2robot.data.pictures import Pictures
from s2robot.data.robomimic_writer import IMAGE_ENDING
from s2robot.data.robomimic_writer import RobomimicWriter as RobomimicWriter
from s2robot.interfaces import DatasetError, Episode, unknown_name

_ACTIONS = "actions"


class RobomimicDataset(DemonstrationDataset):
    """Demonstrations in one robomimic HDF5 file, recorded by robosuite 1.4 or 1.5."""

    layout = "robomimic: a file *.hdf5 or *.h5"
    read_errors = DAMAGE

    @staticmethod
    def recognises(path: Path) -> bool:
        """Return whether this is a file *.hdf5 or *.h5."""
        return path.is_file() and path.suffix in (".hdf5", ".h5")

    def _files(self) -> list[Path]:
        return [self.path]

    def _open(self) -> None:
        self._file = h5py.File(self.path, "r")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_index(self) -> Index:
        data = child(self, self._file, "data") if "data" in self._file else None
        if not isinstance(data, h5py.Group):
            raise self.error("has no group 'data'; it is not a robomimic file")
        demos = numbered(data, "demo_")
        if not demos:
            raise self.error("holds no demonstrations (no group data/demo_<i>)")
        actions = [self._actions(demo) for demo in demos]
        self._has_observations = "obs" in self._demo(demos[0])
        observations = self._observations(demos[0]) if self._has_observations else {}
        stored = dict(leaves(self, observations, demos[0])) if isinstance(observations, h5py.Group) else observations
        self._paths, skipped = dotted(stored)
        members = {name: stored[path] for name, path in self._paths.items()}
        found = {key: pictures_of(key, member) for key, member in members.items()}
        images = {key: pictures for key, pictures in found.items() if isinstance(pictures, Pictures)}
        skipped |= {key: why for key, why in found.items() if isinstance(why, str)}
        # A key with the ending gives the camera its name, even if a key without it is the same name.
        ordered = sorted(images, key=lambda key: key.endswith(IMAGE_ENDING))
        self._image_keys = {key.removesuffix(IMAGE_ENDING): key for key in ordered}
        self._pictures = {camera: images[key] for camera, key in self._image_keys.items()}
        attributes = plain_attributes(data)
        self._upside_down = attributes.get("macros_image_convention") == "opengl"
        self._language = libero.language(attributes)
        others = {key: member for key, member in members.items() if key not in images}
        skipped |= {key: why for key, member in others.items() if key not in skipped and (why := why_not_read(member))}
        hidden = set(images) - set(self._image_keys.values())
        skipped |= {key: f"{key + IMAGE_ENDING!r} {LIKE_PICTURES} of the same camera" for key in hidden}
        groups = [key for key in ("rewards", "states") if isinstance(self._demo(demos[0]).get(key), h5py.Group)]
        skipped |= dict.fromkeys(groups, "it is a group; only an array is read")
        return Index(
            demos=demos,
            lengths=[len(values) for values in actions],
            action_width=int(actions[0].shape[1]),
            image_sizes={camera: pictures.size for camera, pictures in self._pictures.items()},
            conversions={camera: pictures.conversion for camera, pictures in self._pictures.items()},
            doubts={camera: pictures.doubt for camera, pictures in self._pictures.items() if pictures.doubt},
            proprioception=[key for key in others if key not in skipped],
            skipped=skipped,
            integer_actions=any(values.dtype.kind in "iub" for values in actions),
            env_args=libero.with_environment(self._read_env_args(data), attributes),
            fps=plain_value(data.attrs.get("fps")),
            action_arrays=self._action_arrays(demos[0]),
        )

    def filter_keys(self) -> dict[str, list[str]]:
        """Return robomimic's filter keys, the lists under `mask/`."""
        if "mask" not in self._file:
            return {}
        masks = child(self, self._file, "mask")
        if not isinstance(masks, h5py.Group):
            raise self.error("'mask' is an array; valid: a group of filter keys")
        return {key: self._filter_key(masks, key) for key in names(masks)}

    def _filter_key(self, masks: h5py.Group, key: str) -> list[str]:
        stored = require_array(self, child(self, masks, key), f"mask/{key}")
        if stored.ndim != 1 or stored.dtype.kind not in "SO":
            raise self.error(f"mask/{key} is {stored.dtype} {stored.shape}; valid: names of demonstrations")
        return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in stored[:]]

    def _read_env_args(self, data: h5py.Group) -> dict[str, Any]:
        name = "env_args" if "env_args" in data.attrs else "env_info"
        try:
            described = json.loads(data.attrs.get(name, "{}"))
        except (TypeError, json.JSONDecodeError) as error:
            raise self.error(f"attribute {name} is not JSON: {error}") from error
        if not isinstance(described, dict):
            raise self.error(f"attribute {name} is {type(described).__name__}; valid: a JSON object")
        if name == "env_args":
            return described
        robosuite = {"env_name": "env", "env_version": "repository_version"}
        found = {key: str(data.attrs[attribute]) for key, attribute in robosuite.items() if attribute in data.attrs}
        return {**found, "type": 1, "env_kwargs": described} if found else {}

    def _demo(self, demo: str) -> h5py.Group:
        return child(self, self._file["data"], demo)

    def _item(self, demo: str, key: str) -> Any:
        group = self._demo(demo)
        if key not in group:
            raise self.error(f"field {key!r} is missing; it has {names(group)}", demo)
        return child(self, group, key, demo)

    def _actions(self, demo: str) -> h5py.Dataset:
        actions = require_array(self, self._item(demo, "actions"), "actions", demo)
        if actions.ndim != 2 or 0 in actions.shape:
            raise self.error(f"'actions' has shape {actions.shape}; valid: [T, A], not empty", demo)
        return actions

    def _observations(self, demo: str) -> Any:
        """Return the group of observations; Isaac Lab may record one array instead, which is then named `obs`."""
        observations = self._item(demo, "obs")
        return {"obs": observations} if isinstance(observations, h5py.Dataset) else observations

    def _action_arrays(self, demo: str) -> dict[str, ActionArray]:
        """Return a demonstration's arrays of actions: `actions`, and others such as `action_dict/abs_pos`."""
        found = {}
        named = [name for name in names(self._demo(demo)) if name.startswith("action")]
        for name in sorted(named, key=lambda name: name != _ACTIONS):
            for key in self._action_keys(demo, name):
                with suppress(DatasetError):
                    array = self._action_array(demo, key)
                    if array.ndim in (1, 2) and array.dtype.kind in "fiub":
                        found[key] = ActionArray(int(np.prod(array.shape[1:])), array.dtype.kind in "iub")
        return found

    def _action_keys(self, demo: str, name: str) -> list[str]:
        try:
            member = self._item(demo, name)
        except DatasetError:  # one that cannot be read matters only where it is chosen
            return []
        return [f"{name}/{part}" for part in names(member)] if isinstance(member, h5py.Group) else [name]

    def _action_array(self, demo: str, key: str) -> h5py.Dataset:
        name, _, part = key.partition("/")
        member = self._item(demo, name)
        return require_array(self, child(self, member, part, demo) if part else member, key, demo)

    def read_actions(self, index: int, key: str) -> np.ndarray:
        """Return one array of actions as recorded."""
        return self._action_array(self.demos[index], key)[()]

    def _images(self, demo: str, camera: str) -> h5py.Dataset:
        key, observations = self._image_keys[camera], self._observations(demo)
        if self._paths[key] not in observations:
            present = [camera for camera, key in self._image_keys.items() if self._paths[key] in observations]
            raise self.error(unknown_name("camera", camera, present), demo)
        images = leaf(self, observations, self._paths[key], demo)
        self._pictures[camera].require_layout(self, demo, f"obs/{self._paths[key]}", images)
        return images

    def _upright(self, demo: str, camera: str, images: h5py.Dataset) -> np.ndarray:
        pictures = self._pictures[camera].rgb(self, demo, camera, _rows(images))
        return np.ascontiguousarray(pictures[:, ::-1]) if self._upside_down else pictures

    def _read(self, index: int, cameras: list[str], proprioception: list[str]) -> Episode:
        demo = self.demos[index]
        group = self._demo(demo)
        observations = self._observations(demo) if self._has_observations else {}
        pictures = {camera: self._images(demo, camera) for camera in cameras}
        for key in proprioception:
            if self._paths[key] not in observations:
                raise self.error(f"observation {key!r} is missing", demo)
        low_dim = {key: leaf(self, observations, self._paths[key], demo) for key in proprioception}
        attributes = plain_attributes(group)
        if "tasks" in attributes:
            attributes["tasks"] = task_texts(attributes["tasks"])
        elif text := spoken_task(attributes.get("ep_meta")) or self._language:
            attributes["tasks"] = [text]
        if "success" in attributes:
            attributes["success"] = recorded_success(self, demo, "success", attributes["success"])
        return Episode(
            actions=self.numbers(demo, "actions", self._actions(demo)[:]),
            images={camera: self._upright(demo, camera, images) for camera, images in pictures.items()},
            proprioception={key: self.numbers(demo, f"obs/{key}", values[:]) for key, values in low_dim.items()},
            success=attributes.get("success", True),
            rewards=self._optional(demo, "rewards", np.float32, vector=True),
            states=self._optional(demo, "states", np.float64),
            model_file=attributes.pop("model_file", None),
            attributes=attributes,
        )

    def read_images(self, index: int, camera: str, first: int, out: np.ndarray) -> None:
        """Fill `out` with some frames of a demonstration, read directly from the file."""
        demo = self.demos[index]
        self.select_cameras([camera])
        try:
            images = self._images(demo, camera)
            plain = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
            if self._upside_down or not plain:  # the whole episode is read and turned once
                super().read_images(index, camera, first, out)
                return
            self._check_images(demo, self.lengths[index], camera, images)
            read_rows(images, first, out)
        except self.read_errors as error:
            raise self.error(f"cannot be read (truncated?): {type(error).__name__}: {error}", demo) from error

    def _optional(self, demo: str, key: str, dtype: type, vector: bool = False) -> np.ndarray | None:
        if key not in self._demo(demo):
            return None
        stored = self._item(demo, key)
        if isinstance(stored, h5py.Group):
            if key not in self.skipped:
                self.unread[demo, key] = f"{key!r} is a group; only an array is read"
            return None
        values = self.optional(demo, key, require_array(self, stored, key, demo)[()], dtype)
        return values[:, 0] if values is not None and vector and values.shape[1] == 1 else values


def _rows(source: h5py.Dataset) -> np.ndarray:
    rows = np.empty(source.shape, source.dtype)
    read_rows(source, 0, rows)
    return rows
