"""Convert any readable dataset to robomimic HDF5 or a LeRobot folder: the verb `s2robot convert`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from s2robot.config.selection import Selection
from s2robot.data import open_dataset
from s2robot.data.actions import other_actions
from s2robot.data.base import DemonstrationDataset
from s2robot.data.cameras import Cameras
from s2robot.data.fields import refuse_discrete_actions
from s2robot.data.lerobot_writer import LeRobotWriter
from s2robot.data.robomimic import RobomimicWriter
from s2robot.data.selection import carried_filter_keys, copied_origin, filter_keys_of, select_episodes
from s2robot.interfaces import DatasetError

_FPS = 20  # robosuite's control frequency, used if the source records none


def convert_dataset(
    path: str | Path,
    out: str | Path,
    *,
    fps: int | None = None,
    video: bool = True,
    proprioception: list[str] | None = None,
    cameras: Cameras = None,
    flip: Sequence[str] = (),
    selection: Selection | None = None,
) -> int:
    """Copy demonstrations into another format, one at a time.

    An interrupted conversion to robomimic continues where it stopped when the same command is given again.

    Actions, states, rewards and low-dimensional observations stay bit-identical. So do images, except in LeRobot
    videos. A robomimic file keeps the source's filter keys, as far as they list what is copied.

    Args:
        path: dataset to read.
        out: `*.hdf5` or `*.h5` for robomimic; a name without an ending for a LeRobot folder. It must not exist.
        fps: steps per second; None for the source's own. If the source records none, LeRobot gets 20.
        video: whether images become videos (LeRobot only).
        proprioception: keys to copy; None for all. For LeRobot, None leaves out `object`, the true poses of the
            objects, because LeRobot's policies see everything that is in the folder.
        cameras: cameras to copy, as in `open_dataset`; the copy has the new names.
        flip: cameras whose pictures are turned, as in `open_dataset`.
        selection: which demonstrations are copied; None for all.

    Returns:
        The number of demonstrations that were copied.

    Raises:
        DatasetError: the dataset cannot be read or lacks a key, `out` exists or has another ending, or an episode does
            not fit the format.
    """
    out = Path(out)
    to_robomimic = out.suffix in (".hdf5", ".h5")
    if out.exists():
        raise DatasetError(f"out={str(out)!r} exists; choose another name")
    if out.suffix[1:2].isalpha() and not to_robomimic:  # a digit is part of a folder's name: lift_v1.5
        raise DatasetError(
            f"out={str(out)!r} has the ending of an unknown format; valid: *.hdf5 or *.h5 for robomimic, a name "
            "without an ending for a LeRobot folder"
        )
    with open_dataset(path, cameras=cameras, flip=flip) as source:
        # The copy would hold choices as floating-point numbers, which nothing could tell from quantities.
        refuse_discrete_actions(source)
        chosen = select_episodes(source, selection)
        keys = source.select_proprioception(proprioception)
        dropped: dict[str, Any] = {}
        writer: RobomimicWriter | LeRobotWriter
        if to_robomimic:
            origin = source.fingerprint() + ("" if proprioception is None else json.dumps(keys))
            if cameras is not None or flip:
                origin += json.dumps({camera: source.identity_of(camera) for camera in source.cameras})
            origin += copied_origin(source, chosen)
            writer = RobomimicWriter(out, source.env_args, origin, fps=fps or source.fps)
            writer.filter_keys = carried_filter_keys(source, chosen)
        else:
            if proprioception is None:
                keys = source.seen_by_default()
            dropped = _unsound(source, chosen)
            rate = fps or max(1, round(source.fps or _FPS))
            writer = LeRobotWriter(out, fps=rate, env_args=source.env_args, video=video)
        with writer:
            # A robomimic writer keeps what an interrupted run wrote; a LeRobot folder always starts anew.
            done = writer.count if isinstance(writer, RobomimicWriter) else 0
            for index in tqdm(chosen[done:], initial=done, total=len(chosen), unit="demo", desc="converting"):
                others = other_actions(source, index) if to_robomimic else {}
                episode = source.episode(index, proprioception=keys)
                writer.add(dataclasses.replace(episode, other_actions=others, **dropped))
                if not to_robomimic and len(texts := episode.attributes.get("tasks") or []) > 1:
                    demo = source.demos[index]
                    source.unread[demo, "tasks"] = f"a LeRobot folder gets the first of its {len(texts)} texts"
        _tell(source, keys, dropped, to_robomimic)
        return len(chosen)


def _unsound(source: DemonstrationDataset, chosen: list[int]) -> dict[str, Any]:
    """Return None for each of `states` and `rewards` that is unsound in any demonstration.

    All demonstrations of a LeRobot folder have the same fields, so the others must go without them too.
    """
    for index in chosen:
        source.episode(index, cameras=[], proprioception=[])
    return {field: None for _, field in source.unread}


def _tell(source: DemonstrationDataset, keys: list[str], dropped: dict[str, Any], to_robomimic: bool) -> None:
    """Name what was not copied or was converted, and why, on stderr."""
    for camera, words in source.conversions.items():
        print(f"{str(source.path)!r}: converted: {camera} ({words})", file=sys.stderr)
    told = {name: why for name, why in source.left_out().items() if name not in keys}
    told |= {f"{field} of {demo}": why for (demo, field), why in source.unread.items()}
    if not to_robomimic:
        told |= {f"filter key {key}": "a LeRobot folder has none" for key in filter_keys_of(source)}
        told |= dict.fromkeys(list(source.action_arrays)[1:], "a LeRobot folder gets the format's own actions only")
    told |= {f"{field} of the others": "a LeRobot folder has the same fields in all episodes" for field in dropped}
    for name, why in told.items():
        print(f"{str(source.path)!r}: not copied: {name} ({why})", file=sys.stderr)
