"""LeRobot's dataset folder, version 3.0 (https://huggingface.co/docs/lerobot/lerobot-dataset-v3).

```
meta/info.json                           fps, features, path templates
meta/episodes/**.parquet                 one row an episode: length, and which files and times hold it
data/chunk-000/file-000.parquet          one row a frame: action, observation.<key>, pictures as PNG
videos/<key>/chunk-000/file-000.mp4      the frames of many episodes one after another (lossy)
```

Names lose their prefix when read: the camera `observation.images.front` becomes `front`, `observation.state` becomes
`state`. `action` holds the actions; `action.<…>` are others, which `action_key=` chooses. If `info.json` has
`state_parts` (key -> width), which only this package writes, `observation.state` is split into those keys.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from s2robot.data.base import DemonstrationDataset, Index, decode_picture
from s2robot.data.fields import recorded_success
from s2robot.data.index import ActionArray
from s2robot.data.kinds import LIKE_PICTURES
from s2robot.interfaces import Episode
from s2robot.system.extras import import_extra

EXTRA = "lerobot-format"
ACTION, REWARD, SUCCESS, STATES = "action", "next.reward", "next.success", "simulator_state"
IMAGE_PREFIX, OBSERVATION_PREFIX, STATE = "observation.images.", "observation.", "observation.state"
STATE_PARTS, ENVIRONMENT_STATE = "state_parts", "environment_state"
_PICTURES = ("video", "image")


class LeRobotDataset(DemonstrationDataset):
    """Demonstrations in one LeRobot v3 folder, with cameras as videos or as images."""

    layout = "LeRobot v3: a folder with meta/info.json"

    @staticmethod
    def recognises(path: Path) -> bool:
        """Return whether this is a folder with `meta/info.json`."""
        return (path / "meta" / "info.json").is_file()

    def _files(self) -> list[Path]:
        return [file for file in self.path.rglob("*") if file.is_file()]

    def _open(self) -> None:
        self._parquet = import_extra("pyarrow.parquet", EXTRA)
        info = self.path / "meta" / "info.json"
        with self.reading(info):
            self._info: dict[str, Any] = json.loads(info.read_text(encoding="utf-8"))

    def close(self) -> None:
        """Do nothing: no file stays open between episodes."""

    def _read_index(self) -> Index:
        version = str(self._info.get("codebase_version"))
        if not version.startswith("v3."):
            raise self.error(f"has LeRobot version {version!r}; valid: v3.0 (LeRobot ships a converter)")
        features: dict[str, dict[str, Any]] = self._info["features"]
        self._episodes = self._read_episodes()
        self._cameras = {_short(key): key for key, feature in features.items() if _is_colour(feature)}
        self._keys = {
            _short(key): (key, slice(None))
            for key, feature in features.items()
            if key.startswith(OBSERVATION_PREFIX) and feature["dtype"] not in (*_PICTURES, "string")
        }
        skipped = {_short(key): why for key, feature in features.items() if (why := _why_not_read(key, feature))}
        self._keys = {name: where for name, where in self._keys.items() if name not in skipped}
        if self._info.get(STATE_PARTS):
            self._split_state(features)
        if ACTION not in features:
            raise self.error(f"has no feature 'action'; it has {sorted(features)}")
        return Index(
            demos=[f"episode_{row['episode_index']}" for row in self._episodes],
            lengths=[int(row["length"]) for row in self._episodes],
            action_width=int(np.prod(features[ACTION]["shape"])),
            image_sizes={name: _picture_size(features[key]) for name, key in self._cameras.items()},
            proprioception=sorted(self._keys),
            skipped=skipped,
            integer_actions=_is_integer(features[ACTION]["dtype"]),
            action_arrays=_action_arrays(features),
            env_args=self._info.get("env_args") or {},
            fps=self._info.get("fps"),
        )

    def filter_keys(self) -> dict[str, list[str]]:
        """Return the splits, such as `"train": "0:50"`; one that holds everything splits nothing and is left out."""
        with self.reading(self.path / "meta" / "info.json"):
            spans = {name: _span(text) for name, text in (self._info.get("splits") or {}).items()}
        everything = range(len(self._episodes))
        return {name: [f"episode_{row}" for row in span] for name, span in spans.items() if span != everything}

    def _split_state(self, features: dict[str, dict[str, Any]]) -> None:
        parts = self._info[STATE_PARTS]
        width = int(np.prod(features[STATE]["shape"])) if STATE in features else 0
        valid = isinstance(parts, dict) and all(isinstance(part, int) and part > 0 for part in parts.values())
        if not valid or sum(parts.values()) != width:
            raise self.error(f"{STATE_PARTS} in info.json are {parts!r}, but {STATE} has {width} numbers")
        del self._keys[_short(STATE)]
        ends = np.cumsum(list(parts.values()))
        self._keys |= {key: (STATE, slice(end - parts[key], end)) for key, end in zip(parts, ends, strict=True)}

    def _read_episodes(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for file in sorted((self.path / "meta" / "episodes").rglob("*.parquet")):
            with self.reading(file):
                names = self._parquet.read_schema(file).names
                wanted = [name for name in names if not name.startswith("stats/")]  # stats are most of the file
                rows += self._parquet.read_table(file, columns=wanted).to_pylist()
        counted = self._info.get("total_episodes", len(rows))
        if counted != len(rows):
            raise self.error(
                f"meta/info.json counts {counted} episodes, but the files in meta/episodes hold {len(rows)}"
            )
        return sorted(rows, key=lambda row: int(row["episode_index"]))

    def _file_of(self, template: str, **where: Any) -> Path:
        path = self.path / self._info[template].format(**where)
        self.refuse_escape(path)
        return path

    def _data_file(self, index: int) -> Path:
        row = self._episodes[index]
        return self._file_of("data_path", chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])

    def read_actions(self, index: int, key: str) -> Any:
        """Return one array of actions as recorded."""
        demo, path = self.demos[index], self._data_file(index)
        with self.reading(path, demo):
            if key not in self._parquet.read_schema(path).names:
                raise self.error(f"field {key!r} is missing in {path.name}", demo)
            wanted = [("episode_index", "==", self._episodes[index]["episode_index"])]
            table = self._parquet.read_table(path, columns=["frame_index", key], filters=wanted)
            return table.sort_by("frame_index")[key].to_pylist()

    def _read(self, index: int, cameras: list[str], proprioception: list[str]) -> Episode:
        demo, row = self.demos[index], self._episodes[index]
        features = self._info["features"]
        path = self._data_file(index)
        optional = [key for key in (REWARD, SUCCESS, STATES) if key in features]
        pictures = [self._cameras[name] for name in cameras if features[self._cameras[name]]["dtype"] == "image"]
        vectors = dict.fromkeys(self._keys[name][0] for name in proprioception)
        columns = [ACTION, *optional, *pictures, *vectors]
        with self.reading(path, demo):
            stored = self._parquet.read_schema(path).names
            for key, field in ((REWARD, "rewards"), (STATES, "states")):  # not needed for training
                if key in columns and key not in stored:
                    columns.remove(key)
                    optional.remove(key)
                    self.unread[demo, field] = f"field {key!r} is missing in {path.name}"
            missing = set(columns) - set(stored)
            if missing:
                raise self.error(f"field {min(missing)!r} is missing in {path.name}", demo)
            table = self._parquet.read_table(
                path, columns=["frame_index", *columns], filters=[("episode_index", "==", row["episode_index"])]
            ).sort_by("frame_index")

        def values(key: str, dtype: type = np.float32) -> np.ndarray:
            return self.numbers(demo, key, table[key].to_pylist(), dtype)

        numbers = {key: values(key) for key in vectors}
        rewards = self.optional(demo, "rewards", table[REWARD].to_pylist()) if REWARD in optional else None
        success = None
        if SUCCESS in optional:
            success = recorded_success(self, demo, SUCCESS, table[SUCCESS].to_pylist()[-1])
        return Episode(
            actions=values(ACTION),
            images={name: self._images(demo, row, self._cameras[name], table) for name in cameras},
            proprioception={name: numbers[key][:, part] for name in proprioception for key, part in [self._keys[name]]},
            success=success is not False,
            rewards=None if rewards is None else rewards[:, 0],
            states=self.optional(demo, "states", table[STATES].to_pylist(), np.float64) if STATES in optional else None,
            attributes={"tasks": row.get("tasks", [])} | ({} if success is None else {"success": success}),
        )

    def _images(self, demo: str, row: dict[str, Any], key: str, table: Any) -> np.ndarray:
        if self._info["features"][key]["dtype"] == "image":
            return np.stack([decode_picture(picture["bytes"]) for picture in table[key].to_pylist()])
        path = self._file_of(
            "video_path",
            video_key=key,
            chunk_index=row[f"videos/{key}/chunk_index"],
            file_index=row[f"videos/{key}/file_index"],
        )
        fps, length = float(self._info["fps"]), int(row["length"])
        frames = read_frames(path, row[f"videos/{key}/from_timestamp"], length, fps)
        if len(frames) != length:
            raise self.error(
                f"{path.name} of {key} holds {len(frames)} frames of this episode, which has {length} steps", demo
            )
        return np.stack(frames)


def _span(text: str) -> range:
    first, colon, stop = str(text).partition(":")
    if not colon:
        raise ValueError(f"split {text!r} is not of the form first:stop")
    return range(int(first), int(stop))


def _short(key: str) -> str:
    return key.removeprefix(IMAGE_PREFIX).removeprefix(OBSERVATION_PREFIX)


def _is_colour(feature: dict[str, Any]) -> bool:
    """Return whether a feature holds colour images; depth maps are skipped, as in the other formats."""
    if feature["dtype"] not in _PICTURES:
        return False
    described = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    depth = described.get("is_depth_map") or described.get("video.is_depth_map")
    shape = feature["shape"]
    return not depth and len(shape) == 3 and bool({3, 4} & {shape[0], shape[2]})


def _action_arrays(features: dict[str, dict[str, Any]]) -> dict[str, ActionArray]:
    return {
        key: ActionArray(int(np.prod(features[key]["shape"])), _is_integer(features[key]["dtype"]))
        for key in sorted(features, key=lambda key: (key != ACTION, key))
        if key.startswith(ACTION)
        and len(features[key]["shape"]) <= 1
        and features[key]["dtype"] not in (*_PICTURES, "string")
    }


def _is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint", "bool"))


def _why_not_read(key: str, feature: dict[str, Any]) -> str | None:
    """Return why an observation is neither a camera nor proprioception; None if it is, or if it is no observation."""
    kind, shape = feature["dtype"], feature["shape"]
    if not key.startswith(OBSERVATION_PREFIX) or _is_colour(feature):
        return None
    if kind in _PICTURES:
        return f"{kind} {list(shape)} {LIKE_PICTURES} without colours, such as depth maps"
    if kind == "string":
        return "it is text"
    return None if len(shape) <= 1 else f"{kind} {list(shape)} has more than one axis; proprioception is [d]"


def _picture_size(feature: dict[str, Any]) -> tuple[int, int]:
    shape = feature["shape"]
    # Older recordings declare the shape channels first, although the stored images are channels last.
    height, width = shape[:2] if shape[2] in (3, 4) else shape[1:]
    return int(height), int(width)


def read_frames(path: Path, start: float, count: int, fps: float) -> list[np.ndarray]:
    """Decode up to `count` frames from `start` seconds on, uint8 [H, W, 3] each, beginning at the preceding keyframe.

    Raises:
        OSError: the video cannot be decoded.
    """
    av = import_extra("av", EXTRA)
    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            container.seek(int(start / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.time > start - 0.5 / fps:
                    frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == count:
                    break
    except (av.FFmpegError, IndexError) as error:
        raise OSError(f"{path.name} cannot be decoded: {error}") from error
    return frames
