"""Every frame encoded once: features on disk, keyed by encoder fingerprint × data hash × camera.

A cache entry is a folder `<root>/<key>/`:

```
manifest.json    what the features are: fingerprints, camera, shape, number of frames
features.f16     float16 [frames, numel], memory-mapped (see `FeatureShape.flatten`)
blocks.jsonl     one line per finished block of 32 frames: its index and the sha256 of its bytes
```

A block is encoded in one call and recorded only after its bytes are on disk, so that a build killed anywhere
resumes and ends bit-identical, and a damaged block is found by its checksum and made again alone.
Because features are computed once, pixel augmentation (random crops) cannot be applied on top of a cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from s2robot.data import DemonstrationDataset
from s2robot.interfaces import CacheError, Encoder, FeatureShape

BLOCK_FRAMES = 32
_LAYOUT = 1  # bump when the files above change meaning


@dataclass(frozen=True)
class CachedFeatures:
    """Features of one camera: `rows` is a read-only float16 memory map [frames, numel]."""

    shape: FeatureShape
    rows: np.ndarray


def cache_features(
    dataset: DemonstrationDataset, encoder: Encoder, camera: str, root: str | Path, *, num_episodes: int | None = None
) -> CachedFeatures:
    """Encode every frame of `camera` that is not cached yet, and map the result.

    Args:
        dataset: the demonstrations.
        encoder: the frozen encoder.
        camera: whose images.
        root: folder of all cache entries.
        num_episodes: only the first n episodes are needed; the rows of later ones stay zero.

    Raises:
        CacheError: the folder cannot be written (for example a full disk) or belongs to other features.
    """
    shape = encoder.feature_shape(*dataset.image_size(camera))
    manifest: dict[str, Any] = {
        "layout": _LAYOUT,
        "encoder": encoder.fingerprint(),
        "data": dataset.fingerprint(),
        "camera": camera,
        "frames": sum(dataset.lengths),
        "block_frames": BLOCK_FRAMES,
        "shape": asdict(shape),
    }
    key = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:20]
    folder = Path(root) / key
    needed = sum(dataset.lengths[:num_episodes])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _write_manifest(folder, manifest)
            _encode_missing(folder, manifest, dataset, encoder, shape, needed)
    except OSError as error:
        raise CacheError(f"feature cache {str(folder)!r} cannot be written: {error}") from error
    rows = np.memmap(folder / "features.f16", np.float16, mode="r", shape=(manifest["frames"], shape.numel))
    return CachedFeatures(shape, rows)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the entry for this process; a second one waits and then finds the work done."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise CacheError(f"feature cache {str(path)!r} is damaged ({error}); delete the folder") from error
        if found != manifest:
            raise CacheError(f"feature cache {str(folder)!r} holds other features than asked for; delete the folder")
        return
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(manifest, indent=1))
    partial.rename(path)


def _finished_blocks(folder: Path, rows: np.memmap) -> set[int]:
    """Blocks recorded as done whose bytes still match their checksum."""
    path = folder / "blocks.jsonl"
    recorded: dict[int, str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the line being written when the process was killed
            continue
        recorded[entry["block"]] = entry["sha256"]
    return {block for block, digest in recorded.items() if _digest(rows, block) == digest}


def _digest(rows: np.ndarray, block: int) -> str:
    part = rows[block * BLOCK_FRAMES : (block + 1) * BLOCK_FRAMES]
    return hashlib.sha256(part.tobytes()).hexdigest()


def _encode_missing(
    folder: Path,
    manifest: dict[str, Any],
    dataset: DemonstrationDataset,
    encoder: Encoder,
    shape: FeatureShape,
    needed: int,
) -> None:
    frames = manifest["frames"]
    path = folder / "features.f16"
    size = frames * shape.numel * np.dtype(np.float16).itemsize
    if not path.exists() or path.stat().st_size != size:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a crash while writing
        (folder / "blocks.jsonl").unlink(missing_ok=True)
    rows = np.memmap(path, np.float16, mode="r+", shape=(frames, shape.numel))
    done = _finished_blocks(folder, rows)
    missing = [block for block in range(-(-needed // BLOCK_FRAMES)) if block not in done]
    if not missing:
        return
    camera = manifest["camera"]
    with (folder / "blocks.jsonl").open("a") as log, tqdm(total=len(missing) * BLOCK_FRAMES, unit="frame") as bar:
        bar.set_description(f"encoding {camera}")
        log.write("\n")  # ends a line cut short by a kill
        for block, images in _read_blocks(dataset, camera, missing):
            packed = shape.flatten(encoder(torch.from_numpy(images))).to("cpu", torch.float16)
            if not torch.isfinite(packed).all():
                raise CacheError(
                    f"encoder returned values outside float16 for {camera}, frames {block * BLOCK_FRAMES} … "
                    f"{block * BLOCK_FRAMES + len(images) - 1} of {str(dataset.path)!r}"
                )
            rows[block * BLOCK_FRAMES : block * BLOCK_FRAMES + len(images)] = packed.numpy()
            rows.flush()
            log.write(json.dumps({"block": block, "sha256": _digest(rows, block)}) + "\n")
            log.flush()
            bar.update(len(images))


def _read_blocks(dataset: DemonstrationDataset, camera: str, blocks: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (block, uint8 [n, H, W, 3]) in order; at most one episode beyond the block is in memory."""
    starts = np.concatenate([[0], np.cumsum(dataset.lengths)])
    held: tuple[int, np.ndarray] | None = None
    for block in blocks:
        start, stop = block * BLOCK_FRAMES, min((block + 1) * BLOCK_FRAMES, int(starts[-1]))
        parts = []
        for index in range(int(np.searchsorted(starts, start, "right")) - 1, int(np.searchsorted(starts, stop))):
            if held is None or held[0] != index:
                held = index, dataset.episode(index, cameras=[camera], proprioception=[]).images[camera]
            first = int(starts[index])
            parts.append(held[1][max(start - first, 0) : stop - first])
        yield block, np.concatenate(parts)
