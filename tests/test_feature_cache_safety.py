"""The cache under real kills, real neighbours, real limits: other processes do the damage."""

import errno
import fcntl
import itertools
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
from collections import namedtuple

import numpy as np
import pytest
from helpers import PooledPixels, let_the_clock_move_on, write_dataset

from s2robot.data import open_dataset
from s2robot.feature_cache import BLOCK_FRAMES, cache_features, entry, list_entries, prune, verify
from s2robot.feature_cache.entry import Entry, untouched
from s2robot.interfaces import CacheError, Features, FeatureShape

LENGTHS = (300, 400, 1, 299)
FRAMES = sum(LENGTHS)
ROW_BYTES = 15 * 2
BLOCKS = -(-FRAMES // BLOCK_FRAMES)

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["s2robot.feature_cache", "helpers"])


class Slow(PooledPixels):
    """Takes its time, so that there are moments for another process."""

    def __call__(self, images):
        time.sleep(0.01)
        return super().__call__(images)


class Wide(PooledPixels):
    """Features as large as 10 kB a frame."""

    def __call__(self, images):
        return Features(
            images.float().new_zeros(len(images), 5120, 1, 1), images.float().new_zeros(len(images), 0, 5120)
        )

    def feature_shape(self, height, width):
        return FeatureShape(5120, 1, 1)

    def fingerprint(self):
        return "wide"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "demos.hdf5", LENGTHS)


@pytest.fixture(scope="module")
def expected(path, tmp_path_factory):
    with open_dataset(path) as dataset:
        return np.array(cache_features(dataset, PooledPixels(), "agentview", tmp_path_factory.mktemp("whole")).rows)


def build(path, root, results=None, limit=None):
    """What a child process does: build the cache; report the frames it encoded, or its error."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    encoder = Slow()
    try:
        with open_dataset(path) as dataset:
            cache_features(dataset, encoder, "agentview", root)
    except CacheError as error:
        results.put(str(error))
    else:
        if results is not None:
            results.put(encoder.frames)


def rows_of(path, root):
    encoder = PooledPixels()
    with open_dataset(path) as dataset:
        return np.array(cache_features(dataset, encoder, "agentview", root).rows), encoder.frames


def build_and_die(path, root, event, count):
    """What a child process does: build the cache, and kill itself when `event` happens for the `count`-th time."""
    seen, finished = itertools.count(1), threading.Semaphore(0)
    pwrite, store, rename = os.pwrite, Entry.store, entry.sync_and_rename

    def happens(name, last_act=lambda: None):
        if name == event and next(seen) == count:
            last_act()
            os.kill(os.getpid(), signal.SIGKILL)

    class Encoder(PooledPixels):
        def __call__(self, images):
            # A thread writes what was encoded: without waiting for it, the number of finished blocks is open.
            happens("encode", lambda: [finished.acquire() for _ in range(count - 1)])
            return super().__call__(images)

    def write_half(descriptor, content, offset):
        happens("write", lambda: pwrite(descriptor, content[: len(content) // 2], offset))
        return pwrite(descriptor, content, offset)

    def store_and_log(self, *block):
        store(self, *block)
        happens("half a line", lambda: os.truncate(self._log, self._log.stat().st_size - 10))
        happens("line")
        finished.release()

    def do_not_rename(partial, target):
        happens("rename")
        rename(partial, target)

    os.pwrite, Entry.store, entry.sync_and_rename = write_half, store_and_log, do_not_rename
    with open_dataset(path) as dataset:
        cache_features(dataset, Encoder(), "agentview", root)


def test_killed_anywhere_it_resumes_loses_nothing_and_ends_bit_identical(path, expected, tmp_path):
    for event, count, done in (
        ("rename", 1, 0),  # of the manifest
        ("encode", 3, 2),
        ("write", 4, 2 + 3),
        ("half a line", 2, 5 + 1),
        ("line", 6, 6 + 6),
        ("rename", 1, BLOCKS),  # of the stamp, when all is done
    ):
        process = processes.Process(target=build_and_die, args=(path, tmp_path, event, count))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, event
        assert list_entries(tmp_path)[0].done == min(FRAMES, done * BLOCK_FRAMES), event
    rows, encoded = rows_of(path, tmp_path)
    assert encoded == 0
    np.testing.assert_array_equal(rows, expected)


def test_two_processes_share_the_work_and_end_bit_identical(path, expected, tmp_path):
    results = processes.Queue()
    both = [processes.Process(target=build, args=(path, tmp_path, results)) for _ in range(2)]
    for process in both:
        process.start()
    assert sorted(results.get(timeout=600) for _ in both) == [0, FRAMES]
    for process in both:
        process.join()
    rows, encoded = rows_of(path, tmp_path)
    assert encoded == 0
    np.testing.assert_array_equal(rows, expected)


def test_a_file_that_may_not_grow_is_one_clear_error_and_the_cache_stays_usable(path, expected, tmp_path):
    results = processes.Queue()
    process = processes.Process(target=build, args=(path, tmp_path, results, FRAMES * ROW_BYTES // 2))
    process.start()
    assert "cannot be written: [Errno 27] File too large" in results.get(timeout=600)
    process.join()
    rows, encoded = rows_of(path, tmp_path)
    assert encoded == FRAMES
    np.testing.assert_array_equal(rows, expected)


def test_too_little_room_is_said_before_anything_is_encoded(path, tmp_path, monkeypatch):
    small = namedtuple("Small", ["f_bavail", "f_frsize"])(2, 4096)
    monkeypatch.setattr(os, "statvfs", lambda _: small)
    encoder = PooledPixels()
    with (
        open_dataset(path) as dataset,
        pytest.raises(CacheError, match=r"needs 3e-05 GB more, but the disk has 8.19e-06 GB"),
    ):
        cache_features(dataset, encoder, "agentview", tmp_path)
    assert encoder.frames == 0


def test_room_is_taken_where_the_file_system_cannot_reserve_any(path, expected, tmp_path, monkeypatch):
    fallocate = os.posix_fallocate

    def imitation(descriptor, offset, length):  # glibc's, for file systems without fallocate(2)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        if flags & os.O_APPEND or flags & os.O_ACCMODE != os.O_RDWR:
            raise OSError(errno.EBADF, "Bad file descriptor")
        fallocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", imitation)
    np.testing.assert_array_equal(rows_of(path, tmp_path)[0], expected)


def test_a_c_library_that_reserves_nothing_is_no_error(path, expected, tmp_path, monkeypatch):
    def unsupported(*_):  # musl
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    np.testing.assert_array_equal(rows_of(path, tmp_path)[0], expected)


def test_no_episodes_need_no_room(path, tmp_path):
    with open_dataset(path) as dataset:
        cached = cache_features(dataset, PooledPixels(), "agentview", tmp_path, num_episodes=0)
    assert not cached.rows.any()


def test_disk_that_fills_up_while_writing_keeps_the_finished_blocks(path, expected, tmp_path, monkeypatch):
    written, pwrite = [], os.pwrite

    def fills_up(*arguments):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(arguments)
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", fills_up)
    with pytest.raises(CacheError, match="cannot be written.*No space left"):
        rows_of(path, tmp_path)
    monkeypatch.undo()
    rows, encoded = rows_of(path, tmp_path)
    assert encoded == FRAMES - 5 * BLOCK_FRAMES
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("left", [0, 1000, FRAMES * ROW_BYTES - 1])
def test_truncated_file_is_found_and_only_what_is_missing_is_made_again(path, expected, tmp_path, left):
    rows_of(path, tmp_path)
    with next(tmp_path.glob("*/features.f16")).open("r+b") as file:
        file.truncate(left)
    rows, encoded = rows_of(path, tmp_path)
    whole_blocks = left // (BLOCK_FRAMES * ROW_BYTES)
    assert encoded == FRAMES - whole_blocks * BLOCK_FRAMES
    np.testing.assert_array_equal(rows, expected)


def test_lost_file_is_made_again(path, expected, tmp_path):
    rows_of(path, tmp_path)
    next(tmp_path.glob("*/features.f16")).unlink()
    rows, encoded = rows_of(path, tmp_path)
    assert encoded == FRAMES
    np.testing.assert_array_equal(rows, expected)


def test_unchanged_file_is_not_hashed_again_and_a_changed_one_is(path, tmp_path, monkeypatch):
    rows_of(path, tmp_path)
    hashed, digest = [], Entry._digest
    monkeypatch.setattr(Entry, "_digest", lambda entry, block: hashed.append(block) or digest(entry, block))
    rows_of(path, tmp_path)
    assert hashed == []
    file = next(tmp_path.glob("*/features.f16"))
    let_the_clock_move_on(file, tmp_path / "probe")
    os.utime(file)
    assert rows_of(path, tmp_path)[1] == 0
    assert len(hashed) == BLOCKS
    rows_of(path, tmp_path)
    assert len(hashed) == BLOCKS


def test_damage_is_found_even_where_the_clock_was_set_back(path, expected, tmp_path):
    rows_of(path, tmp_path)
    file = next(tmp_path.glob("*/features.f16"))
    before = file.stat()
    let_the_clock_move_on(file, tmp_path / "probe")
    with file.open("r+b") as stream:
        stream.seek(3)
        stream.write(b"\x55")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    rows, encoded = rows_of(path, tmp_path)
    assert encoded == BLOCK_FRAMES
    np.testing.assert_array_equal(rows, expected)


def test_damage_that_no_clock_shows_is_found_by_verify_and_made_again_alone(path, expected, tmp_path):
    rows_of(path, tmp_path)
    file = next(tmp_path.glob("*/features.f16"))
    with file.open("r+b") as stream:
        stream.seek(7 * BLOCK_FRAMES * ROW_BYTES)
        stream.write(b"\x55")
    info = list_entries(tmp_path)[0]
    Entry(info.folder, FRAMES, ROW_BYTES).mark_checked()  # as a rotting disk would leave it
    assert rows_of(path, tmp_path)[1] == 0
    assert verify(info) == [7]
    assert list_entries(tmp_path)[0].done == FRAMES - BLOCK_FRAMES
    rows, encoded = rows_of(path, tmp_path)
    assert encoded == BLOCK_FRAMES
    np.testing.assert_array_equal(rows, expected)
    assert verify(info) == []


def hold(path, root, ready):
    """What a child process does: use the cache until it is killed."""
    with open_dataset(path) as dataset:
        cached = cache_features(dataset, PooledPixels(), "agentview", root)
        ready.put(float(cached.rows[0, 0]))
        threading.Event().wait()


def test_prune_leaves_entries_that_a_process_uses(path, tmp_path):
    ready = processes.Queue()
    process = processes.Process(target=hold, args=(path, tmp_path, ready))
    process.start()
    ready.get(timeout=600)
    entries = list_entries(tmp_path)
    assert len(entries) == 1
    assert prune(tmp_path, entries) == []
    assert verify(entries[0]) == []  # reading is no reason not to look
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert prune(tmp_path, entries) == entries
    assert list(tmp_path.iterdir()) == []


def test_an_entry_that_another_prune_deleted_is_not_free(path, tmp_path):
    rows_of(path, tmp_path)
    entries = list_entries(tmp_path)
    assert prune(tmp_path, entries) == entries
    assert prune(tmp_path, entries) == []
    assert list(tmp_path.iterdir()) == []


def test_an_entry_made_anew_while_its_lock_was_taken_is_not_free(path, tmp_path, monkeypatch):
    rows_of(path, tmp_path)
    (info,) = list_entries(tmp_path)
    flock = fcntl.flock

    def late(file, kind):
        if info.folder.exists() and not (tmp_path / "old").exists():
            info.folder.rename(tmp_path / "old")
            shutil.copytree(tmp_path / "old", info.folder)
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with untouched(info.folder, by_readers=True) as free:
        assert not free


def test_files_that_go_while_they_are_listed_are_left_out(path, tmp_path):
    rows_of(path, tmp_path)
    (info,) = list_entries(tmp_path)
    (info.folder / "manifest.json.partial").symlink_to("renamed")  # listed, and gone when it is looked at
    assert list_entries(tmp_path) == [info]


def peaks(small, large, root, results):
    """What a child process does: report the peak memory [kB] after a small and after a large build."""
    for path in (small, large):
        with open_dataset(path) as dataset:
            cache_features(dataset, Wide(), "agentview", root)
        results.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def test_peak_memory_does_not_grow_with_the_dataset(tmp_path):
    small = write_dataset(tmp_path / "small.hdf5", (100,) * 5)
    large = write_dataset(tmp_path / "large.hdf5", (100,) * 100)
    results = processes.Queue()
    process = processes.Process(target=peaks, args=(small, large, tmp_path / "cache", results))
    process.start()
    before, after = results.get(timeout=600), results.get(timeout=600)
    process.join()
    grown = next(path for path in tmp_path.glob("cache/*/features.f16") if path.stat().st_size > 100e6)
    assert grown.stat().st_size == 10_000 * 10_240
    assert after - before < 50_000  # half of what was added; how much a build needs depends on allocator and readahead
