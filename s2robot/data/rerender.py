"""Render recorded states again at another size: the verb `s2robot render`.

The simulator is passed in as a function, so that this package does not depend on one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from s2robot.data import libero
from s2robot.data.actions import other_actions
from s2robot.data.base import RENDERER, DemonstrationDataset
from s2robot.data.robomimic import RobomimicDataset, RobomimicWriter
from s2robot.data.selection import carried_filter_keys, copied_origin
from s2robot.interfaces import DatasetError, Episode

# In metres and quaternion entries. robosuite's own observations lag their state by one physics step (2 ms), which is
# 3 mm and 0.003 at full speed. Recordings of `RobosuiteEnv` do not lag and replay exactly on the same machine. Images
# are not compared, because renderers differ, mostly by up to 2 of 255.
REPLAY_TOLERANCE = 5e-3

# Takes (name, states, episode) per demonstration. Gives, in the same order, a dictionary with `images` and
# `proprioception` of every recorded state, `renderer` if the simulator knows it, and `actions_abs` if it was asked for.
Replay = Callable[[Iterable[tuple[str, np.ndarray, Episode]]], Iterator[dict[str, Any]]]


ABSOLUTE_ACTIONS = "actions_abs"  # the name that robomimic's own script gives them
_PICTURES = ("has_offscreen_renderer", "use_camera_obs", "camera_names", "camera_heights", "camera_widths")


def described(recorded: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return the environment description of rendered demonstrations: the recorded one with the cameras of `ours`.

    Only the cameras are replaced. `ours` adds what the recording does not state, and `s2robot`.
    """
    if ours.get("type") != recorded.get("type", ours.get("type")):
        return {**recorded, "s2robot": ours["s2robot"]}
    theirs, mine = recorded.get("env_kwargs") or {}, ours.get("env_kwargs") or {}
    # robosuite's recorder also writes the name among the arguments, where it would be passed twice.
    kept = {name: value for name, value in theirs.items() if name not in _PICTURES and name != "env_name"}
    return {**ours, **recorded, "env_kwargs": {**mine, **kept}, "s2robot": ours["s2robot"]}


@dataclass(frozen=True)
class Drift:
    """A replayed observation that departs from the recorded one.

    Attributes:
        demo: name of the demonstration.
        key: key of the observation.
        step: first step at which the difference exceeds the tolerance.
        largest: largest difference over the episode, in the observation's unit.
    """

    demo: str
    key: str
    step: int
    largest: float

    def __str__(self) -> str:
        return f"{self.demo}: {self.key} drifts from step {self.step} on, by up to {self.largest:.3g}"


def render_dataset(
    source: DemonstrationDataset,
    out: str | Path,
    env_args: dict[str, Any],
    replay: Replay,
    tolerance: float = REPLAY_TOLERANCE,
    attributes: Mapping[str, Any] | None = None,
    episodes: Sequence[int] | None = None,
) -> list[Drift]:
    """Replay the states of the demonstrations and write what the cameras see to a new robomimic file.

    An interrupted run continues where it stopped when it is started again.

    Actions, rewards, states and attributes are copied. Observations that the simulator gives are replaced by the
    replayed ones; others (`object`) stay as recorded. Memory holds a few episodes at a time.

    Args:
        source: recordings with states.
        out: file to write; it appears only when it is complete.
        env_args: environment description of the new file.
        replay: function that replays states in the simulator, see `Replay`.
        tolerance: largest accepted difference between a replayed observation and the recorded one.
        attributes: attributes to record with every demonstration in addition to its own.
        episodes: positions of the demonstrations to render; None = all.

    Returns:
        The observations of each demonstration that exceed the tolerance; empty for a faithful replay.

    Raises:
        DatasetError: a demonstration has no states, or `out` is the source itself.
    """
    out = Path(out)
    if out.resolve() == source.path.resolve():
        raise DatasetError(f"out={str(out)!r} is the source dataset, which is never overwritten; choose another name")
    # The fingerprint makes an interrupted run continue only with the recordings that it began with.
    env_args = {**env_args, "rendered_from": source.fingerprint()}
    chosen = list(range(len(source)) if episodes is None else episodes)
    with (
        RobomimicWriter(out, env_args, copied_origin(source, chosen), fps=source.fps) as writer,
        tqdm(total=len(chosen), unit="demo", desc="rendering") as bar,
    ):
        writer.filter_keys = carried_filter_keys(source, chosen)
        bar.update(writer.count)  # demonstrations that an interrupted run already wrote
        rest = chosen[writer.count :]
        for index, replayed in zip(rest, replay(_recordings(source, rest)), strict=True):
            # Reading the episode again takes less memory than keeping all that the simulator is working on.
            episode = source.episode(index, cameras=[])
            lag = libero.steps_behind(source.env_args)
            known = {key: values[: len(values) - lag] for key, values in episode.proprioception.items()}
            here = {key: values[lag:] for key, values in replayed["proprioception"].items()}
            drifts = find_drifts(source.demos[index], known, here, tolerance)
            writer.add(
                dataclasses.replace(
                    episode,
                    images=replayed["images"],
                    other_actions={
                        **other_actions(source, index),
                        **({ABSOLUTE_ACTIONS: replayed[ABSOLUTE_ACTIONS]} if ABSOLUTE_ACTIONS in replayed else {}),
                    },
                    proprioception={**episode.proprioception, **replayed["proprioception"]},
                    attributes={
                        **{name: value for name, value in episode.attributes.items() if name != RENDERER},
                        **(attributes or {}),
                        **({RENDERER: renderer} if (renderer := replayed.get(RENDERER)) else {}),
                        "drifts": [dataclasses.asdict(drift) for drift in drifts],
                    },
                )
            )
            bar.update()
    return _recorded_drifts(out)


def _recorded_drifts(path: Path) -> list[Drift]:
    with RobomimicDataset(path) as written:
        episodes = [written.episode(index, cameras=[], proprioception=[]) for index in range(len(written))]
    return [Drift(**drift) for episode in episodes for drift in json.loads(episode.attributes["drifts"])]


def _recordings(source: DemonstrationDataset, indices: Sequence[int]) -> Iterator[tuple[str, np.ndarray, Episode]]:
    for index in indices:
        states, episode = recorded_states(source, index)
        yield source.demos[index], states, episode


def recorded_states(source: DemonstrationDataset, index: int) -> tuple[np.ndarray, Episode]:
    """Return the simulator's states of a demonstration, and the demonstration without observations.

    Raises:
        DatasetError: it has no states that can be read.
    """
    demo = source.demos[index]
    episode = source.episode(index, cameras=[], proprioception=[])
    if episode.states is None:
        why = source.unread.get((demo, "states"), "field 'states' is missing")
        raise source.error(f"{why}; rendering replays the simulator's states", demo)
    return episode.states, episode


def find_drifts(
    demo: str, recorded: Mapping[str, np.ndarray], replayed: Mapping[str, np.ndarray], tolerance: float
) -> list[Drift]:
    """Compare the observations that both mappings have, [T, d] each; a quaternion equals its negative."""
    drifts = []
    for key in sorted(recorded.keys() & replayed.keys()):
        if recorded[key].shape != replayed[key].shape:
            raise DatasetError(
                f"{demo}: {key} was recorded with shape {recorded[key].shape}, but the simulator gives "
                f"{replayed[key].shape}"
            )
        distance = np.abs(recorded[key] - replayed[key]).max(1, initial=0)
        if key.endswith("quat"):
            distance = np.minimum(distance, np.abs(recorded[key] + replayed[key]).max(1, initial=0))
        beyond = np.flatnonzero(distance > tolerance)
        if len(beyond):
            drifts.append(Drift(demo, key, int(beyond[0]), float(distance.max())))
    return drifts
