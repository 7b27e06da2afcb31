"""Runs the toy benchmark once straight and once with five SIGKILLs: `python toy_faults.py FOLDER [SEED]`.

Each run is a process of its own, forked from this one, which has imported everything and computed nothing. A run is
killed before a certain one of the events by which it changes its output: a file opened for writing, a flush to disk, a
new name, a deletion. Counted and not timed, five kills find five runs alive on a machine of any speed.
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

from toy_benchmark import empty_report, run_toys, toy_config

from s2robot.benchmark import runner

KILLS = 5
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.truncate")


class Events:
    """Counts what this process changes below a folder; ends it before event number `last`."""

    def __init__(self, folder: Path, last: int | None) -> None:
        self.count, self._folder, self._last, self._fsync = 0, str(folder), last, os.fsync
        sys.addaudithook(self._hear)
        os.fsync = self._flush

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(arguments[0]).startswith(self._folder):
            self._happen()

    def _flush(self, file: int) -> None:
        self._happen()
        self._fsync(file)

    def _happen(self) -> None:
        self.count += 1
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def run(output: Path, last: int | None = None) -> tuple[int, int]:
    """One run in a process of its own: its exit code, negative for a signal, and the events if it got to the end."""
    told = output.with_suffix(".events")
    told.write_text("0")
    pid = os.fork()
    if pid == 0:
        try:
            events = Events(output, last)
            run_toys(toy_config(output))
            told.write_text(str(events.count))
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), int(told.read_text())


def choose_moments(events: int, seed: int) -> list[int]:
    """Events of each killed run, spread over the whole benchmark.

    A run repeats some of what the killed ones before it did and never does less than they left, so that each has at
    least its own share to do. The last tenth of the events is spared, for what may be written now and then.
    """
    points = [0, *sorted(random.Random(seed).sample(range(1, events * 9 // 10), KILLS))]
    return [after - before for before, after in itertools.pairwise(points)]


def main(folder: Path, seed: int) -> None:
    """Print how the runs ended, as JSON."""
    runner.write_report = empty_report
    straight, events = run(folder / "straight")
    moments = choose_moments(events, seed)
    killed = [run(folder / "killed", moment)[0] for moment in moments]
    resumed, _ = run(folder / "killed")
    ends = {"straight": straight, "killed": killed, "resumed": resumed}
    print(json.dumps({**ends, "events": events, "moments": moments, "seed": seed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6))
