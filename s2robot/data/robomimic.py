"""robomimic's HDF5 layout, the native format (https://robomimic.github.io/docs/datasets/overview.html).

```
data                     attrs: total, env_args (JSON: env_name, type, env_version, env_kwargs, s2robot), fps
data/demo_<i>            attrs: num_samples, model_file, success, seed, renderer
data/demo_<i>/actions    float64 [T, A];  states [T, S];  rewards [T];  dones [T]
data/demo_<i>/obs/<key>  <camera>_image uint8 [T, H, W, 3] upright; others float [T, d]
mask/{train,valid}       byte strings
```

The reader also accepts

- files without `obs` (states and actions only, as robomimic hosts them),
- robosuite's own recordings, whose attributes `env`, `env_info` and `repository_version` describe the environment in
  place of `env_args`.

robomimic does not define `success`, `renderer` and `fps`. This package adds them where they are known.
"""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from textwrap import shorten
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from s2robot.data.base import RENDERER, DemonstrationDataset, Index, steps_per_second
from s2robot.data.fields import recorded_success, task_texts
from s2robot.data.hdf5 import (
    DAMAGE,
    child,
    names,
    numbered,
    plain_attributes,
    plain_value,
    read_rows,
    require_array,
    require_flat,
    why_not_read,
    write_rows,
)
from s2robot.interfaces import DatasetError, Episode, differences, unknown_name
from s2robot.system.files import claimed, sync_and_rename, write_durably

_IMAGE = "_image"


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
        observations = self._item(demos[0], "obs") if self._has_observations else {}
        keys = names(observations)
        images = {key: self._image_shape(demos[0], key) for key in keys if key.endswith(_IMAGE)}
        others = {key: child(self, observations, key, demos[0]) for key in keys if key not in images}
        skipped = {key: why for key, member in others.items() if (why := why_not_read(member))}
        return Index(
            demos=demos,
            lengths=[len(values) for values in actions],
            action_width=int(actions[0].shape[1]),
            image_sizes={key.removesuffix(_IMAGE): size for key, size in images.items()},
            proprioception=[key for key in others if key not in skipped],
            skipped=skipped,
            integer_actions=any(values.dtype.kind in "iub" for values in actions),
            env_args=self._read_env_args(data),
            fps=plain_value(data.attrs.get("fps")),
        )

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

    def _image_shape(self, demo: str, key: str) -> tuple[int, int]:
        images = require_array(self, child(self, self._item(demo, "obs"), key, demo), f"obs/{key}", demo)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise self.error(f"obs/{key} is {images.dtype} {images.shape}; valid: uint8 [T, H, W, 3]", demo)
        return int(images.shape[1]), int(images.shape[2])

    def _read(self, index: int, cameras: list[str], proprioception: list[str]) -> Episode:
        demo = self.demos[index]
        group = self._demo(demo)
        observations = self._item(demo, "obs") if self._has_observations else {}
        for camera in cameras:
            if camera + _IMAGE not in observations:
                present = [key.removesuffix(_IMAGE) for key in names(observations) if key.endswith(_IMAGE)]
                raise self.error(unknown_name("camera", camera, present), demo)
            self._image_shape(demo, camera + _IMAGE)
        for key in proprioception:
            if key not in observations:
                raise self.error(f"observation {key!r} is missing", demo)
        low_dim = {key: require_array(self, child(self, observations, key, demo), key, demo) for key in proprioception}
        attributes = plain_attributes(group)
        if "tasks" in attributes:
            attributes["tasks"] = task_texts(attributes["tasks"])
        if "success" in attributes:
            attributes["success"] = recorded_success(self, demo, "success", attributes["success"])
        return Episode(
            actions=self.numbers(demo, "actions", self._actions(demo)[:]),
            images={camera: _rows(child(self, observations, camera + _IMAGE, demo)) for camera in cameras},
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
            images = require_array(self, child(self, self._item(demo, "obs"), camera + _IMAGE, demo), camera, demo)
            self._check_images(demo, self.lengths[index], camera, images)
            read_rows(images, first, out)
        except self.read_errors as error:
            raise self.error(f"cannot be read (truncated?): {type(error).__name__}: {error}", demo) from error

    def _optional(self, demo: str, key: str, dtype: type, vector: bool = False) -> np.ndarray | None:
        if key not in self._demo(demo):
            return None
        values = self.optional(demo, key, require_array(self, self._item(demo, key), key, demo)[()], dtype)
        return values[:, 0] if values is not None and vector and values.shape[1] == 1 else values


class RobomimicWriter:
    """Write demonstrations one by one; `close` joins them to one file, which never exists unfinished.

    Until then, finished demonstrations are in a folder `<file>.parts`. A writer that is opened again for the same file
    and environment continues after them. Use the writer as a context manager: an exception inside the block keeps the
    parts.

    Args:
        path: the file to write.
        env_args: environment description, JSON-able.
        origin: anything else that determines the demonstrations, such as the fingerprint of the dataset they are copied
            from. Parts written with another description or origin are discarded.
        fps: steps per second; recorded only if they do not follow from `env_args`.

    Attributes:
        count: number of demonstrations written so far, including those of an interrupted run.
        attributes: attributes of the last demonstration; empty before the first.

    Raises:
        DatasetError: another process is writing the same file.
    """

    def __init__(
        self, path: str | Path, env_args: dict[str, Any], origin: str = "", *, fps: float | None = None
    ) -> None:
        self.path = Path(path)
        self._env_args = json.dumps(env_args)
        self._fps = None if fps == steps_per_second(env_args) else fps
        self._parts = self.path.with_name(self.path.name + ".parts")
        self._parts.mkdir(parents=True, exist_ok=True)
        self._claim = ExitStack()
        refusal = DatasetError(f"{str(path)!r} is being written by another process; wait for it or choose another name")
        self._claim.enter_context(claimed(self._parts / "writer", refusal))
        identity, described = self._parts / "identity.json", json.dumps([env_args, origin])
        found = identity.read_text(encoding="utf-8") if identity.exists() else ""
        if found != described:
            self._discard(found, described)
            write_durably(identity, described.encode())
        self.count = 0
        self.attributes: dict[str, Any] = {}
        while self._part(self.count).exists():
            self.count += 1
        if self.count:
            with h5py.File(self._part(self.count - 1), "r") as file:
                self.attributes = plain_attributes(file["demo"])
        self._goes_on = self.count > 0

    def _discard(self, found: str, described: str) -> None:
        """Delete the parts that were written with another description or origin, and print why."""
        parts = list(self._parts.glob("demo_*"))
        for part in parts:
            part.unlink()
        if parts:
            print(
                f"{str(self.path)!r}: {len(parts)} demonstrations of an interrupted run are discarded, "
                f"because they were written with other settings: {_changes(found, described)}",
                file=sys.stderr,
            )

    def __enter__(self) -> RobomimicWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._claim:
            if kind is None:
                self.close()
            elif not self.count:  # no demonstration to continue from
                shutil.rmtree(self._parts)

    def _part(self, index: int) -> Path:
        return self._parts / f"demo_{index}.hdf5"

    def add(self, episode: Episode) -> None:
        """Append one episode; images are compressed without loss, one chunk per frame."""
        require_flat([*episode.images, *episode.proprioception])
        if self._goes_on:
            self._compare_renderers(self.attributes.get(RENDERER), episode.attributes.get(RENDERER))
            self._goes_on = False
        part = self._part(self.count)
        partial = part.with_suffix(".partial")
        with h5py.File(partial, "w") as file:
            _write_episode(file.create_group("demo"), episode)
        sync_and_rename(partial, part)
        self.count += 1
        self.attributes = episode.attributes

    def _compare_renderers(self, former: str | None, now: str | None) -> None:
        if None not in (former, now) and former != now:
            print(
                f"{str(self.path)!r}: the demonstrations of an interrupted run were rendered by {former}, "
                f"the following ones by {now}; pixels may differ, mostly by up to 2 of 255; each demonstration records "
                "its own renderer",
                file=sys.stderr,
            )

    def close(self, validation_fraction: float = 0.1) -> None:
        """Join the parts, add totals and train/valid masks, and rename the file once it is on disk."""
        partial = self.path.with_name(self.path.name + ".partial")
        names = [f"demo_{index}" for index in range(self.count)]
        with h5py.File(partial, "w") as file:
            data = file.create_group("data")
            data.attrs["env_args"] = self._env_args
            if self._fps is not None:
                data.attrs["fps"] = self._fps
            for index, name in enumerate(names):
                with h5py.File(self._part(index), "r") as part:
                    part.copy("demo", data, name)  # copies compressed chunks without recompressing them
            data.attrs["total"] = sum(int(data[name].attrs["num_samples"]) for name in names)
            held_out = round(len(names) * validation_fraction)
            mask = file.create_group("mask")
            mask["train"] = np.array(names[: len(names) - held_out], dtype="S")
            mask["valid"] = np.array(names[len(names) - held_out :], dtype="S")
        sync_and_rename(partial, self.path)
        shutil.rmtree(self._parts)


def _changes(found: str, described: str) -> str:
    """Describe how two contents of `identity.json` differ."""
    try:
        former, now = (dict(zip(("env_args", "origin"), json.loads(text), strict=True)) for text in (found, described))
    except (ValueError, TypeError):
        return "the old settings are not recorded"
    shown = [f"{name} is {new!r}, was {old!r}" for name, old, new in differences(former, now)]
    return "; ".join(shorten(text, 120) for text in shown[:4]) + ("; …" if len(shown) > 4 else "")


def _rows(source: h5py.Dataset) -> np.ndarray:
    rows = np.empty(source.shape, source.dtype)
    read_rows(source, 0, rows)
    return rows


def _write_episode(group: h5py.Group, episode: Episode) -> None:
    length = len(episode)
    for key, value in episode.attributes.items():
        if key != "success":
            group.attrs[key] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
    group.attrs["num_samples"] = length
    # Without the attribute, success was assumed because the source does not record it: do not store an assumption.
    if "success" in episode.attributes or not episode.success:
        group.attrs["success"] = bool(episode.success)
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
        write_rows(observations, camera + _IMAGE, images)
