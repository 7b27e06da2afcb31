"""Run the toy benchmark once without interruption and once with five SIGKILLs: `python toy_faults.py FOLDER [SEED]`.

Each run is a separate process, forked from this one, which has imported everything and computed nothing. A run is
killed before a chosen event that changes its output: a file opened for writing, a flush to disk (half of it is already
written), a rename, a deletion. Events are counted instead of timed, so that on a machine of any speed the five kills
find five running processes.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import diffusers.optimization
import diffusers.training_utils  # noqa: F401  # these three so that not every run imports them
import timm  # noqa: F401
from toy_benchmark import empty_report, run_toys, toy_config

from s2robot.benchmark import runner

KILLS = 5
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.truncate")


class Events:
    """Count the events by which this process changes a folder, and end the process before event number `last`."""

    def __init__(self, folder: Path, last: int | None) -> None:
        self.count, self._folder, self._last, self._fsync = 0, str(folder), last, os.fsync
        self._synced: dict[Path, int] = {}  # bytes of each file that are on disk and survive a kill
        self.states: list[int] = []  # events that gave a training state its final name
        sys.addaudithook(self._hear)
        os.fsync = self._flush

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(arguments[0]).startswith(self._folder):
            path = Path(arguments[0])
            if writes:
                appends = arguments[2] & os.O_APPEND and path.exists()
                self._synced[path] = path.stat().st_size if appends else 0
            self._happen()
            if event == "os.rename" and "training_state" in str(arguments[0]):
                self.states.append(self.count)

    def _flush(self, file: int) -> None:
        link = Path(f"/proc/self/fd/{file}")
        path, size = link.readlink(), os.fstat(file).st_size
        # As a kill while it was written leaves it. The feature cache writes into the middle of its files, which a kill
        # shortens by nothing; it has such a test of its own.
        if self.count + 1 == self._last and path.is_file() and "feature_cache" not in path.parts:
            os.truncate(link, (self._synced.get(path, 0) + size) // 2)
        self._happen()
        self._fsync(file)
        self._synced[path] = size

    def _happen(self) -> None:
        self.count += 1
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def run(output: Path, last: int | None = None) -> tuple[int, int, list[int]]:
    """One run in a process of its own: its exit code, negative for a signal, and its events if it got to the end."""
    told = output.with_suffix(".events")
    told.write_text("[0, []]")
    pid = os.fork()
    if pid == 0:
        try:
            events = Events(output, last)
            run_toys(toy_config(output))
            told.write_text(json.dumps([events.count, events.states]))
            os._exit(0)
        finally:
            os._exit(1)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return ended, *json.loads(told.read_text())


def choose_moments(events: int, states: list[int], seed: int) -> list[int]:
    """Choose the event at which each run is killed: the first in its first training, the others spread over the rest.

    A run repeats some of the killed runs' work and does at least the remaining work, so that each run reaches its own
    event. The last tenth of the events is not used, because the number of some events varies between runs.
    """
    moments = random.Random(seed)
    first = moments.randint(states[0] + 1, states[2])
    points = [0, first, *sorted(moments.sample(range(first + 1, events * 9 // 10), KILLS - 1))]
    return [after - before for before, after in itertools.pairwise(points)]


def main(folder: Path, seed: int) -> None:
    """Print how the runs ended, as JSON."""
    runner.write_report = empty_report
    straight, events, states = run(folder / "straight")
    moments = choose_moments(events, states, seed)
    killed = [run(folder / "killed", moment)[0] for moment in moments]
    resumed = run(folder / "killed")[0]
    ends = {"straight": straight, "killed": killed, "resumed": resumed}
    print(json.dumps({**ends, "events": events, "moments": moments, "seed": seed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6))
