"""ManiSkill's trajectories: one HDF5 file, and a JSON file of the same name that describes the environment.

```
<name>.json                     env_info: env_id, env_kwargs, max_episode_steps; episodes: episode_id, episode_seed, …
<name>.h5
    traj_<i>/obs/…              arrays [T+1, …] in groups, such as sensor_data/base_camera/rgb; or one array
    traj_<i>/actions            [T, A];  rewards, success, fail, terminated, truncated [T]
    traj_<i>/env_states/…       arrays [T+1, …]; not read
```

- Observations are named by their path, joined by dots: `sensor_data.base_camera.rgb`. An array `obs` is named `obs`.
- The observation after the last action has no action and is left out.
- Without the JSON file the environment is not known; everything else is read.

Source: `mani_skill/utils/wrappers/record.py` of https://github.com/haosulab/ManiSkill.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from s2robot.data.base import DemonstrationDataset, Index
from s2robot.data.fields import recorded_success
from s2robot.data.hdf5 import DAMAGE, LAST, child, leaf, leaves, numbered, pictures_of, require_array, why_not_read
from s2robot.data.index import dotted
from s2robot.data.pictures import Pictures
from s2robot.interfaces import Episode

_GYM = 2  # robomimic's EnvType
_TRAJECTORY = "traj_"
_OBSERVATIONS = "obs"


class ManiSkillDataset(DemonstrationDataset):
    """Demonstrations in one file of ManiSkill's recorder."""

    layout = "ManiSkill: a file *.h5 or *.hdf5 with groups traj_<i>"
    read_errors = DAMAGE

    @staticmethod
    def recognises(path: Path) -> bool:
        """Return whether this is a file *.h5 or *.hdf5 with a group `traj_<i>`."""
        if not path.is_file() or path.suffix not in (".hdf5", ".h5"):
            return False
        try:
            with h5py.File(path, "r") as file:
                return bool(numbered(file, _TRAJECTORY))
        except DAMAGE:
            return False

    def _files(self) -> list[Path]:
        described = self.path.with_suffix(".json")
        return [self.path, described] if described.is_file() else [self.path]

    def _open(self) -> None:
        main, *described = self._files()
        self._described: dict[str, Any] = {}
        for file in described:
            with self.reading(file):
                self._described = dict(json.loads(file.read_text(encoding="utf-8")))
        self._file = h5py.File(main, "r")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_index(self) -> Index:
        demos = numbered(self._file, _TRAJECTORY)
        actions = [self._actions(demo) for demo in demos]
        needed = len(actions[0]) + 1
        observations = self._observations(demos[0])
        stored = observations if isinstance(observations, dict) else dict(leaves(self, observations, demos[0]))
        self._paths, skipped = dotted(stored)
        members = {name: stored[path] for name, path in self._paths.items()}
        found = {name: self._recognised(name, member, needed) for name, member in members.items()}
        self._pictures = {name: how for name, how in found.items() if isinstance(how, Pictures)}
        return Index(
            demos=demos,
            lengths=[len(values) for values in actions],
            action_width=int(actions[0].shape[1]),
            image_sizes={name: pictures.size for name, pictures in self._pictures.items()},
            conversions={name: pictures.conversion for name, pictures in self._pictures.items()},
            doubts={name: pictures.doubt for name, pictures in self._pictures.items() if pictures.doubt},
            proprioception=[name for name, how in found.items() if how is None],
            skipped=skipped | {name: how for name, how in found.items() if isinstance(how, str)} | LAST,
            integer_actions=any(values.dtype.kind in "iub" for values in actions),
            env_args=self._env_args(),
        )

    def _recognised(self, name: str, member: Any, needed: int) -> Pictures | str | None:
        """Return how an observation holds pictures, why it is not read, or None for proprioception."""
        found = pictures_of(name, member) or why_not_read(member)
        if not isinstance(found, str) and len(member) != needed:
            return f"it has {len(member)} steps, but {needed - 1} actions need {needed}"
        return found

    def _env_args(self) -> dict[str, Any]:
        described = self._described.get("env_info")
        if not isinstance(described, dict) or "env_id" not in described:
            return {}
        return {"env_name": described["env_id"], "type": _GYM, "env_kwargs": described.get("env_kwargs") or {}}

    def _actions(self, demo: str) -> h5py.Dataset:
        actions = require_array(self, child(self, child(self, self._file, demo), "actions", demo), "actions", demo)
        if actions.ndim != 2 or 0 in actions.shape:
            raise self.error(f"'actions' has shape {actions.shape}; valid: [T, A], not empty", demo)
        return actions

    def _observations(self, demo: str) -> Any:
        """Return the group of observations, or a mapping with one array; empty if none are recorded."""
        group = child(self, self._file, demo)
        found = child(self, group, _OBSERVATIONS, demo) if _OBSERVATIONS in group else {}
        return {_OBSERVATIONS: found} if isinstance(found, h5py.Dataset) else found

    def _observation(self, demo: str, name: str, length: int) -> h5py.Dataset:
        values = leaf(self, self._observations(demo), self._paths[name], demo)
        if len(values) != length + 1:
            raise self.error(f"{name!r} has {len(values)} steps, but {length} actions need {length + 1}", demo)
        return values

    def _images(self, demo: str, camera: str, values: h5py.Dataset) -> np.ndarray:
        self._pictures[camera].require_layout(self, demo, camera, values)
        return self._pictures[camera].rgb(self, demo, camera, values[:-1])

    def _read(self, index: int, cameras: list[str], proprioception: list[str]) -> Episode:
        demo, length = self.demos[index], self.lengths[index]
        group = child(self, self._file, demo)
        seen = {name: self._observation(demo, name, length) for name in (*cameras, *proprioception)}
        attributes = self._attributes(demo)
        if "success" in group:
            recorded = require_array(self, child(self, group, "success", demo), "success", demo)
            attributes["success"] = recorded_success(self, demo, "success", recorded[-1])
        rewards = None
        if "rewards" in group:
            stored = require_array(self, child(self, group, "rewards", demo), "rewards", demo)
            rewards = self.optional(demo, "rewards", stored[()])
        return Episode(
            actions=self.numbers(demo, "actions", self._actions(demo)[:]),
            images={camera: self._images(demo, camera, seen[camera]) for camera in cameras},
            proprioception={key: self.numbers(demo, key, seen[key][:-1]) for key in proprioception},
            success=attributes.get("success", True),
            rewards=None if rewards is None else rewards[:, 0],
            attributes=attributes,
        )

    def _attributes(self, demo: str) -> dict[str, Any]:
        """Return what the JSON file records of a demonstration: the controller."""
        rows = self._described.get("episodes") or []
        number = int(demo.removeprefix(_TRAJECTORY))
        found = next((row for row in rows if isinstance(row, dict) and row.get("episode_id") == number), {})
        return {"control_mode": str(found["control_mode"])} if "control_mode" in found else {}
