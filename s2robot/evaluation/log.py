"""A log of finished episodes on disk, so that an evaluation that is started again runs only the remaining seeds."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s2robot.rollout import EpisodeResult, Times
from s2robot.system.files import write_durably
from s2robot.system.machine import Machine, differing_facts


class EpisodeLog:
    """The log of an evaluation: a first line that identifies the evaluation, then one JSON line per episode or video.

    If the file belongs to another evaluation (other checkpoint, environment, versions or settings of acting), its lines
    are kept in `<path>.old`.

    Args:
        path: the file.
        identity: hash of everything that determines an episode except its seed and the machine.
        machine: the machine that runs the episodes added from now on.

    Attributes:
        episodes: seed -> outcome.
        machines: seed -> the machine that ran it, including its renderer; missing in logs of earlier versions.
        videos: entries as in `results.json`, by ascending seed.
        warnings: seed -> warning from the last time it was filmed.
        times: latency over all sessions.
        seconds: wall time of all sessions [s].
    """

    def __init__(self, path: Path, identity: str, machine: Machine | None = None) -> None:
        self.path = path
        self.machine = machine
        self.episodes: dict[int, EpisodeResult] = {}
        self.machines: dict[int, Machine] = {}
        self.videos: list[dict[str, Any]] = []
        self.warnings: dict[int, str] = {}
        self.times = Times()
        self.seconds = 0.0
        first, *rest = self._lines() or [None]
        if first != {"evaluation": identity}:
            if rest:
                path.replace(kept := path.with_name(path.name + ".old"))
                print(f"the output has results of another evaluation; its episodes are kept in {kept}", file=sys.stderr)
            write_durably(path, json.dumps({"evaluation": identity}).encode() + b"\n")
            rest = []
        for line in rest:
            self._keep(line)
        self._earlier = self.seconds

    def add(self, episode: EpisodeResult, times: Times, seconds: float) -> None:
        """Record durably a finished episode and the times since the last one, `seconds` after this process began."""
        line = {"episode": asdict(episode), "times": asdict(times), "seconds": self._earlier + seconds}
        self._write({**line, "machine": self.machine})

    def add_video(self, seed: int, video: dict[str, Any] | None, warning: str | None, seconds: float) -> None:
        """Record durably that a seed was filmed, or why it could not be."""
        self._write({"seed": seed, "video": video, "warning": warning, "seconds": self._earlier + seconds})

    def missing(self, seeds: Iterable[int]) -> list[int]:
        """Return the seeds that were not run yet or that ended in an error of the simulator."""
        return [seed for seed in seeds if seed not in self.episodes or self.episodes[seed].error is not None]

    def moved(self, seeds: Iterable[int]) -> str:
        """Describe how this machine differs from one that ran some of these seeds; empty if none is known to differ."""
        found = (differing_facts(self.machines[seed], self.machine or {}) for seed in seeds if seed in self.machines)
        return next(filter(None, found), "")

    def filmed(self) -> set[int]:
        """Return the seeds whose video exists."""
        return {video["seed"] for video in self.videos if (self.path.parent / video["path"]).exists()}

    def _write(self, line: dict[str, Any]) -> None:
        self._keep(line)
        with self.path.open("a") as file:
            file.write("\n" + json.dumps(line) + "\n")  # the first newline ends a line cut short by a kill
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[Any]:
        lines = []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:  # the line being written when the process was killed
                continue
        return lines

    def _keep(self, line: dict[str, Any]) -> None:
        self.seconds = line["seconds"]
        if "episode" in line:
            episode = EpisodeResult(**line["episode"])
            self.episodes[episode.seed] = episode
            self.machines.pop(episode.seed, None)  # the machine of an earlier try
            if line.get("machine") is not None and episode.error is None:
                self.machines[episode.seed] = {"renderer": episode.renderer, **line["machine"]}
            self.times.add(Times(**line["times"]))
            return
        if line["video"] is not None:
            videos = {entry["seed"]: entry for entry in (*self.videos, line["video"])}
            self.videos = [videos[seed] for seed in sorted(videos)]
        self.warnings.pop(line["seed"], None)
        if line["warning"] is not None:
            self.warnings[line["seed"]] = line["warning"]
