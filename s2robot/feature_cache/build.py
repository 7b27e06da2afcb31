"""Fill the feature cache: encode the missing blocks, while threads read the next frames and write the last features."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from s2robot.data import DemonstrationDataset
from s2robot.feature_cache.entry import BLOCK_FRAMES, LAYOUT, Entry, Reading, write_text, writing
from s2robot.feature_cache.shifts import Shift, default_pixels
from s2robot.interfaces import CacheError, Encoder, FeatureShape
from s2robot.system.machine import Machine, differing_facts, machine_facts

_AHEAD = 2  # blocks read in advance of the one being encoded, and blocks that may wait to be written after it
_INFINITE = 0x7C00  # exponent bits of float16, all set in infinities and NaN
T = TypeVar("T")


@dataclass(frozen=True)
class CachedFeatures:
    """Cached features of one camera.

    Attributes:
        shape: shape of one frame's features.
        rows: features float16 [frames, numel], a read-only memory map.
        shifted: like `rows`, for each randomly shifted copy of the frames; empty without augmentation.
    """

    shape: FeatureShape
    rows: np.ndarray
    shifted: tuple[np.ndarray, ...] = ()
    _in_use: tuple[Reading, ...] = field(default=(), repr=False, compare=False)

    def gather(self, rows: np.ndarray, copies: np.ndarray | None = None) -> np.ndarray:
        """Return features float16 [B, To, numel] of `rows` [B, To]; window b from copy `copies[b]`, 0 = not shifted."""
        if copies is None or not self.shifted:
            return self.rows[rows]
        result = np.empty((*rows.shape, self.rows.shape[1]), self.rows.dtype)
        for copy, source in enumerate((self.rows, *self.shifted)):
            result[copies == copy] = source[rows[copies == copy]]
        return result

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the file names instead of the features, for worker processes that are spawned."""
        maps = [(str(r.filename), r.shape) if isinstance(r, np.memmap) else r for r in (self.rows, *self.shifted)]
        return {"shape": self.shape, "maps": maps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        maps = [np.memmap(m[0], np.float16, "r", shape=m[1]) if isinstance(m, tuple) else m for m in state["maps"]]
        files = [Path(m.filename) for m in maps if isinstance(m, np.memmap) and m.filename]
        in_use = tuple(Reading(file.parent) for file in files)
        values = {"shape": state["shape"], "rows": maps[0], "shifted": tuple(maps[1:]), "_in_use": in_use}
        for name, value in values.items():
            object.__setattr__(self, name, value)


def cache_features(
    dataset: DemonstrationDataset,
    encoder: Encoder,
    camera: str,
    root: str | Path,
    *,
    num_episodes: int | None = None,
    episodes: Sequence[int] | None = None,
    num_shifts: int = 0,
    shift_pixels: int | None = None,
) -> CachedFeatures:
    """Encode every frame of `camera` that is not cached yet, and map the result into memory.

    Args:
        dataset: the demonstrations.
        encoder: the frozen encoder.
        camera: name of the camera.
        root: folder of all cache entries.
        num_episodes: number of episodes needed, from the first; rows of later ones may be zero. None = all.
        episodes: positions of the episodes needed, if these are not the first; rows of others may be zero.
        num_shifts: K, the number of randomly shifted copies of every frame; each costs as much time and disk as the
            frames themselves.
        shift_pixels: largest shift [pixels]; None = `PUBLISHED_SHIFT` of the image.

    Raises:
        CacheError: the folder cannot be written (for example because the disk is full) or holds other features.
    """
    pixels = shift_pixels or default_pixels(*dataset.image_size(camera))
    copies: list[Shift | None] = [None, *(Shift(copy, pixels) for copy in range(1, num_shifts + 1))]
    needed = _blocks_of(dataset, range(len(dataset))[:num_episodes] if episodes is None else episodes)
    opened = [_open_entry(dataset, encoder, camera, Path(root), needed, shift) for shift in copies]
    entries, in_use = [entry for entry, _ in opened], tuple(file for _, file in opened)
    first, *others = (entry.rows() for entry in entries)
    return CachedFeatures(encoder.feature_shape(*dataset.image_size(camera)), first, tuple(others), in_use)


def _open_entry(
    dataset: DemonstrationDataset,
    encoder: Encoder,
    camera: str,
    root: Path,
    needed: list[int],
    shift: Shift | None,
) -> tuple[Entry, Reading]:
    shape = encoder.feature_shape(*dataset.image_size(camera))
    identity: dict[str, Any] = {
        "layout": LAYOUT,
        "encoder": encoder.fingerprint(),
        "data": dataset.fingerprint(),
        **dataset.identity_of(camera),
        "augmentation": None if shift is None else asdict(shift),
        "frames": sum(dataset.lengths),
        "block_frames": BLOCK_FRAMES,
        "shape": asdict(shape),
    }
    about = {"encoder": encoder.describe(), "dataset": str(dataset.path.resolve())}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
    entry = Entry(root / key, identity["frames"], 2 * shape.numel)
    try:
        with writing(entry.folder):
            _write_manifest(entry.folder, identity, about)
            _fill(entry, dataset, encoder, camera, shape, shift, needed)
            return entry, Reading(entry.folder)
    except OSError as error:
        raise CacheError(f"feature cache {str(entry.folder)!r} cannot be written: {error}") from error


def _write_manifest(folder: Path, identity: dict[str, Any], about: dict[str, str]) -> None:
    path = folder / "manifest.json"
    found = None
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise CacheError(f"feature cache {str(path)!r} is damaged ({error}); delete the folder") from error
        if not isinstance(found, dict) or {**found, "about": about} != {**identity, "about": about}:
            raise CacheError(
                f"feature cache {str(folder)!r} holds other features than this run needs; delete the folder"
            )
    if found != {**identity, "about": about}:  # a new entry, or the dataset was moved
        write_text(path, json.dumps({**identity, "about": about}, indent=1))


def _fill(
    entry: Entry,
    dataset: DemonstrationDataset,
    encoder: Encoder,
    camera: str,
    shape: FeatureShape,
    shift: Shift | None,
    needed: list[int],
) -> None:
    """Encode those of the needed blocks that are missing or damaged."""
    good = entry.good_blocks()
    missing = [block for block in needed if block not in good]
    damaged = sorted(entry.recorded().keys() - good)
    if damaged:
        print(f"feature cache {str(entry.folder)!r}: encoding {len(damaged)} damaged blocks again")
        entry.keep_only(good)
    if missing or not entry.is_whole():
        entry.reserve(needed)
    by = _maker(encoder)
    if missing:
        _compare_makers(entry, by)
    title = f"encoding {camera}" + (f", shift {shift.copy}" if shift else "")
    blocks = read_blocks(dataset, camera, missing, shift)
    with (
        closing(_ahead(blocks)) as images_ahead,
        ThreadPoolExecutor(1, "write features") as writer,
        tqdm(total=entry.frames_of(missing), unit="frame", desc=title, disable=not missing) as bar,
    ):
        written: deque[Future[None]] = deque()
        for block, images in images_ahead:
            packed = shape.pack(encoder(torch.from_numpy(images))).cpu().numpy()
            written.append(writer.submit(_store, entry, block, packed, by, f"{camera} of {str(dataset.path)!r}"))
            if len(written) > _AHEAD:
                written.popleft().result()
            bar.update(len(images))
        for future in written:
            future.result()
    if not entry.is_checked():
        entry.mark_checked()


def _blocks_of(dataset: DemonstrationDataset, episodes: Sequence[int]) -> list[int]:
    """Return the blocks that hold frames of these episodes, in order."""
    ends = np.cumsum(dataset.lengths)
    blocks: set[int] = set()
    for index in episodes:
        first, stop = int(ends[index]) - dataset.lengths[index], int(ends[index])
        blocks.update(range(first // BLOCK_FRAMES, -(-stop // BLOCK_FRAMES)))
    return sorted(blocks)


def _maker(encoder: Encoder) -> Machine:
    """Return what changes features by rounding: the machine (without its thread count) and the encoder's engine."""
    device, engine = torch.device(getattr(encoder, "device", "cpu")), getattr(encoder, "engine", None)
    unimportant = {"threads", "processor"} if device.type == "cuda" else {"threads"}
    facts = {name: value for name, value in machine_facts(device).items() if name not in unimportant}
    if engine == "openvino":
        facts["openvino"] = importlib.metadata.version("openvino")
    return {**facts, "engine": engine}


def _compare_makers(entry: Entry, here: Machine) -> None:
    """Print a line if this machine adds blocks to an entry that another kind of machine began."""
    found = next(filter(None, (differing_facts(former, here) for former in entry.makers())), "")
    if found:
        print(
            f"feature cache {str(entry.folder)!r}: some blocks were encoded by another machine, engine or library "
            f"({found}); the features differ by rounding, and each block records what encoded it",
            file=sys.stderr,
        )


def _store(entry: Entry, block: int, rows: np.ndarray, by: Machine, source: str) -> None:
    if ((rows.view(np.uint16) & _INFINITE) == _INFINITE).any():  # on the bits: np.isfinite on float16 is slow
        first = block * BLOCK_FRAMES
        raise CacheError(
            f"the encoder returned values outside the range of float16 for frames {first} … {first + len(rows) - 1}, "
            f"{source}"
        )
    entry.store(block, rows, by)


def _ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield the same items, while a thread makes the next few."""
    with ThreadPoolExecutor(1, "read frames") as reader:  # one thread: two cannot advance a generator at once
        pending = deque(reader.submit(next, items, None) for _ in range(_AHEAD))
        while (item := pending.popleft().result()) is not None:
            pending.append(reader.submit(next, items, None))
            yield item


def read_blocks(
    dataset: DemonstrationDataset, camera: str, blocks: list[int], shift: Shift | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (block, uint8 [n, H, W, 3]) in order."""
    starts = np.concatenate([[0], np.cumsum(dataset.lengths)])
    for block in blocks:
        start, stop = block * BLOCK_FRAMES, min((block + 1) * BLOCK_FRAMES, int(starts[-1]))
        images = np.empty((stop - start, *dataset.image_size(camera), 3), np.uint8)
        for index in range(int(np.searchsorted(starts, start, "right")) - 1, int(np.searchsorted(starts, stop))):
            first, last = max(start, int(starts[index])), min(stop, int(starts[index + 1]))
            dataset.read_images(index, camera, first - int(starts[index]), images[first - start : last - start])
        # By its recorded name, so that a new name changes no shift.
        yield block, images if shift is None else shift(images, start, dataset.identity_of(camera)["camera"])
