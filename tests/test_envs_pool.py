"""Work in processes: in order, and gone when whoever asked for it is gone."""

import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

import pytest

from s2robot_envs.pool import run_in_order

SCRIPT = """
import sys
from s2robot_envs.pool import run_in_order
from tests.test_envs_pool import own_pid
if __name__ == "__main__":
    for _, future in run_in_order(own_pid, 0.0, range(100), 2):
        print(future.result(), flush=True)
        sys.stdin.readline()
"""


def own_pid(seconds, item):
    time.sleep(seconds)
    return os.getpid()


def double(factor, item):
    time.sleep(0.05 * (item % 3))
    return factor * item


@pytest.mark.sim
def test_results_come_in_the_order_of_the_items():
    assert [future.result() for _, future in run_in_order(double, 2, range(7), 2)] == [0, 2, 4, 6, 8, 10, 12]


@pytest.mark.sim
def test_a_worker_that_dies_is_the_failure_of_futures_also_of_items_that_come_later():
    with closing(run_in_order(own_pid, 0.01, itertools.count(), 2)) as results:
        _, first = next(results)
        os.kill(first.result(), signal.SIGKILL)
        # The pool notices at some time; the other worker serves until then.
        noticed = next(item for item, future in itertools.islice(results, 100_000) if future.exception())
        # The first of these were submitted before that, the rest to a pool that takes nothing more.
        later = list(itertools.islice(results, 10))
    assert [item for item, _ in later] == list(range(noticed + 1, noticed + 11))
    assert all(isinstance(future.exception(), BrokenProcessPool) for _, future in later)


def has_ended(process):
    """Whether it is gone, or waits to be reaped: in a container, nobody may reap what its parent left behind."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.sim
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    parent = subprocess.Popen(
        [sys.executable, script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    worker = int(parent.stdout.readline())
    assert not has_ended(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 120
    while not has_ended(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert has_ended(worker)
