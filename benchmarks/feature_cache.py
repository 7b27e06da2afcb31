"""The feature cache's speed as a share of the encoder's own speed, and the cost of opening a full cache.

Run: python benchmarks/feature_cache.py demos/lift.hdf5 [--engines openvino eager] [--frames 256] [--rounds 7]
     python benchmarks/feature_cache.py demos/lift.hdf5 --open [--gigabytes 4]
Prints a Markdown table. On two cores, the first form takes about a minute per round and engine, the second one minute.

(a) encodes the same blocks of 32 frames, already decoded and in memory: the encoder's own speed.
(b) is `cache_features` from the file to a cache on disk: decoding, encoding, writing, hashing.
(c) is (b) without threads: one block is read, then encoded, then written.
All three take turns within each round. A share is the median over rounds of the ratio within one round, so that other
load on the machine affects all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

# PyTorch's and OpenVINO's thread pools take turns here: threads of one that spin while waiting slow down the other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from s2robot.data import DemonstrationDataset, open_dataset
from s2robot.encoder import S2Encoder
from s2robot.encoder.tuning import time_in_turn
from s2robot.feature_cache import BLOCK_FRAMES, build, cache_features
from s2robot.feature_cache.entry import Entry


def ready(encoder: S2Encoder, blocks: list[np.ndarray]) -> None:
    """Form (a): the encoder alone."""
    for images in blocks:
        encoder(torch.from_numpy(images))


def cached(encoder: S2Encoder, dataset: DemonstrationDataset, episodes: int, scratch: str) -> None:
    """Form (b): the feature cache."""
    with tempfile.TemporaryDirectory(dir=scratch) as root:
        cache_features(dataset, encoder, dataset.cameras[0], root, num_episodes=episodes)


def in_sequence(encoder: S2Encoder, dataset: DemonstrationDataset, blocks: int, scratch: str) -> None:
    """Form (c): the feature cache without threads."""
    camera = dataset.cameras[0]
    shape = encoder.feature_shape(*dataset.image_size(camera))
    with tempfile.TemporaryDirectory(dir=scratch) as root:
        entry = Entry(Path(root), sum(dataset.lengths), 2 * shape.numel)
        entry.reserve(blocks * BLOCK_FRAMES)
        for block, images in build.read_blocks(dataset, camera, list(range(blocks)), None):
            rows = shape.flatten(encoder(torch.from_numpy(images))).to("cpu", torch.float16).numpy()
            entry.store(block, rows)
        entry.mark_checked()


def throughput(dataset: DemonstrationDataset, engine: str, frames: int, rounds: int, scratch: str) -> list[str]:
    """Return one line of the table."""
    encoder = S2Encoder("efficientnet_lite0", (224, 448), engine=engine)
    lengths = np.cumsum(dataset.lengths)
    episodes = int(np.searchsorted(lengths, frames)) + 1
    needed = -(-int(lengths[min(episodes, len(lengths)) - 1]) // BLOCK_FRAMES)
    blocks = [images for _, images in build.read_blocks(dataset, dataset.cameras[0], list(range(needed)), None)]
    count = sum(map(len, blocks))
    functions = [
        partial(ready, encoder, blocks),
        partial(cached, encoder, dataset, episodes, scratch),
        partial(in_sequence, encoder, dataset, needed, scratch),
    ]
    times = time_in_turn(functions, rounds)
    speeds = [f"{count / statistics.median(row):.1f}" for row in times]
    shares = [statistics.median(a / b for a, b in zip(times[0], row, strict=True)) for row in times[1:]]
    return [engine, str(count), *speeds, *(f"{share:.3f}" for share in shares)]


def opening(dataset: DemonstrationDataset, gigabytes: float, scratch: str) -> list[str]:
    """Return the seconds to open a full cache, to open it with every block hashed again, and to hash the dataset."""
    row_bytes = 640 * 7 * 7 * 2
    with tempfile.TemporaryDirectory(dir=scratch) as root:
        entry = Entry(Path(root), int(gigabytes * 1e9 / row_bytes), row_bytes)
        entry.reserve(entry.frames)
        rng = np.random.default_rng(0)
        for block in range(entry.blocks):
            rows = rng.standard_normal((entry.frames_of([block]), row_bytes // 2), dtype=np.float32)
            entry.store(block, rows.astype(np.float16))
        entry.mark_checked()
        seconds = []
        for full_check in (False, True):
            start = time.perf_counter()
            found = entry.good_blocks(full_check)
            seconds.append(time.perf_counter() - start)
            if len(found) != entry.blocks:
                raise SystemExit("the cache was damaged while it was measured")
    start = time.perf_counter()
    dataset.fingerprint()
    hashing = (time.perf_counter() - start) / (dataset.path.stat().st_size / 1e9)
    return [f"{gigabytes:g}", str(entry.blocks), f"{seconds[0]:.4f}", f"{seconds[1]:.2f}", f"{hashing:.2f}"]


def markdown(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--engines", nargs="+", default=["openvino", "eager"])
    parser.add_argument("--frames", type=int, default=256, help="at least so many, whole episodes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--open", action="store_true", help="measure opening instead of encoding")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--scratch", default=".", help="where the caches are written")
    options = parser.parse_args()
    with open_dataset(options.dataset) as dataset:
        if options.open:
            header = ["GB", "blocks", "open, s", "open with every block hashed, s", "hash the dataset, s per GB"]
            print(markdown(header, [opening(dataset, options.gigabytes, options.scratch)]))
        else:
            dataset.fingerprint()  # the dataset keeps it, so a run computes it once, not once per camera
            header = ["engine", "frames", "(a) frames/s", "(b) frames/s", "(c) frames/s", "(b) of (a)", "(c) of (a)"]
            lines = [
                throughput(dataset, engine, options.frames, options.rounds, options.scratch)
                for engine in options.engines
            ]
            print(markdown(header, lines))
    model = next(
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    )
    print(
        f"\n{model}, {torch.get_num_threads()} threads; Python {platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
