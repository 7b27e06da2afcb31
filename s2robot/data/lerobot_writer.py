"""Write LeRobot's dataset folder, version 3.0; `lerobot.py` describes the layout and reads it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from s2robot.data.lerobot import (
    ACTION,
    ENVIRONMENT_STATE,
    EXTRA,
    IMAGE_PREFIX,
    OBSERVATION_PREFIX,
    REWARD,
    STATE,
    STATE_PARTS,
    STATES,
    SUCCESS,
)
from s2robot.data.lerobot_statistics import Statistics, combine, episode_statistics
from s2robot.interfaces import DatasetError, Episode
from s2robot.system.extras import import_extra

_EPISODES_PER_CHUNK = 1000
_INDICES = ("frame_index", "episode_index", "index", "task_index")
# Visually lossless. As in LeRobot, every second frame is a keyframe, because training reads frames in random order.
_VIDEO = {"codec": "libx264", "options": {"crf": "18", "g": "2", "preset": "veryfast"}, "pix_fmt": "yuv420p"}
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


class LeRobotWriter:
    """Write demonstrations to one folder, which has a temporary name until `close` completes it.

    - Every episode gets its own files.
    - Images become H.264 videos (lossy; docs/datasets.md states the quality) or, with `video=False`, PNG images inside
      the parquet files (lossless).
    - Proprioception becomes the one vector `observation.state` that LeRobot's own policies read, with its keys in
      alphabetical order; `state_parts` in `info.json` has their widths.
    - Simulator states become the feature `simulator_state`, and the environment becomes `env_args` in `info.json`.

    Use the writer as a context manager: an exception inside the block removes the unfinished folder.

    Args:
        path: folder to write; it must not exist.
        fps: steps per second.
        env_args: environment description in robomimic's form.
        video: whether images become videos.

    Raises:
        DatasetError: the folder exists, a library is missing, or an episode has other fields than the first one.
    """

    def __init__(
        self, path: str | Path, *, fps: int = 20, env_args: dict[str, Any] | None = None, video: bool = True
    ) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise DatasetError(f"{str(self.path)!r} exists; a LeRobot folder cannot be extended, choose another name")
        self._arrow = import_extra("pyarrow", EXTRA)
        self._parquet = import_extra("pyarrow.parquet", EXTRA)
        self._fps, self._env_args, self._video = fps, env_args or {}, video
        self._partial = self.path.with_name(self.path.name + ".partial")
        shutil.rmtree(self._partial, ignore_errors=True)
        (self._partial / "meta").mkdir(parents=True)
        self._features: dict[str, dict[str, Any]] = {}
        self._state_parts: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []  # rows of meta/episodes that are not written yet
        self._tasks: dict[str, int] = {}
        self._statistics: dict[str, Statistics] = {}
        self._count = self._total = 0

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            shutil.rmtree(self._partial, ignore_errors=True)

    def add(self, episode: Episode) -> None:
        """Append one episode."""
        number, length = self._count, len(episode)
        state = _state(episode)
        vectors, images = (
            _vectors(episode, state),
            {IMAGE_PREFIX + name: values for name, values in episode.images.items()},
        )
        parts = {key: values.shape[1] for key, values in state.items()}
        features = _features(vectors, images, parts, self._fps, self._video)
        if not number:
            self._features, self._state_parts = features, parts
        if features != self._features:
            fields, first = _fields(features, parts), _fields(self._features, self._state_parts)
            raise DatasetError(f"episode {number} has the fields {fields}, but the first episode has {first}")
        tasks = episode.attributes.get("tasks") or self._env_args.get("env_name", "task")
        task = str(tasks[0] if isinstance(tasks, list) else tasks)
        task_index = self._tasks.setdefault(task, len(self._tasks))
        where = {"chunk_index": number // _EPISODES_PER_CHUNK, "file_index": number % _EPISODES_PER_CHUNK}
        frames = np.arange(length)
        columns = {name: _column(self._arrow, values) for name, values in vectors.items()}
        for key, values in images.items():
            if self._video:
                encode_video(self._file(_VIDEOS.format(video_key=key, **where)), values, self._fps)
            else:
                columns[key] = self._arrow.array([{"bytes": _png(image), "path": None} for image in values])
        indices = (frames, np.full(length, number), frames + self._total, np.full(length, task_index))
        counters = {"timestamp": (frames / self._fps).astype(np.float32), **dict(zip(_INDICES, indices, strict=True))}
        columns |= {name: self._arrow.array(values) for name, values in counters.items()}
        self._parquet.write_table(self._arrow.table(columns), self._file(_DATA.format(**where)))
        row = self._row(number, length, task, where, images if self._video else {})
        counted = {name: values[:, None] for name, values in counters.items()}
        self._rows.append(row | self._describe({**vectors, **images, **counted}))
        self._count, self._total = number + 1, self._total + length
        if len(self._rows) == _EPISODES_PER_CHUNK:
            self._write_rows()

    def _describe(self, fields: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return columns with the statistics of one episode, and add them to the dataset's statistics."""
        columns: dict[str, Any] = {}
        for name, values in fields.items():
            found = episode_statistics(values)
            self._statistics[name] = combine(self._statistics[name], found) if name in self._statistics else found
            columns |= {f"stats/{name}/{kind}": numbers.tolist() for kind, numbers in found.items()}
        return columns

    def _row(
        self, number: int, length: int, task: str, where: Mapping[str, int], videos: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"episode_index": number, "tasks": [task], "length": length}
        row |= {f"data/{name}": value for name, value in where.items()}
        row |= {"dataset_from_index": self._total, "dataset_to_index": self._total + length}
        for key in videos:
            row |= {f"videos/{key}/{name}": value for name, value in where.items()}
            row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": length / self._fps}
        return row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": number // _EPISODES_PER_CHUNK}

    def _write_rows(self) -> None:
        file_index = self._rows[0]["meta/episodes/file_index"]
        path = self._file(f"meta/episodes/chunk-000/file-{file_index:03d}.parquet")
        self._parquet.write_table(self._arrow.Table.from_pylist(self._rows), path)
        self._rows = []

    def _file(self, name: str) -> Path:
        path = self._partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        """Write the metadata and give the folder its final name."""
        info = {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": self._count,
            "total_frames": self._total,
            "total_tasks": len(self._tasks),
            "chunks_size": _EPISODES_PER_CHUNK,
            "fps": self._fps,
            "splits": {"train": f"0:{self._count}"},
            "data_path": _DATA,
            "video_path": _VIDEOS if self._video else None,
            "features": self._features,
            STATE_PARTS: self._state_parts,
            "env_args": self._env_args,
        }
        self._file("meta/info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")
        statistics = {
            name: {kind: values.tolist() for kind, values in found.items()} for name, found in self._statistics.items()
        }
        self._file("meta/stats.json").write_text(json.dumps(statistics, indent=4), encoding="utf-8")
        if self._rows:
            self._write_rows()
        self._write_tasks()
        self._partial.rename(self.path)

    def _write_tasks(self) -> None:
        """Write the tasks as LeRobot reads them, a pandas table indexed by the task's text, without using pandas."""
        table = self._arrow.table({"task_index": list(self._tasks.values()), "task": list(self._tasks)})
        description = {
            "index_columns": ["task"],
            "column_indexes": [],
            "columns": [
                {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
                for name, kind, numpy_kind in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
            ],
        }
        self._parquet.write_table(
            table.replace_schema_metadata({"pandas": json.dumps(description)}), self._file("meta/tasks.parquet")
        )


def _state(episode: Episode) -> dict[str, np.ndarray]:
    """Return the keys and values that make up `observation.state`."""
    keys = sorted(episode.proprioception.keys() - {ENVIRONMENT_STATE})
    return {key: values for key in keys if (values := episode.proprioception[key]).shape[1]}


def _vectors(episode: Episode, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return every field except the images under LeRobot's name, [T, d]."""
    vectors = {ACTION: episode.actions}
    if state:
        vectors[STATE] = np.concatenate(list(state.values()), axis=1)
    if ENVIRONMENT_STATE in episode.proprioception:
        vectors[OBSERVATION_PREFIX + ENVIRONMENT_STATE] = episode.proprioception[ENVIRONMENT_STATE]
    if episode.rewards is not None:
        vectors[REWARD] = episode.rewards.reshape(-1, 1).astype(np.float32)
    if episode.states is not None:
        vectors[STATES] = episode.states
    if "success" in episode.attributes:
        vectors[SUCCESS] = (np.arange(len(episode)) == len(episode) - 1)[:, None] & episode.success
    return vectors


def _features(
    vectors: Mapping[str, np.ndarray],
    images: Mapping[str, np.ndarray],
    parts: Mapping[str, int],
    fps: int,
    video: bool,
) -> dict[str, dict[str, Any]]:
    features: dict[str, dict[str, Any]] = {}
    for key, values in images.items():
        height, width = values.shape[1:3]
        features[key] = {"dtype": "image", "shape": [height, width, 3], "names": ["height", "width", "channels"]}
        if video:
            features[key] |= {"dtype": "video", "info": _video_info(height, width, fps)}
    for key, values in vectors.items():
        width = values.shape[1]
        widths = parts if key == STATE else {key.split(".")[-1]: width}
        names = [f"{name}_{i}" for name, count in widths.items() for i in range(count)]
        features[key] = {"dtype": str(values.dtype), "shape": [width], "names": names}
    for key in ("timestamp", *_INDICES):
        features[key] = {"dtype": "float32" if key == "timestamp" else "int64", "shape": [1], "names": None}
    return features


def _video_info(height: int, width: int, fps: int) -> dict[str, Any]:
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": _VIDEO["pix_fmt"],
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }


def _fields(features: Mapping[str, Mapping[str, Any]], parts: Mapping[str, int]) -> str:
    shapes = {key: feature["shape"] for key, feature in features.items() if key != STATE}
    return ", ".join(f"{key} {shape}" for key, shape in (shapes | {key: [n] for key, n in parts.items()}).items())


def _column(arrow: Any, values: np.ndarray) -> Any:
    """Return rows [T, d] as lists of fixed size; with d = 1 as plain numbers, as in LeRobot."""
    if values.shape[1] == 1:
        return arrow.array(values[:, 0])
    return arrow.FixedSizeListArray.from_arrays(arrow.array(values.reshape(-1)), values.shape[1])


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def encode_video(path: Path, images: np.ndarray, fps: int) -> None:
    """Encode uint8 [T, H, W, 3] as H.264.

    Raises:
        DatasetError: height or width is odd, which the video's colour subsampling (yuv420p) does not allow.
    """
    height, width = images.shape[1:3]
    if height % 2 or width % 2:
        raise DatasetError(
            f"images are {height} x {width} pixels, but videos need an even height and width; give video=false"
        )
    av = import_extra("av", EXTRA)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(_VIDEO["codec"], rate=fps, options=_VIDEO["options"])
        stream.height, stream.width, stream.pix_fmt = height, width, _VIDEO["pix_fmt"]
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
