"""Small stand-ins shared by the tests; the encoder is cheap, but really computes features from the pixels."""

from __future__ import annotations

import subprocess
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from s2robot.backbones import BackboneSpec, table
from s2robot.data import RobomimicWriter
from s2robot.interfaces import Episode, Features, FeatureShape
from s2robot.system.registry import Registry

CAMERAS = ("agentview", "wrist")
ENVIRONMENT = {"task": "Lift", "cameras": list(CAMERAS), "image_size": 16, "render_profile": "fast", "horizon": 20}


class PooledPixels:
    """An encoder for tests: the image pooled to a 2 x 2 map of 3 channels, and its mean as one prefix token."""

    def __init__(self) -> None:
        self.frames = 0

    def __call__(self, images: Tensor) -> Features:
        self.frames += len(images)
        pixels = images.permute(0, 3, 1, 2).float() / 255
        return Features(torch.nn.functional.adaptive_avg_pool2d(pixels, 2), pixels.mean((2, 3))[:, None])

    def feature_shape(self, height: int, width: int) -> FeatureShape:
        return FeatureShape(channels=3, height=2, width=2, num_prefix=1)

    def fingerprint(self) -> str:
        return "pooled-pixels"

    def describe(self) -> str:
        return "pooled pixels {2}"


def make_episode(length: int, seed: int) -> Episode:
    """Make a toy demonstration that can be learnt: each action moves against the observed position."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(-1, 1, (length, 3)).astype(np.float32)
    return Episode(
        actions=np.concatenate([-position, np.sign(position[:, :1])], axis=1),
        images={camera: rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8) for camera in CAMERAS},
        proprioception={"position": position, "extra": np.zeros((length, 2), np.float32)},
        attributes={"seed": seed},
    )


def offer(monkeypatch: pytest.MonkeyPatch, *rows: BackboneSpec) -> None:
    """Add backbones to those of the table, or replace some of them, for one test."""
    offered = {**table.BACKBONES, **{row.name: row for row in rows}}
    monkeypatch.setattr(table, "BACKBONES", Registry("backbone", "s2robot.nothing", offered))


def let_the_clock_move_on(file: Path, probe: Path) -> None:
    """Wait until a change to `file` gets a new modification time, which has steps of milliseconds or even seconds.

    Args:
        file: the file that is about to be changed.
        probe: any other path on the same file system.
    """
    probe.touch()
    while probe.stat().st_ctime_ns <= file.stat().st_ctime_ns:
        time.sleep(0.001)
        probe.touch()
    probe.unlink()


def write_dataset(path: Path, lengths: tuple[int, ...] = (7, 40, 1, 30)) -> Path:
    with RobomimicWriter(path, {"env_name": "Lift", "type": 1, "env_kwargs": {}, "s2robot": ENVIRONMENT}) as writer:
        for seed, length in enumerate(lengths):
            writer.add(make_episode(length, seed))
    return path


@lru_cache
def _encoders_of_ffmpeg() -> str:
    import imageio_ffmpeg

    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-encoders"]
    except RuntimeError:  # this machine has no ffmpeg
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def needs_films() -> None:
    """Skip the test if videos of rollouts cannot be made: some builds of ffmpeg lack the encoder (its licence)."""
    if "libx264" not in _encoders_of_ffmpeg():
        pytest.skip("imageio's ffmpeg has no encoder libx264 here")


def needs_videos() -> None:
    """Skip the test if the videos of LeRobot's datasets cannot be made; compare `needs_films`."""
    av = pytest.importorskip("av", reason="av is not installed (pip install -e '.[dev]')")
    if "libx264" not in av.codecs_available:
        pytest.skip("PyAV has no encoder libx264 here")
