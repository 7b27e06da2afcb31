"""Write robomimic's HDF5 layout, which `s2robot.data.robomimic` describes."""

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

from s2robot.data.base import RENDERER, steps_per_second
from s2robot.data.hdf5 import plain_attributes, require_flat, write_rows
from s2robot.interfaces import DatasetError, Episode, differences
from s2robot.system.files import claimed, sync_and_rename, write_durably

IMAGE_ENDING = "_image"  # of the keys of cameras


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
        filter_keys: further lists to store under `mask/`, key -> positions; `train` or `valid` replace our split.

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
        self.filter_keys: dict[str, list[int]] = {}
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
            mask = file.create_group("mask")
            for key, listed in self._masks(validation_fraction).items():
                mask[key] = np.array([names[place] for place in listed], dtype="S")
        sync_and_rename(partial, self.path)
        shutil.rmtree(self._parts)

    def _masks(self, validation_fraction: float) -> dict[str, list[int]]:
        if {"train", "valid"} & self.filter_keys.keys():
            return self.filter_keys
        held_out = round(self.count * validation_fraction)
        places = list(range(self.count))
        split = {"train": places[: self.count - held_out], "valid": places[self.count - held_out :]}
        return {**split, **self.filter_keys}


def _changes(found: str, described: str) -> str:
    """Describe how two contents of `identity.json` differ."""
    try:
        former, now = (dict(zip(("env_args", "origin"), json.loads(text), strict=True)) for text in (found, described))
    except (ValueError, TypeError):
        return "the old settings are not recorded"
    shown = [f"{name} is {new!r}, was {old!r}" for name, old, new in differences(former, now)]
    return "; ".join(shorten(text, 120) for text in shown[:4]) + ("; …" if len(shown) > 4 else "")


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
    for key, values in episode.other_actions.items():
        group[key] = values
    if episode.states is not None:
        group["states"] = episode.states
    if episode.rewards is not None:
        group["rewards"] = episode.rewards
    group["dones"] = np.arange(length) == length - 1
    observations = group.create_group("obs")
    for key, values in episode.proprioception.items():
        observations[key] = values
    for camera, images in episode.images.items():
        write_rows(observations, camera + IMAGE_ENDING, images)
