"""Runs the toy benchmark once straight and once with five SIGKILLs: `python toy_faults.py FOLDER`.

Each run is a process of its own, forked from this one, which has imported everything and computed nothing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from toy_benchmark import run_toys, toy_config

KILLS = 5


def start(output: Path) -> int:
    """Start a run in a process of its own; return its id."""
    pid = os.fork()
    if pid == 0:
        try:
            run_toys(toy_config(output))
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def finish(pid: int) -> int:
    """Wait for a process; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path) -> None:
    """Print how the runs ended, as JSON."""
    begin = time.monotonic()
    straight = finish(start(folder / "straight"))
    seconds = time.monotonic() - begin
    seed = random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    ends, delays = [], []
    for _ in range(KILLS):
        # Five of these are shorter than the whole run, so that each finds it alive.
        delays.append(moments.uniform(0, 0.9) * seconds / KILLS)
        pid = start(folder / "killed")
        time.sleep(delays[-1])
        os.kill(pid, signal.SIGKILL)
        ends.append(finish(pid))
    resumed = finish(start(folder / "killed"))
    print(json.dumps({"straight": straight, "killed": ends, "resumed": resumed, "delays": delays, "seed": seed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
