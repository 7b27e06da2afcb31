"""One cache entry on disk: its files, their locks, and which of its blocks are good."""

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

BLOCK_FRAMES = 32  # part of an entry's identity: kernels round differently for other batch sizes
LAYOUT = 2  # increase when the files of an entry change their meaning
_BAR_FROM = 2**30  # bytes from which a progress bar is shown; hashing fewer takes only a second or two


@dataclass(frozen=True)
class Entry:
    """A folder of the cache.

    Attributes:
        folder: folder of its files.
        frames: number of frames it has room for.
        row_bytes: bytes of one frame's features.
    """

    folder: Path
    frames: int
    row_bytes: int

    @property
    def features(self) -> Path:
        """File of the features: float16 [frames, numel], without a header."""
        return self.folder / "features.f16"

    @property
    def blocks(self) -> int:
        """Number of blocks of `BLOCK_FRAMES` frames; the last block may be shorter."""
        return -(-self.frames // BLOCK_FRAMES)

    def frames_of(self, blocks: Iterable[int]) -> int:
        """Return the number of frames in these blocks."""
        return sum(min(BLOCK_FRAMES, self.frames - block * BLOCK_FRAMES) for block in blocks)

    def is_whole(self) -> bool:
        """Whether the file has its full length, whether filled or not."""
        return self.features.exists() and self.features.stat().st_size == self.frames * self.row_bytes

    def rows(self) -> np.memmap:
        """Return the features, memory-mapped for reading."""
        return np.memmap(self.features, np.float16, mode="r", shape=(self.frames, self.row_bytes // 2))

    # Space ----------------------------------------------------------------------------------------------------

    def reserve(self, blocks: Iterable[int]) -> None:
        """Reserve room on disk for these blocks, so that a full disk is an error now, not hours later.

        Raises:
            CacheError: the disk has too little room.
            OSError: the file cannot be written.
        """
        # Opened for reading too, and not for appending: on file systems without fallocate (NFS before 4.2, many FUSE
        # ones) glibc emulates it by reading and rewriting a byte of every block.
        with os.fdopen(os.open(self.features, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            taken = os.fstat(file.fileno())
            free = os.statvfs(self.folder)
            missing = self.frames_of(blocks := sorted(blocks)) * self.row_bytes - 512 * taken.st_blocks
            room = free.f_bavail * free.f_frsize
            if missing > room:
                raise CacheError(
                    f"feature cache {str(self.folder)!r} cannot be written: it needs {missing / 1e9:.3g} GB more, but "
                    f"the disk has {room / 1e9:.3g} GB free; delete old entries with `s2robot cache prune` or choose "
                    "another cache_dir"
                )
            if taken.st_size != self.frames * self.row_bytes:  # new or cut short; the rest becomes a hole of zeros
                os.ftruncate(file.fileno(), self.frames * self.row_bytes)
            try:
                for run in _runs(blocks):  # fallocate refuses an empty range
                    first, size = run.start * BLOCK_FRAMES, self.frames_of(run)
                    os.posix_fallocate(file.fileno(), first * self.row_bytes, size * self.row_bytes)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:  # musl has no emulation; `room` was checked above, so go on
                    raise

    # Blocks ---------------------------------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return self.folder / "blocks.jsonl"

    @property
    def _stamp(self) -> Path:
        return self.folder / "checked.json"

    def _records(self) -> dict[int, dict[str, Any]]:
        """Return block -> its last record; a block that was encoded again has several."""
        found = {}
        for line in self._log.read_text(errors="replace").splitlines() if self._log.exists() else ():
            with suppress(ValueError, TypeError, KeyError):  # skip a line that a kill cut short
                record = json.loads(line)
                found[int(record["block"])] = {**record, "sha256": str(record["sha256"])}
        return {block: record for block, record in found.items() if 0 <= block < self.blocks}

    def recorded(self) -> dict[int, str]:
        """Return finished block -> SHA-256 of its bytes, as recorded when it was written."""
        return {block: record["sha256"] for block, record in self._records().items()}

    def makers(self) -> list[Machine]:
        """Return the kinds of machine that encoded the blocks; blocks of earlier versions do not record theirs."""
        found: list[Machine] = []
        for record in self._records().values():
            if isinstance(record.get("by"), dict):
                found = with_machine(found, record["by"])
        return found

    def good_blocks(self, full_check: bool = False) -> set[int]:
        """Return the recorded blocks that still hold what was written.

        Blocks are hashed again only if the file's size, modification time or change time differ from those of the last
        check. Only `full_check` finds damage that changes none of them, such as a failing disk.
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
        """Delete the records of all other blocks, so that they are encoded again."""
        lines = [json.dumps(record) + "\n" for block, record in self._records().items() if block in good]
        write_text(self._log, "".join(lines))

    def is_checked(self) -> bool:
        """Whether the file is unchanged since its recorded blocks were last known to be good."""
        return self.features.exists() and self._read_stamp() == self._stat()

    def mark_checked(self) -> None:
        """Record that all recorded blocks of the present file are good."""
        for path in (self.features, self._log):
            with path.open("ab") as file:
                os.fsync(file.fileno())
        write_text(self._stamp, json.dumps(self._stat()))

    def store(self, block: int, rows: np.ndarray, by: Machine | None = None) -> None:
        """Write one block [n, numel]; once its bytes are on disk, record it together with what encoded it (`by`).

        Raises:
            OSError: the disk is full or failing; nothing is recorded then.
        """
        content = np.ascontiguousarray(rows, dtype=np.float16).reshape(-1).view(np.uint8).data
        with self.features.open("r+b", buffering=0) as file:
            offset = block * BLOCK_FRAMES * self.row_bytes
            written = 0
            while written < len(content):  # pwrite may write less than it was given
                written += os.pwrite(file.fileno(), content[written:], offset + written)
            os.fdatasync(file.fileno())  # before the record, which must not vouch for bytes that a crash could lose
        with self._log.open("a") as log:
            record = {"block": block, "sha256": hashlib.sha256(content).hexdigest(), "by": by}
            log.write("\n" + json.dumps(record) + "\n")  # the first "\n" ends a line that a kill cut short

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
    """Replace a file atomically: it has the old content or the new content, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    sync_and_rename(partial, path)


# Locks --------------------------------------------------------------------------------------------------------
# `lock` is held by the one process that writes. `in_use` is shared by all processes that read; its modification time is
# the time of the last use.


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Lock the entry for writing; a second process waits, and then finds the work done."""
    with _acquire(folder / "lock", fcntl.LOCK_EX):
        yield


class Reading:
    """Marks the entry as in use by this process, for as long as the object lives."""

    def __init__(self, folder: Path) -> None:
        self._file = _acquire(folder / "in_use", fcntl.LOCK_SH)
        os.utime(self._file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


@contextmanager
def untouched(folder: Path, *, by_readers: bool) -> Iterator[bool]:
    """Yield whether no process writes the entry (nor reads it, if `by_readers`); if so, none can during the block.

    An entry that another process is just pruning is not free.
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


def _runs(blocks: list[int]) -> Iterator[range]:
    """Yield the longest runs of consecutive blocks, given in order."""
    first = 0
    for place in range(1, len(blocks) + 1):
        if place == len(blocks) or blocks[place] != blocks[place - 1] + 1:
            yield range(blocks[first], blocks[place - 1] + 1)
            first = place


def _acquire(path: Path, kind: int) -> IO[str]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a")
        except FileNotFoundError:  # another process pruned the folder just now
            continue
        wait_for_lock(file, kind, path.parent)
        if _is_at(path, file):
            return file
        file.close()  # the entry was pruned while this process waited for the lock


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether an open file is still at `path`: a prune renames the folder and leaves the open file locked."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False
