"""Files that are never half written."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from s2robot.system.files import durable_file, write_durably

KILLED = """
import os, signal, sys
from pathlib import Path
from s2robot.system.files import durable_file

with durable_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path, together = tmp_path / "file", Barrier(4)

    def write(number):
        for _ in range(50):
            together.wait(timeout=600)
            write_durably(path, bytes([number]) * 1000)
            assert len(set(path.read_bytes())) == 1

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, number) for number in range(4)]:
            done.result()
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_deleted_by_the_next_one(tmp_path):
    path = tmp_path / "file [1].json"
    write_durably(path, b"before")
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"before"
    (leftover,) = set(tmp_path.iterdir()) - {path}
    assert leftover.name.startswith("file [1].json.")
    assert leftover.suffix == ".partial"
    write_durably(path, b"after")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"after"


def test_what_is_being_written_is_not_taken_for_a_leftover(tmp_path):
    path = tmp_path / "file"
    with durable_file(path) as slow:
        write_durably(path, b"quick")
        slow.write(b"slow")
    assert path.read_bytes() == b"slow"


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_durably(path, b"before")
    with pytest.raises(KeyboardInterrupt), durable_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"before"
