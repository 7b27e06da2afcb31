"""One cache entry on disk: what its files mean, who may touch it, and which of its blocks are good."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from s2robot.interfaces import CacheError
from s2robot.system.files import sync_and_rename, wait_for_lock
from s2robot.system.machine import Machine, with_machine

BLOCK_FRAMES = 32
LAYOUT = 2  # bump when the files of an entry change meaning
_BAR_FROM = 2**30  # hashing less than this takes a second or two


@dataclass(frozen=True)
class Entry:
    """A folder of the cache.

    Attributes:
        folder: where its files lie.
        frames: frames it has room for.
        row_bytes: bytes of one frame's features.
    """

    folder: Path
    frames: int
    row_bytes: int

    @property
    def features(self) -> Path:
        """float16 [frames, numel], raw."""
        return self.folder / "features.f16"

    @property
    def blocks(self) -> int:
        """Blocks of `BLOCK_FRAMES` frames, the last one possibly shorter."""
        return -(-self.frames // BLOCK_FRAMES)

    def frames_of(self, blocks: Iterable[int]) -> int:
        """Frames that these blocks hold together."""
        return sum(min(BLOCK_FRAMES, self.frames - block * BLOCK_FRAMES) for block in blocks)

    def is_whole(self) -> bool:
        """Whether the file has its full length, filled or not."""
        return self.features.exists() and self.features.stat().st_size == self.frames * self.row_bytes

    def rows(self) -> np.memmap:
        """The features, memory-mapped for reading."""
        return np.memmap(self.features, np.float16, mode="r", shape=(self.frames, self.row_bytes // 2))

    # Space ----------------------------------------------------------------------------------------------------

    def reserve(self, frames: int) -> None:
        """Make room on disk for the first `frames` frames, so that a full disk is an error now and not while writing.

        Raises:
            CacheError: the disk has too little room.
            OSError: the file cannot be written.
        """
        # Readable and not appending: where the file system has no fallocate, glibc imitates it by reading and writing.
        with os.fdopen(os.open(self.features, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            taken = os.fstat(file.fileno())
            free = os.statvfs(self.folder)
            missing = frames * self.row_bytes - 512 * taken.st_blocks
            room = free.f_bavail * free.f_frsize
            if missing > room:
                raise CacheError(
                    f"feature cache {str(self.folder)!r} cannot be written: it needs {missing / 1e9:.3g} GB more, but "
                    f"the disk has {room / 1e9:.3g} GB free; delete old entries with `s2robot cache prune` or choose "
                    "another cache_dir"
                )
            if taken.st_size != self.frames * self.row_bytes:  # new, or cut short: what is missing reads as zeros
                os.ftruncate(file.fileno(), self.frames * self.row_bytes)
            try:
                if frames:  # an empty range is an error
                    os.posix_fallocate(file.fileno(), 0, frames * self.row_bytes)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:  # musl imitates nothing; there is room, as was seen above
                    raise

    # Blocks ---------------------------------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return self.folder / "blocks.jsonl"

    @property
    def _stamp(self) -> Path:
        return self.folder / "checked.json"

    def _records(self) -> dict[int, dict[str, Any]]:
        """The last line of each finished block."""
        found = {}
        for line in self._log.read_text(errors="replace").splitlines() if self._log.exists() else ():
            with suppress(ValueError, TypeError, KeyError):  # a line cut short by a kill
                record = json.loads(line)
                found[int(record["block"])] = {**record, "sha256": str(record["sha256"])}
        return {block: record for block, record in found.items() if 0 <= block < self.blocks}

    def recorded(self) -> dict[int, str]:
        """Finished blocks and the sha256 of their bytes, as they were recorded when they were written."""
        return {block: record["sha256"] for block, record in self._records().items()}

    def makers(self) -> list[Machine]:
        """The kinds of machine that encoded the blocks; those of earlier versions do not say."""
        found: list[Machine] = []
        for record in self._records().values():
            if isinstance(record.get("by"), dict):
                found = with_machine(found, record["by"])
        return found

    def good_blocks(self, full_check: bool = False) -> set[int]:
        """Recorded blocks that still hold what was written.

        Every block is hashed again only where the file is not the one that was last checked: size, modification and
        change time tell. What no clock shows (a rotting disk) is found by `full_check`.
        """
        if not self.features.exists():
            return set()
        recorded = self.recorded()
        if not full_check and self.is_checked():
            return set(recorded)
        good = set()
        total = self.frames_of(recorded) * self.row_bytes
        with tqdm(total=total, unit="B", unit_scale=True, desc="checking cache", disable=total < _BAR_FROM) as bar:
            for block, digest in recorded.items():
                if self._digest(block) == digest:
                    good.add(block)
                bar.update(self.frames_of([block]) * self.row_bytes)
        return good

    def keep_only(self, good: set[int]) -> None:
        """Forget the records of all other blocks, so that they are made again."""
        lines = [json.dumps(record) + "\n" for block, record in self._records().items() if block in good]
        write_text(self._log, "".join(lines))

    def is_checked(self) -> bool:
        """Whether the file is the one whose recorded blocks were last known to be good."""
        return self.features.exists() and self._read_stamp() == self._stat()

    def mark_checked(self) -> None:
        """Remember that every recorded block of the file as it is now is good."""
        for path in (self.features, self._log):
            with path.open("ab") as file:
                os.fsync(file.fileno())
        write_text(self._stamp, json.dumps(self._stat()))

    def store(self, block: int, rows: np.ndarray, by: Machine | None = None) -> None:
        """Write one block [n, numel] and record it, and what encoded it, once its bytes are on disk.

        Raises:
            OSError: the disk is full or failing; nothing is recorded then.
        """
        content = np.ascontiguousarray(rows, dtype=np.float16).reshape(-1).view(np.uint8).data
        with self.features.open("r+b", buffering=0) as file:
            offset = block * BLOCK_FRAMES * self.row_bytes
            written = 0
            while written < len(content):
                written += os.pwrite(file.fileno(), content[written:], offset + written)
            os.fdatasync(file.fileno())
        with self._log.open("a") as log:
            record = {"block": block, "sha256": hashlib.sha256(content).hexdigest(), "by": by}
            log.write("\n" + json.dumps(record) + "\n")  # the first "\n" ends a line cut short by a kill

    def _digest(self, block: int) -> str:
        with self.features.open("rb", buffering=0) as file:
            size = self.frames_of([block]) * self.row_bytes
            return hashlib.sha256(os.pread(file.fileno(), size, block * BLOCK_FRAMES * self.row_bytes)).hexdigest()

    def _stat(self) -> dict[str, int]:
        found = self.features.stat()
        return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}

    def _read_stamp(self) -> Any:
        try:
            return json.loads(self._stamp.read_text())
        except (FileNotFoundError, ValueError):
            return None


def write_text(path: Path, text: str) -> None:
    """Replace a file: it has the old content or the new one, never half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    sync_and_rename(partial, path)


# Locks --------------------------------------------------------------------------------------------------------
# `lock` is held by the one process that writes; `in_use` is shared by all that read, and its time is the last use.


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the entry for this process; a second one waits and then finds the work done."""
    with _acquire(folder / "lock", fcntl.LOCK_EX):
        yield


class Reading:
    """Says that this process uses the entry, for as long as the object lives."""

    def __init__(self, folder: Path) -> None:
        self._file = _acquire(folder / "in_use", fcntl.LOCK_SH)
        os.utime(self._file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


@contextmanager
def untouched(folder: Path, *, by_readers: bool) -> Iterator[bool]:
    """Whether nobody writes the entry (nor reads it); if so, nobody starts to until the end of the block.

    An entry that another process prunes in this moment is not free.
    """
    held: list[IO[str]] = []
    free = True
    try:
        for name in ("lock", "in_use") if by_readers else ("lock",):
            path = folder / name
            try:
                held.append(path.open("a"))
                fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, FileNotFoundError):
                free = False
            else:
                free = free and _is_at(path, held[-1])
        yield free
    finally:
        for file in held:
            file.close()


def _acquire(path: Path, kind: int) -> IO[str]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a")
        except FileNotFoundError:  # pruned in this moment
            continue
        wait_for_lock(file, kind, path.parent)
        if _is_at(path, file):
            return file
        file.close()  # the entry was pruned while this process waited


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether an open file still has its name: a prune takes the name, not the lock."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False
