"""Work in processes: in order, and gone when whoever asked for it is gone."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
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
def test_a_worker_that_dies_while_nobody_waits_is_the_failure_of_a_future():
    results = run_in_order(own_pid, 0.0, range(6), 2)
    _, first = next(results)
    os.kill(first.result(), signal.SIGKILL)
    time.sleep(1)  # busy with the first result, while the pool notices
    futures = dict(results)
    assert list(futures) == [1, 2, 3, 4, 5]
    with pytest.raises(BrokenProcessPool):
        futures[5].result()


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
    assert Path(f"/proc/{worker}").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()
