"""The base class of all dataset readers, and the checks that all formats share."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from s2robot.data.files import READ_ERRORS as READ_ERRORS
from s2robot.data.files import decode_picture as decode_picture
from s2robot.data.files import described, hash_files
from s2robot.data.index import Index as Index
from s2robot.data.index import steps_per_second as steps_per_second
from s2robot.data.kinds import LIKE_PICTURES, why_left_out
from s2robot.interfaces import DatasetError, Episode, unknown_name

RENDERER = "renderer"  # attribute of a demonstration: OpenGL's renderer and version that drew its images


class DemonstrationDataset(ABC):
    """Read-only view of recorded demonstrations; holds at most one episode in memory.

    Each format is one subclass, which opens the files, reads an `Index` and reads one episode. Selection, validation
    and hashing are done here. Use a dataset as a context manager, or call `close`.

    Attributes:
        path: the file or folder.
        demos: name of each demonstration, in recorded order.
        lengths: number of steps of each demonstration.
        action_width: width A of an action.
        cameras: names of the cameras with recorded images.
        proprioception: the other observation keys, [T] or [T, d].
        skipped: observation -> why it is not read.
        conversions: camera -> what is done to its stored numbers, in words; cameras with RGB bytes are not in it.
        unread: (demonstration, `states` or `rewards`) -> why it is not read; grows as episodes are read.
        integer_actions, action_space, action_arrays: see `Index`.
        action_keys: arrays that actions are read from, one beside the other; empty for the format's own.
        env_args: the recorded environment description; empty if the format has none.
        fps: steps per second; None if neither the format nor `env_args` records them.
        package: installed package that brings the format, with its version; None for the formats of s2robot.

    Raises:
        DatasetError: the files are missing, damaged, of another kind, or outside the dataset's folder.
    """

    layout: ClassVar[str]  # how people recognise the format; error texts list it
    # Exceptions that the format's library raises for damaged files.
    read_errors: ClassVar[tuple[type[Exception], ...]] = READ_ERRORS

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.package: str | None = None
        self._fingerprint: str | None = None
        self._held: tuple[int, str, np.ndarray] | None = None
        try:
            for file in self._files():
                self.refuse_escape(file)
            self._open()
        except self.read_errors as error:
            raise self.error(f"cannot be read (truncated or another kind of file): {described(error)}") from error
        try:
            index = self._read_index()
            if not index.demos:
                raise self.error("holds no demonstrations")
        except self.read_errors as error:
            self.close()
            raise self.error(f"cannot be read (truncated or another kind of file): {described(error)}") from error
        except BaseException:
            self.close()
            raise
        self.demos, self.lengths, self.action_width = index.demos, index.lengths, index.action_width
        self.cameras, self.proprioception = sorted(index.image_sizes.keys() - index.doubts), index.proprioception
        self.skipped = index.skipped | index.doubts
        self.conversions = {camera: words for camera, words in index.conversions.items() if words}
        self.integer_actions, self.action_space = index.integer_actions, index.action_space
        self.action_arrays, self.action_keys = index.action_arrays, list[str]()
        self.unread: dict[tuple[str, str], str] = {}
        self.env_args, self.fps = index.env_args, steps_per_second(index.env_args, index.fps)
        self._image_sizes = index.image_sizes

    # What a format provides -----------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def recognises(path: Path) -> bool:
        """Return whether an existing file or folder looks like this format, by its name or the names inside it."""

    @abstractmethod
    def _files(self) -> list[Path]:
        """Return every file of the dataset; the fingerprint covers exactly these."""

    @abstractmethod
    def _open(self) -> None:
        """Open the files for reading."""

    @abstractmethod
    def _read_index(self) -> Index: ...

    @abstractmethod
    def _read(self, index: int, cameras: list[str], proprioception: list[str]) -> Episode:
        """Read one episode as recorded; the caller validates it."""

    def read_actions(self, index: int, key: str) -> Any:
        """Return one of the arrays that `action_arrays` names, of one episode, as recorded and unchecked."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Close the files; closing twice is harmless."""

    def filter_keys(self) -> dict[str, list[str]]:
        """Return name -> demonstrations that it lists: robomimic's filter keys, LeRobot's splits; names as stored."""
        return {}

    # ----------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.demos)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def error(self, message: str, demo: str | None = None) -> DatasetError:
        """Make an error that names the dataset, and `demo` if given."""
        where = f"dataset {str(self.path)!r}" + (f", {demo}" if demo else "")
        return DatasetError(f"{where}: {message}")

    @contextlib.contextmanager
    def reading(self, file: Path, demo: str | None = None) -> Iterator[None]:
        """Inside this block, turn read errors into an error that names `file`, one of several files of the dataset.

        Raises:
            DatasetError: one of `read_errors` was raised.
        """
        try:
            yield
        except self.read_errors as error:
            name = file.relative_to(self.path).as_posix() if file.is_relative_to(self.path) else file.name
            raise self.error(
                f"{name} cannot be read (truncated or another kind of file): {described(error)}", demo
            ) from error

    def refuse_escape(self, file: Path) -> None:
        """Check that a file is inside the dataset's folder after links and `..` are resolved.

        Raises:
            DatasetError: it is outside; the message names the file and its target.
        """
        folder = self.path if self.path.is_dir() else self.path.parent
        if not file.resolve().is_relative_to(folder.resolve()):
            raise self.error(
                f"{file.name!r} leads to {str(file.resolve())!r}, outside the dataset's folder; give the real path or "
                "a copy"
            )

    def select_cameras(self, wanted: list[str] | None) -> list[str]:
        """Return `wanted`, or all cameras if None; an unknown camera raises `DatasetError` with the choices."""
        cameras = self._select_cameras(wanted)
        alike = [f"{name!r}: {why}" for name, why in self.skipped.items() if LIKE_PICTURES in why]
        if not cameras and wanted is None and alike:
            raise self.error(f"has no camera images that can be read ({'; '.join(alike)})")
        if not cameras:
            states = self.episode(0, cameras=[], proprioception=[]).states
            way = (
                "`s2robot render` makes them from recorded states" if states is not None else "it has no states either"
            )
            raise self.error(f"has no camera images; {way}")
        return cameras

    def left_out(self) -> dict[str, str]:
        """Return what a policy does not see unless it is asked for: key or skipped observation -> why."""
        told = {key: why for key in self.proprioception if (why := why_left_out(key))}
        return {**told, **self.skipped}

    def seen_by_default(self) -> list[str]:
        """Return the keys of proprioception that a policy sees if none are asked for."""
        return [key for key in self.proprioception if not why_left_out(key)]

    def select_proprioception(self, wanted: list[str] | None) -> list[str]:
        """Return `wanted`, or all keys if None; an unknown key raises `DatasetError` with the choices."""
        return self._select("proprioception key", wanted, self.proprioception)

    def _select_cameras(self, wanted: list[str] | None) -> list[str]:
        return self._select("camera", wanted, self.cameras if wanted is None else sorted(self._image_sizes))

    def _select(self, kind: str, wanted: list[str] | None, available: list[str]) -> list[str]:
        if isinstance(wanted, str):  # a string is iterable too: each letter would be taken as a name
            raise self.error(f"{wanted!r} is not a list of {kind}s; write ({wanted!r},)")
        for name in wanted or []:
            if name not in available and name in self.skipped:
                raise self.error(f"{name!r} cannot be a {kind}: {self.skipped[name]}")
            if name not in available:
                raise self.error(unknown_name(kind, name, available))
        return list(wanted) if wanted is not None else list(available)

    def image_size(self, camera: str) -> tuple[int, int]:
        """Return height and width in pixels of `camera`'s recorded images."""
        self.select_cameras([camera])
        return self._image_sizes[camera]

    def identity_of(self, camera: str) -> dict[str, Any]:
        """Return what tells a camera's frames from others of the same files; part of the feature cache's key."""
        return {"camera": camera}

    def episode(self, index: int, cameras: list[str] | None = None, proprioception: list[str] | None = None) -> Episode:
        """Read one demonstration.

        Args:
            index: index of the demonstration, 0 … len-1.
            cameras: cameras whose images are read; `[]` for none (fast), None for all.
            proprioception: keys of the other observations that are read; None for all.

        Raises:
            DatasetError: a field is missing, of the wrong type, of another length, or not finite; the message names
                file, episode and field.
        """
        cameras = self._select_cameras(cameras)
        keys = self.select_proprioception(proprioception)
        demo = self.demos[index]
        try:
            episode = self._read(index, cameras, keys)
            if self.action_keys:
                parts = [self._chosen_actions(index, key) for key in self.action_keys]
                episode = replace(episode, actions=np.concatenate(parts, axis=1))
        except self.read_errors as error:
            raise self.error(f"cannot be read (truncated?): {described(error)}", demo) from error
        episode = self._without_faults(demo, self.lengths[index], episode)
        self._check(demo, self.lengths[index], episode)
        return episode

    def choose_actions(self, keys: list[str]) -> None:
        """Read actions from other recorded arrays from now on: those of `keys`, one beside the other.

        Raises:
            DatasetError: the dataset has no such array; the message lists its arrays.
        """
        keys = self._select("array of actions", keys, list(self.action_arrays))
        self.action_keys, self.action_space = keys, ""
        self.action_width = sum(self.action_arrays[key].width for key in keys)
        self.integer_actions = any(self.action_arrays[key].integer for key in keys)

    def _chosen_actions(self, index: int, key: str) -> np.ndarray:
        """Return one array of `action_keys`, float32 [T, d], checked as the format's own actions are."""
        demo, width = self.demos[index], self.action_arrays[key].width
        values = self.numbers(demo, key, self.read_actions(index, key))
        if values.shape != (self.lengths[index], width):
            raise self.error(f"{key!r} has shape {values.shape}; valid: {(self.lengths[index], width)}", demo)
        return values

    def read_images(self, index: int, camera: str, first: int, out: np.ndarray) -> None:
        """Fill `out`, uint8 [n, H, W, 3], with a demonstration's frames `first` … `first` + n - 1.

        Meant for reading in order, a few frames at a time: a format that cannot read single frames reads the whole
        episode once and keeps it for the next call.

        Raises:
            DatasetError: as `episode`.
        """
        if self._held is None or self._held[:2] != (index, camera):
            self._held = index, camera, self.episode(index, cameras=[camera], proprioception=[]).images[camera]
        out[:] = self._held[2][first : first + len(out)]

    def _without_faults(self, demo: str, length: int, episode: Episode) -> Episode:
        """Leave out rewards and states that are not sound: training does not need them. `unread` names them."""
        sound: dict[str, Any] = {"rewards": episode.rewards, "states": episode.states}
        for name, values in sound.items():
            if values is None:
                continue
            if len(values) != length:
                self.unread[demo, name] = f"{name!r} has {len(values)} steps, but the episode has {length}"
            elif not np.isfinite(values).all():
                self.unread[demo, name] = f"{name!r} is not finite at step {_first_not_finite(values)}"
            if (demo, name) in self.unread:
                sound[name] = None
        return replace(episode, **sound)

    def _check(self, demo: str, length: int, episode: Episode) -> None:
        numbers = {"actions": episode.actions}
        numbers |= {f"obs/{key}": values for key, values in episode.proprioception.items()}
        images = {f"images of {camera}": values for camera, values in episode.images.items()}
        for name, values in [*numbers.items(), *images.items()]:
            if len(values) != length:
                raise self.error(f"{name!r} has {len(values)} steps, but the episode has {length}", demo)
        for name, values in numbers.items():
            if not np.isfinite(values).all():
                raise self.error(f"{name!r} is not finite at step {_first_not_finite(values)}", demo)
        if episode.actions.shape[1:] != (self.action_width,):
            raise self.error(
                f"'actions' has shape {episode.actions.shape}, but the actions of {self.demos[0]} have width "
                f"{self.action_width}",
                demo,
            )
        for camera, values in episode.images.items():
            self._check_images(demo, length, camera, values)

    def _check_images(self, demo: str, length: int, camera: str, values: Any) -> None:
        expected = (length, *self._image_sizes[camera], 3)
        if values.dtype != np.uint8 or values.shape != expected:
            raise self.error(f"images of {camera} are {values.dtype} {values.shape}; valid: uint8 {expected}", demo)

    def numbers(self, demo: str, name: str, values: Any, dtype: type = np.float32) -> np.ndarray:
        """Return an array of any numeric type as `dtype` [T, d]: trailing axes are flattened, [T] becomes [T, 1].

        Raises:
            DatasetError: the array does not hold numbers.
        """
        array = np.asarray(values)
        if array.dtype.kind not in "fiub" or array.ndim == 0:
            raise self.error(f"{name!r} is {array.dtype} {array.shape}; valid: numbers [T, …]", demo)
        with np.errstate(over="ignore"):  # too large numbers become infinite, which `_check` reports by name
            return array.reshape(len(array), -1 if array.size else 0).astype(dtype)

    def optional(self, demo: str, name: str, values: Any, dtype: type = np.float32) -> np.ndarray | None:
        """Return `numbers`, or None for `rewards` or `states` of another type; `unread` then says so."""
        try:
            return self.numbers(demo, name, values, dtype)
        except DatasetError as error:
            self.unread[demo, name] = str(error).removeprefix(str(self.error("", demo)))
            return None

    def fingerprint(self) -> str:
        """Return the sha256 of the names and bytes of all files; a single file counts by its bytes alone.

        The version of another package's reader is part of it, because it may read other frames from the same bytes.
        """
        if self._fingerprint is None:
            self._fingerprint = hash_files(self.path, self._files())
        if self.package is None:
            return self._fingerprint
        return hashlib.sha256(f"{self.package} {self._fingerprint}".encode()).hexdigest()


def _first_not_finite(values: np.ndarray) -> int:
    return int(np.argwhere(~np.isfinite(values))[0, 0])
