import errno
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PooledPixels, write_dataset

from s2robot import feature_cache
from s2robot.data import open_dataset
from s2robot.feature_cache import BLOCK_FRAMES, cache_features
from s2robot.interfaces import CacheError, Features

FRAMES = 7 + 40 + 1 + 30


@pytest.fixture
def dataset(tmp_path):
    with open_dataset(write_dataset(tmp_path / "demos.hdf5")) as opened:
        yield opened


def direct(dataset, camera="agentview"):
    """Every frame encoded without a cache."""
    encoder = PooledPixels()
    images = np.concatenate([dataset.episode(i).images[camera] for i in range(len(dataset))])
    features = encoder(torch.from_numpy(images))
    return encoder.feature_shape(16, 16).flatten(features).half().numpy()


def entry(root: Path) -> Path:
    (folder,) = root.iterdir()
    return folder


def test_cached_rows_are_the_encoders_features_of_every_frame(dataset, tmp_path):
    cached = cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")
    assert cached.rows.shape == (FRAMES, 3 * 5)
    np.testing.assert_allclose(cached.rows, direct(dataset), atol=1e-3)
    features = cached.shape.unflatten(torch.from_numpy(np.array(cached.rows)))
    assert features.map.shape == (FRAMES, 3, 2, 2)
    assert features.prefix.shape == (FRAMES, 1, 3)


def test_second_use_encodes_nothing(dataset, tmp_path):
    first, second = PooledPixels(), PooledPixels()
    cache_features(dataset, first, "agentview", tmp_path / "cache")
    cache_features(dataset, second, "agentview", tmp_path / "cache")
    assert first.frames == FRAMES
    assert second.frames == 0


def test_cameras_and_encoders_do_not_share_entries(dataset, tmp_path):
    other = PooledPixels()
    other.fingerprint = lambda: "another"
    for camera, encoder in (("agentview", PooledPixels()), ("wrist", PooledPixels()), ("agentview", other)):
        cache_features(dataset, encoder, camera, tmp_path / "cache")
        assert encoder.frames == FRAMES
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_only_the_blocks_of_the_first_episodes_are_encoded_and_more_can_follow(dataset, tmp_path):
    few, rest = PooledPixels(), PooledPixels()
    cache_features(dataset, few, "agentview", tmp_path / "cache", num_episodes=1)
    assert few.frames == BLOCK_FRAMES
    cached = cache_features(dataset, rest, "agentview", tmp_path / "cache")
    assert rest.frames == FRAMES - BLOCK_FRAMES
    np.testing.assert_allclose(cached.rows, direct(dataset), atol=1e-3)


class Interrupted(PooledPixels):
    """Dies like a killed process at its second call."""

    def __call__(self, images):
        if self.frames:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(images)


def build_and_die(path, root):
    with open_dataset(path) as opened:
        cache_features(opened, Interrupted(), "agentview", root)


def test_killed_build_resumes_and_ends_bit_identical(dataset, tmp_path):
    process = multiprocessing.get_context("spawn").Process(
        target=build_and_die, args=(dataset.path, tmp_path / "killed")
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    resumed = PooledPixels()
    cached = cache_features(dataset, resumed, "agentview", tmp_path / "killed")
    assert resumed.frames == FRAMES - BLOCK_FRAMES
    whole = cache_features(dataset, PooledPixels(), "agentview", tmp_path / "whole")
    np.testing.assert_array_equal(cached.rows, whole.rows)


def test_damaged_block_is_found_and_made_again_alone(dataset, tmp_path):
    cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")
    file = entry(tmp_path / "cache") / "features.f16"
    content = bytearray(file.read_bytes())
    content[BLOCK_FRAMES * 15 * 2 + 3] ^= 0xFF  # in the second block
    file.write_bytes(content)
    repair = PooledPixels()
    cached = cache_features(dataset, repair, "agentview", tmp_path / "cache")
    assert repair.frames == BLOCK_FRAMES
    np.testing.assert_allclose(cached.rows, direct(dataset), atol=1e-3)


def test_line_cut_short_by_a_kill_is_not_trusted(dataset, tmp_path):
    cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")
    log = entry(tmp_path / "cache") / "blocks.jsonl"
    log.write_text(log.read_text()[:-10])
    repair = PooledPixels()
    cache_features(dataset, repair, "agentview", tmp_path / "cache")
    assert repair.frames == FRAMES % BLOCK_FRAMES


def test_changed_manifest_is_refused(dataset, tmp_path):
    cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")
    manifest = entry(tmp_path / "cache") / "manifest.json"
    manifest.write_text(manifest.read_text().replace("pooled-pixels", "foreign"))
    with pytest.raises(CacheError, match="holds other features"):
        cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")


def test_full_disk_is_one_clear_error_and_the_cache_stays_usable(dataset, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_cache.os, "posix_fallocate", full)
    with pytest.raises(CacheError, match="cannot be written.*No space left"):
        cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")
    monkeypatch.undo()
    cached = cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")
    np.testing.assert_allclose(cached.rows, direct(dataset), atol=1e-3)


def test_features_that_overflow_float16_are_refused(dataset, tmp_path):
    class Huge(PooledPixels):
        def __call__(self, images):
            features = super().__call__(images)
            return Features(features.map * 1e6, features.prefix)

    with pytest.raises(CacheError, match="outside float16 for agentview, frames 0"):
        cache_features(dataset, Huge(), "agentview", tmp_path / "cache")
