"""Describe a dataset and find likely faults in it: the verb `s2robot inspect`."""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from s2robot.config.selection import Selection
from s2robot.data import open_dataset
from s2robot.data.base import DemonstrationDataset
from s2robot.data.cameras import Cameras
from s2robot.data.fields import why_discrete
from s2robot.data.libero import late_observations
from s2robot.data.ranges import takes_unit_actions
from s2robot.data.selection import filter_keys_of, listed_positions, select_episodes
from s2robot.interfaces import DatasetError, Episode

_THUMBNAIL = 160  # pixels
_CAPTION = 14
_MOMENTS = 4  # images per episode and camera on a contact sheet


@dataclass
class Inspection:
    """The description of a dataset.

    Attributes:
        path: the file or folder.
        layout: name of the format and how to recognise it.
        environment: recorded name of the environment; empty if none is recorded.
        lengths: number of steps of each demonstration.
        image_sizes: camera -> (height, width) in pixels.
        proprioception: key -> (width, smallest value, largest value).
        action_range: smallest and largest value of every action dimension, [2, A].
        solved: number of demonstrations recorded as successful.
        judged: number of demonstrations that record whether they were successful.
        conversions: camera -> what is done to its stored numbers; cameras with RGB bytes are not in it.
        filter_keys: filter key of the file -> number of demonstrations that it lists.
        left_out: observation that a policy does not see unless it is asked for, or that cannot be read -> why.
        other_actions: recorded arrays of actions besides the format's own -> width; `action_key=` chooses them.
        missing: fields that the format can hold but this dataset lacks.
        problems: likely faults, one sentence each; empty for a sound dataset.
    """

    path: Path
    layout: str
    environment: str
    lengths: list[int]
    image_sizes: dict[str, tuple[int, int]]
    proprioception: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    action_range: np.ndarray = field(default_factory=lambda: np.zeros((2, 0)))
    solved: int = 0
    judged: int = 0
    conversions: dict[str, str] = field(default_factory=dict)
    filter_keys: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    other_actions: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        count, lengths = len(self.lengths), np.array(self.lengths)
        lines = [
            f"{self.path} ({self.layout.split(':')[0]})",
            f"environment     {self.environment or 'not recorded'}",
            f"demonstrations  {count}, {lengths.sum()} steps; length {lengths.min()} to {lengths.max()}, "
            f"median {np.median(lengths):g}",
            f"success         {self.solved} of {self.judged} judged" + ("" if self.judged else " (not recorded)"),
            *(f"filter key      {key}: {listed} demonstrations" for key, listed in self.filter_keys.items()),
            *(
                f"camera          {camera}: {h} x {w} pixels" + _in_brackets(self.conversions.get(camera))
                for camera, (h, w) in self.image_sizes.items()
            ),
            *(
                f"proprioception  {key}: {width} wide, {low:.4g} to {high:.4g}"
                for key, (width, low, high) in self.proprioception.items()
            ),
            *(f"action {i:<8} {low:+.4g} to {high:+.4g}" for i, (low, high) in enumerate(self.action_range.T.tolist())),
            *(f"action_key      {key}: {width} wide" for key, width in self.other_actions.items()),
            *(f"left out        {key}: {why}" for key, why in self.left_out.items()),
            f"missing         {', '.join(self.missing) or 'nothing'}",
            *(f"PROBLEM         {problem}" for problem in self.problems),
            *(() if self.problems else ("no problems found",)),
        ]
        return "\n".join(lines)


def _in_brackets(words: str | None) -> str:
    return f" ({words})" if words else ""


class _Ranges:
    """Running minimum and maximum of every channel of every field."""

    def __init__(self) -> None:
        self.low: dict[str, np.ndarray] = {}
        self.high: dict[str, np.ndarray] = {}

    def add(self, name: str, values: np.ndarray) -> None:
        low, high = values.min(0), values.max(0)
        self.low[name] = np.minimum(self.low.get(name, low), low)
        self.high[name] = np.maximum(self.high.get(name, high), high)

    def constant(self) -> list[str]:
        """Return the channels that never change, as `name[i, j]`."""
        found = []
        for name, low in self.low.items():
            channels = np.flatnonzero(low == self.high[name])
            if len(channels):
                found.append(f"{name}[{', '.join(map(str, channels))}]")
        return found


def inspect_dataset(
    path: str | Path, *, cameras: Cameras = None, flip: Sequence[str] = (), selection: Selection | None = None
) -> Inspection:
    """Read the chosen demonstrations (None = all) once, one at a time; `cameras`, `flip`: as in `open_dataset`.

    A demonstration that cannot be read, is not finite or has fields of unequal length becomes a problem in the result.

    Raises:
        DatasetError: the dataset as a whole cannot be opened.
    """
    with open_dataset(path, cameras=cameras, flip=flip) as dataset:
        chosen = select_episodes(dataset, selection)
        sizes = {camera: dataset.image_size(camera) for camera in dataset.cameras}
        environment = str(dataset.env_args.get("env_name", ""))
        lengths = [dataset.lengths[index] for index in chosen]
        result = Inspection(dataset.path, dataset.layout, environment, lengths, sizes)
        _list_filter_keys(result, dataset)
        ranges, contents, looks = _Ranges(), defaultdict(list), set()
        absent = {"rewards", "states", "model_file"}
        for index in chosen:
            demo = dataset.demos[index]
            try:
                episode = dataset.episode(index)
            except DatasetError as error:
                result.problems.append(str(error).removeprefix(f"dataset {str(dataset.path)!r}, "))
                continue
            contents[_digest(episode)].append(demo)
            looks.add(episode.attributes.get("look", "not recorded"))
            absent = {name for name in absent if getattr(episode, name) is None}
            result.judged += "success" in episode.attributes
            result.solved += episode.success and "success" in episode.attributes
            result.problems += _still_cameras(demo, episode)
            ranges.add("actions", episode.actions)
            for key, values in episode.proprioception.items():
                ranges.add(f"obs/{key}", values)
        _summarise(result, dataset, ranges, "states" not in absent)
        result.problems += [f"{demo}: {why}; left out" for (demo, _), why in dataset.unread.items()]
        result.missing += sorted(absent)
        copies = [", ".join(demos) for demos in contents.values() if len(demos) > 1]
        result.problems += [f"duplicate demonstrations: {names}" for names in copies]
        if len(looks) > 1:
            result.problems.append(f"images with several looks, which training refuses: {'; '.join(sorted(looks))}")
        return result


def _list_filter_keys(result: Inspection, dataset: DemonstrationDataset) -> None:
    try:
        lists = filter_keys_of(dataset)
    except DatasetError as error:
        lists = {}
        result.problems.append(str(error))
    for key, names in lists.items():
        result.filter_keys[key] = len(names)
        try:
            listed_positions(dataset, key, names)
        except DatasetError as error:
            result.problems.append(str(error).removeprefix(f"dataset {str(dataset.path)!r}: "))


def _summarise(result: Inspection, dataset: DemonstrationDataset, ranges: _Ranges, has_states: bool) -> None:
    if "actions" in ranges.low:
        result.action_range = np.stack([ranges.low["actions"], ranges.high["actions"]])
    for key in dataset.proprioception:
        name = f"obs/{key}"
        if name in ranges.low and ranges.low[name].size:
            low, high = ranges.low[name], ranges.high[name]
            result.proprioception[key] = (len(low), float(low.min()), float(high.max()))
    result.left_out, result.conversions = dataset.left_out(), dataset.conversions
    result.other_actions = {key: array.width for key, array in list(dataset.action_arrays.items())[1:]}
    if not dataset.cameras:
        result.missing.append("images" + (" (`s2robot render` makes them from states)" if has_states else ""))
    if not dataset.action_width:
        result.missing.append("actions (`action_key=` of training chooses what to predict)")
    # An episode that cannot be read is a problem already.
    with contextlib.suppress(DatasetError):
        if why := why_discrete(dataset):
            result.problems.append(f"the actions are discrete ({why}), which training refuses")
    if not dataset.proprioception:
        result.missing.append("proprioception")
    if not dataset.env_args:
        result.missing.append("env_args")
    if not result.judged:
        result.missing.append("success")
    elif result.solved < result.judged:
        result.problems.append(f"{result.judged - result.solved} of {result.judged} demonstrations did not succeed")
    if late := late_observations(dataset.env_args):
        result.problems.append(f"late observations: {late}")
    result.problems += [f"constant channel: {name} never changes" for name in ranges.constant()]
    outside = np.flatnonzero(np.abs(result.action_range).max(0, initial=0) > 1)
    if takes_unit_actions(dataset.env_args) and len(outside):
        channels = ", ".join(map(str, outside))
        result.problems.append(f"action out of range: actions[{channels}] leave the environment's [-1, 1]")


def _digest(episode: Episode) -> str:
    """Hash an episode without its images, so that one episode rendered at two sizes counts as a duplicate."""
    states = b"" if episode.states is None else episode.states.tobytes()
    observed = [episode.proprioception[key].tobytes() for key in sorted(episode.proprioception)]
    return hashlib.sha256(b"".join([episode.actions.tobytes(), states, *observed])).hexdigest()


def _still_cameras(demo: str, episode: Episode) -> list[str]:
    """Report cameras that show the same image at every step, a sign of a broken recording."""
    if len(episode) < 2:
        return []
    still = [camera for camera, images in episode.images.items() if (images == images[:1]).all()]
    return [f"{demo}: camera {camera} shows the same image at all {len(episode)} steps" for camera in still]


def contact_sheet(
    path: str | Path,
    out: str | Path,
    num: int = 8,
    *,
    cameras: Cameras = None,
    flip: Sequence[str] = (),
    selection: Selection | None = None,
) -> Path:
    """Draw one image that shows up to `num` of the chosen demonstrations (None = all), spread over the dataset.

    Each row is one demonstration; it shows four moments per camera, from the first to the last step. `cameras` and
    `flip` are as in `open_dataset`.

    Returns:
        `out`, a PNG file.

    Raises:
        DatasetError: the dataset has no images or cannot be read.
    """
    with open_dataset(path, cameras=cameras, flip=flip) as dataset:
        shown = dataset.select_cameras(None)
        chosen = select_episodes(dataset, selection)
        places = np.unique(np.linspace(0, len(chosen) - 1, min(num, len(chosen))).astype(int))
        rows = [_row(dataset, chosen[place], shown) for place in places]
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * row.height))
    sheet.save(out, format="PNG")
    return out


def _row(dataset: DemonstrationDataset, index: int, cameras: list[str]) -> Image.Image:
    episode = dataset.episode(index, proprioception=[])
    moments = np.linspace(0, len(episode) - 1, _MOMENTS).astype(int)
    row = Image.new("RGB", (len(cameras) * _MOMENTS * _THUMBNAIL, _THUMBNAIL + _CAPTION), "white")
    draw = ImageDraw.Draw(row)
    for i, (camera, step) in enumerate((camera, step) for camera in cameras for step in moments):
        picture = Image.fromarray(episode.images[camera][step])
        picture.thumbnail((_THUMBNAIL - 2, _THUMBNAIL - 2))
        row.paste(picture, (i * _THUMBNAIL, _CAPTION))
        name = f"{dataset.demos[index]} {camera} " if step == moments[0] else ""
        draw.text((i * _THUMBNAIL + 2, 1), f"{name}{step}"[:26], fill="black")
    return row
