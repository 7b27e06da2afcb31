"""Size and speed of HDF5's lossless codecs on recorded camera frames: the table of docs/datasets.md.

Run: python benchmarks/dataset_codecs.py DATASET [FRAMES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from s2robot.data import open_dataset
from s2robot.data.hdf5 import read_rows, write_rows

CODECS = {
    "none": {},
    "lzf": {"compression": "lzf"},
    "lzf + shuffle": {"compression": "lzf", "shuffle": True},
    "gzip 1": {"compression": "gzip", "compression_opts": 1},
    "gzip 1 by ISA-L": None,  # what s2robot does
    "gzip 1 + shuffle": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "gzip 4": {"compression": "gzip", "compression_opts": 4},
    "gzip 4 + shuffle": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
    "gzip 9": {"compression": "gzip", "compression_opts": 9},
}
REPEATS = 3  # the fastest counts, because other processes can only slow a run down


def frames_of(dataset_path: str, num: int) -> np.ndarray:
    """Read `num` frames spread over all episodes and cameras, uint8 [num, H, W, 3]."""
    frames = []
    with open_dataset(dataset_path) as dataset:
        each = -(-num // (len(dataset) * len(dataset.cameras)))
        for index in range(len(dataset)):
            for images in dataset.episode(index, proprioception=[]).images.values():
                frames += list(images[np.linspace(0, len(images) - 1, each).astype(int)])
    return np.stack(frames[:num])


def measure(frames: np.ndarray, options: dict | None, path: Path) -> tuple[float, float, float]:
    """Return kilobytes, milliseconds to write and milliseconds to read, all per frame; one chunk per frame."""
    writing, reading = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        with h5py.File(path, "w") as file:
            if options is None:
                write_rows(file, "images", frames)
            else:
                file.create_dataset("images", data=frames, chunks=(1, *frames.shape[1:]), **options)
        writing.append(time.perf_counter() - start)
        start = time.perf_counter()
        with h5py.File(path, "r") as file:
            images = file["images"]
            read = np.empty_like(frames[:1])
            for index in range(len(frames)):
                if options is None:
                    read_rows(images, index, read)
                else:
                    images.read_direct(read, np.s_[index : index + 1])
                if not np.array_equal(read[0], frames[index]):
                    raise SystemExit(f"frame {index} came back changed")
            stored = images.id.get_storage_size()
        reading.append(time.perf_counter() - start)
    count = len(frames)
    return stored / count / 1000, 1000 * min(writing) / count, 1000 * min(reading) / count


def main(dataset_path: str, num: str = "120") -> None:
    frames = frames_of(dataset_path, int(num))
    height, width = frames.shape[1:3]
    print(f"{len(frames)} frames of {height} x {width}; h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}\n")
    print("| codec | kB per frame | of raw | encode, ms | decode, ms |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, options in CODECS.items():
            size, encode, decode = measure(frames, options, Path(folder) / "frames.hdf5")
            print(f"| {name} | {size:.0f} | {size * 1000 / frames[0].nbytes:.1%} | {encode:.1f} | {decode:.1f} |")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
