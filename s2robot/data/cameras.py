"""Cameras under other names, and pictures that were stored upside down: a view of any dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from s2robot.data.base import DemonstrationDataset
from s2robot.data.index import Index
from s2robot.interfaces import Episode, unknown_name

Cameras = Sequence[str] | Mapping[str, str] | None
"""Names of cameras, or a mapping of new names to recorded ones; None for all as recorded."""


class CameraView(DemonstrationDataset):
    """A dataset with chosen cameras, some renamed or turned; everything else is as in the source.

    `cameras` are the new names, in the given order. `unread` is shared with the source, and `close` closes the source.

    Args:
        source: the dataset as it is stored.
        cameras: new name -> recorded name, or a list of recorded names; None for all as recorded.
        flip: new names of the cameras whose pictures are turned upside down.

    Raises:
        DatasetError: a recorded name or a name in `flip` is unknown; the message lists the choices.
    """

    def __init__(self, source: DemonstrationDataset, cameras: Cameras = None, flip: Sequence[str] = ()) -> None:
        if not isinstance(cameras, Mapping):
            cameras = {name: name for name in source.select_cameras(None if cameras is None else list(cameras))}
        source.select_cameras(list(cameras.values()))
        for name in flip:
            if name not in cameras:
                raise source.error(f"flip: {unknown_name('camera', name, cameras)}")
        self._source, self._recorded, self._flipped = source, dict(cameras), frozenset(flip)
        self.layout = source.layout  # type: ignore[misc]  # of one object: a view has the format of its source
        self.path, self.package = source.path, source.package
        self.demos, self.lengths, self.action_width = source.demos, source.lengths, source.action_width
        self.cameras, self.proprioception = list(cameras), source.proprioception
        self.conversions = {new: source.conversions[old] for new, old in cameras.items() if old in source.conversions}
        chosen = set(cameras.values())
        self.skipped = {name: why for name, why in source.skipped.items() if name not in chosen}
        self.unread = source.unread
        self.integer_actions, self.action_space = source.integer_actions, source.action_space
        self.action_arrays, self.action_keys = source.action_arrays, source.action_keys
        self.env_args, self.fps = source.env_args, source.fps
        self._image_sizes = {name: source.image_size(recorded) for name, recorded in cameras.items()}

    @staticmethod
    def recognises(path: Path) -> bool:
        """Return False: a view is made of a dataset that is open."""
        return False

    def identity_of(self, camera: str) -> dict[str, Any]:
        """Return the recorded name, so that a new name shares features, and whether the pictures are turned."""
        self.select_cameras([camera])
        turned = {"flipped": True} if camera in self._flipped else {}
        return {**self._source.identity_of(self._recorded[camera]), **turned}

    def episode(self, index: int, cameras: list[str] | None = None, proprioception: list[str] | None = None) -> Episode:
        """Read one demonstration; errors of the source name a camera as it is recorded."""
        chosen = self._select_cameras(cameras)
        recorded = list(dict.fromkeys(self._recorded[name] for name in chosen))
        episode = self._source.episode(index, recorded, proprioception)
        images = {name: self._turned(name, episode.images[self._recorded[name]]) for name in chosen}
        return replace(episode, images=images)

    def read_images(self, index: int, camera: str, first: int, out: np.ndarray) -> None:
        """Fill `out` with some frames of a demonstration, as the source does."""
        self.select_cameras([camera])
        self._source.read_images(index, self._recorded[camera], first, out)
        out[:] = self._turned(camera, out).copy()

    def read_actions(self, index: int, key: str) -> Any:
        """Return one array of actions of the source."""
        return self._source.read_actions(index, key)

    def _turned(self, camera: str, images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(images[:, ::-1]) if camera in self._flipped else images

    def filter_keys(self) -> dict[str, list[str]]:
        """Return the source's lists of demonstrations."""
        return self._source.filter_keys()

    def fingerprint(self) -> str:
        """Return the source's fingerprint."""
        return self._source.fingerprint()

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _files(self) -> list[Path]:
        return self._source._files()

    def _open(self) -> NoReturn:
        raise NotImplementedError("a view is made of a dataset that is open")

    def _read_index(self) -> Index:
        return self._open()

    def _read(self, index: int, cameras: list[str], proprioception: list[str]) -> Episode:
        return self.episode(index, cameras, proprioception)
