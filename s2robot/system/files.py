"""Files that are never half written, and locks between processes that share a file system.

All locks are `flock`: the kernel releases them when a process ends, however it ends, so no stale lock files remain.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO


@contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` once it is complete and on disk, so that `path` is never half written.

    Several processes may write at once: each writes `<path>.<process>.<random>.partial`, and the last rename wins.
    """
    _delete_leftovers(path)
    file = _open_partial(path)
    partial = Path(file.name)
    with file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the rename: after a power cut the new name must not point to empty blocks
            partial.rename(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` with `content` atomically."""
    with durable_file(path) as file:
        file.write(content)


def sync_and_rename(partial: Path, path: Path) -> None:
    """Flush a finished file to disk, then rename it to `path`."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(path)


def _open_partial(path: Path) -> BinaryIO:
    """Create and lock a new file beside `path`; a partial file without a lock was left by a killed writer."""
    while True:
        file = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial").open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if Path(file.name).exists():
            return file
        file.close()  # another process deleted it as a leftover before it was locked here


def _delete_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(glob.escape(path.name) + ".*.partial"):
        with suppress(OSError), leftover.open("r+b") as file:  # OSError: still being written, or already deleted
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def wait_for_lock(file: IO[Any], kind: int, what: Path) -> None:
    """Lock an open file, shared or exclusive (`fcntl.LOCK_SH`, `LOCK_EX`); print a line if this has to wait."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process to finish with {what}", file=sys.stderr)
        fcntl.flock(file, kind)


# The two below lock a file of their own, because a lock on `path` would be lost when `durable_file` replaces it.


@contextmanager
def claimed(path: Path, refusal: Exception) -> Iterator[None]:
    """Hold `<path>.lock` during the block; raise `refusal` if another process holds it."""
    with path.with_name(path.name + ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusal from None
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `<path>.lock` during the block; wait if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("a") as file:
        wait_for_lock(file, fcntl.LOCK_EX, path)
        yield
