import json
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import PooledPixels, let_the_clock_move_on, write_dataset

from s2robot import S2Encoder
from s2robot.data import open_dataset
from s2robot.feature_cache import BLOCK_FRAMES, cache_features, list_entries
from s2robot.feature_cache.shifts import Shift, default_pixels
from s2robot.interfaces import CacheError, EncoderError, Features, FeatureShape, PolicySpec
from s2robot.rollout.inference import Inference
from s2robot.system.machine import machine_facts, processor_name

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
    return encoder.feature_shape(16, 16).pack(features).numpy()


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


def test_training_and_rollouts_see_features_packed_by_one_function(dataset, tmp_path, monkeypatch):
    def pack(shape, features):
        return torch.full((len(features.map), shape.numel), 7.0, dtype=torch.float16)

    monkeypatch.setattr(FeatureShape, "pack", pack)
    cached = cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")
    assert (cached.rows == 7).all()
    encoder = S2Encoder("test_efficientnet", (64,), weights="none")
    spec = PolicySpec({"agentview": encoder.feature_shape(64, 64)}, 0, 1)
    images = {"agentview": np.zeros((64, 64, 3), np.uint8)}
    (encoded,) = Inference(torch.nn.Identity(), encoder, spec, torch.device("cpu")).encode([images])
    assert (encoded["agentview"] == 7).all()


def test_packed_features_are_float16_rows_that_unpack():
    shape = FeatureShape(channels=2, height=3, width=4, num_prefix=1)
    features = Features(torch.rand(5, 2, 3, 4), torch.rand(5, 1, 2))
    rows = shape.pack(features)
    assert (rows.dtype, rows.shape) == (torch.float16, (5, shape.numel))
    for found, expected in zip(shape.unflatten(rows), features, strict=True):
        assert torch.equal(found, expected.half())


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


def test_another_dataset_of_the_same_lengths_does_not_share_an_entry(dataset, tmp_path):
    cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")
    swapped = tmp_path / "swapped.hdf5"
    shutil.copy(dataset.path, swapped)
    with h5py.File(swapped, "r+") as file:
        images = file["data/demo_1/obs/agentview_image"]
        images[...] = 255 - images[...]
    with open_dataset(swapped) as second:
        assert second.lengths == dataset.lengths
        encoder = PooledPixels()
        cached = cache_features(second, encoder, "agentview", tmp_path / "cache")
        assert encoder.frames == FRAMES
        np.testing.assert_allclose(cached.rows, direct(second), atol=1e-3)


def test_only_the_blocks_of_the_first_episodes_are_encoded_and_more_can_follow(dataset, tmp_path):
    few, rest = PooledPixels(), PooledPixels()
    cache_features(dataset, few, "agentview", tmp_path / "cache", num_episodes=1)
    assert few.frames == BLOCK_FRAMES
    cached = cache_features(dataset, rest, "agentview", tmp_path / "cache")
    assert rest.frames == FRAMES - BLOCK_FRAMES
    np.testing.assert_allclose(cached.rows, direct(dataset), atol=1e-3)


def test_damaged_block_is_found_and_made_again_alone(dataset, tmp_path):
    cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")
    file = entry(tmp_path / "cache") / "features.f16"
    content = bytearray(file.read_bytes())
    content[BLOCK_FRAMES * 15 * 2 + 3] ^= 0xFF  # in the second block
    let_the_clock_move_on(file, tmp_path / "probe")
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


def test_features_that_overflow_float16_are_refused(dataset, tmp_path):
    class Huge(PooledPixels):
        def __call__(self, images):
            features = super().__call__(images)
            return Features(features.map * 1e6, features.prefix)

    with pytest.raises(CacheError, match="outside the range of float16 for frames 0 … 31, agentview of"):
        cache_features(dataset, Huge(), "agentview", tmp_path / "cache")


def test_shifted_copies_are_the_encoders_features_of_shifted_frames(dataset, tmp_path):
    cached = cache_features(dataset, PooledPixels(), "agentview", tmp_path, num_shifts=2, shift_pixels=3)
    images = np.concatenate([dataset.episode(i).images["agentview"] for i in range(len(dataset))])
    assert len(cached.shifted) == 2
    for copy, rows in enumerate(cached.shifted, start=1):
        shifted = Shift(copy, 3)(images, 0, "agentview")
        features = PooledPixels()(torch.from_numpy(shifted))
        expected = cached.shape.flatten(features).half().numpy()
        np.testing.assert_allclose(rows, expected, atol=1e-3)
        assert not np.array_equal(rows, cached.rows)


def test_copies_are_added_to_a_cache_without_making_the_others_again(dataset, tmp_path):
    cache_features(dataset, PooledPixels(), "agentview", tmp_path)
    first, second, other = PooledPixels(), PooledPixels(), PooledPixels()
    cache_features(dataset, first, "agentview", tmp_path, num_shifts=1)
    cache_features(dataset, second, "agentview", tmp_path, num_shifts=2)
    cache_features(dataset, other, "agentview", tmp_path, num_shifts=1, shift_pixels=5)
    assert first.frames == second.frames == other.frames == FRAMES


def test_a_shift_moves_the_picture_and_repeats_its_border():
    rows, columns = np.mgrid[:20, :24].astype(np.uint8)
    frames = np.stack([np.stack([rows, columns, rows], axis=-1)] * 300)
    shifts = set()
    for picture in Shift(1, 4)(frames, 100, "agentview"):
        down, right = int(picture[10, 10, 0]) - 10, int(picture[10, 10, 1]) - 10
        np.testing.assert_array_equal(picture[..., 0], (rows.astype(int) + down).clip(0, 19))
        np.testing.assert_array_equal(picture[..., 1], (columns.astype(int) + right).clip(0, 23))
        shifts.add((down, right))
    assert {down for down, _ in shifts} == {right for _, right in shifts} == set(range(-4, 5))
    assert len(shifts) > 60  # of 81: the two are drawn independently


def test_a_frames_shift_does_not_depend_on_the_block_it_is_read_in():
    frames = np.random.default_rng(0).integers(0, 256, (9, 12, 12, 3), dtype=np.uint8)
    whole = Shift(2, 3)(frames, 64, "wrist")
    np.testing.assert_array_equal(whole[4:], Shift(2, 3)(frames[4:], 68, "wrist"))
    assert not np.array_equal(whole, Shift(2, 3)(frames, 64, "agentview"))
    assert not np.array_equal(whole, Shift(1, 3)(frames, 64, "wrist"))


def test_default_shift_is_the_published_share_of_the_image():
    assert default_pixels(84, 84) == 4
    assert default_pixels(448, 600) == 21
    assert default_pixels(8, 8) == 1


def test_gather_takes_each_window_from_its_copy(dataset, tmp_path):
    cached = cache_features(dataset, PooledPixels(), "agentview", tmp_path, num_shifts=2)
    rows = np.array([[0, 1], [5, 6], [70, 71]])
    result = cached.gather(rows, np.array([2, 0, 1]))
    np.testing.assert_array_equal(result[0], cached.shifted[1][[0, 1]])
    np.testing.assert_array_equal(result[1], cached.rows[[5, 6]])
    np.testing.assert_array_equal(result[2], cached.shifted[0][[70, 71]])
    np.testing.assert_array_equal(cached.gather(rows), cached.rows[rows])


def test_worker_processes_get_the_files_and_not_a_copy_of_them(dataset, tmp_path):
    cached = cache_features(dataset, PooledPixels(), "agentview", tmp_path, num_shifts=1)
    sent = pickle.dumps(cached)
    paths = sum(len(str(rows.filename)) for rows in (cached.rows, *cached.shifted))
    assert len(sent) - paths < 1000 < cached.rows.nbytes
    arrived = pickle.loads(sent)
    np.testing.assert_array_equal(arrived.rows, cached.rows)
    np.testing.assert_array_equal(arrived.shifted[0], cached.shifted[0])


def test_moved_dataset_uses_the_same_entry_which_names_its_new_place(dataset, tmp_path):
    cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")
    moved = tmp_path / "moved.hdf5"
    moved.write_bytes(dataset.path.read_bytes())
    with open_dataset(moved) as opened:
        encoder = PooledPixels()
        cache_features(opened, encoder, "agentview", tmp_path / "cache")
    assert encoder.frames == 0
    (info,) = list_entries(tmp_path / "cache")
    assert info.dataset == str(moved)


def test_a_failing_encoder_is_its_own_error_and_loses_no_finished_block(dataset, tmp_path):
    class Failing(PooledPixels):
        def __call__(self, images):
            if self.frames == 2 * BLOCK_FRAMES:
                raise EncoderError("out of memory")
            return super().__call__(images)

    with pytest.raises(EncoderError, match="out of memory"):
        cache_features(dataset, Failing(), "agentview", tmp_path)
    rest = PooledPixels()
    cache_features(dataset, rest, "agentview", tmp_path)
    assert rest.frames == FRAMES - 2 * BLOCK_FRAMES


def records(root):
    """The lines of the entry's `blocks.jsonl`."""
    return [json.loads(line) for line in (entry(root) / "blocks.jsonl").read_text().splitlines() if line]


@pytest.fixture
def elsewhere(monkeypatch):
    """Encode on a machine of another processor from now on."""

    def move(processor):
        facts = {**machine_facts(torch.device("cpu")), "processor": processor}
        monkeypatch.setattr("s2robot.feature_cache.build.machine_facts", lambda device: dict(facts))

    return move


def test_blocks_added_on_another_kind_of_machine_are_told_apart_and_said(dataset, tmp_path, capsys, elsewhere):
    root = tmp_path / "cache"
    elsewhere("A")
    cache_features(dataset, PooledPixels(), "agentview", root, num_episodes=1)
    cache_features(dataset, PooledPixels(), "agentview", root, num_episodes=2)
    assert "kind of machine" not in capsys.readouterr().err
    elsewhere("B")
    before = sorted(root.iterdir())
    cached = cache_features(dataset, PooledPixels(), "agentview", root)
    assert sorted(root.iterdir()) == before  # the same entry
    np.testing.assert_allclose(cached.rows, direct(dataset), atol=1e-3)
    assert capsys.readouterr().err.count("by another machine, engine or library (processor B, was A)") == 1
    assert [record["by"]["processor"] for record in records(root)] == ["A", "A", "B"]
    assert "threads" not in records(root)[0]["by"]
    (info,) = list_entries(root)
    assert "encoded on 2 kinds of machine" in str(info)
    cache_features(dataset, PooledPixels(), "agentview", root)  # nothing is left to encode
    assert "kind of machine" not in capsys.readouterr().err


def test_a_block_made_again_leaves_the_makers_of_the_others(dataset, tmp_path, elsewhere):
    root = tmp_path / "cache"
    elsewhere("A")
    cache_features(dataset, PooledPixels(), "agentview", root)
    file = entry(root) / "features.f16"
    content = bytearray(file.read_bytes())
    content[3] ^= 0xFF
    let_the_clock_move_on(file, tmp_path / "probe")
    file.write_bytes(content)
    elsewhere("B")
    cache_features(dataset, PooledPixels(), "agentview", root)
    assert {record["block"]: record["by"]["processor"] for record in records(root)} == {0: "B", 1: "A", 2: "A"}


def test_a_cache_of_before_makers_were_recorded_is_used_and_extended(dataset, tmp_path, capsys):
    root = tmp_path / "cache"
    cache_features(dataset, PooledPixels(), "agentview", root, num_episodes=1)
    log = entry(root) / "blocks.jsonl"
    former = [{name: record[name] for name in ("block", "sha256")} for record in records(root)]
    log.write_text("".join(json.dumps(record) + "\n" for record in former))
    rest = PooledPixels()
    cache_features(dataset, rest, "agentview", root)
    assert rest.frames == FRAMES - BLOCK_FRAMES
    assert "kind of machine" not in capsys.readouterr().err
    assert [("by" in record) for record in records(root)] == [False, True, True]


def test_an_encoder_says_on_which_device_and_engine_it_ran(dataset, tmp_path):
    encoder = S2Encoder("test_efficientnet", (32,), weights="none")
    cache_features(dataset, encoder, "agentview", tmp_path / "cache", num_episodes=1)
    by = records(tmp_path / "cache")[0]["by"]
    assert (by["device"], by["engine"], by["processor"]) == ("cpu", "eager", processor_name())
