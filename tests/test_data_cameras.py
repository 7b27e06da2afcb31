"""Cameras under new names and pictures that are turned, for every format and every verb that reads them."""

import json

import numpy as np
import pytest
from dataset_examples import EXAMPLES
from helpers import PooledPixels, make_episode
from training_runs import make_config, make_encoder, make_workspace

from s2robot.checkpoint import load_checkpoint
from s2robot.cli import main
from s2robot.config import TrainConfig
from s2robot.data import FORMATS, CameraView, RobomimicWriter, open_dataset
from s2robot.data.conversion import convert_dataset
from s2robot.data.inspection import contact_sheet, inspect_dataset
from s2robot.feature_cache import cache_features, list_entries
from s2robot.interfaces import ConfigError, DatasetError
from s2robot.training import train
from s2robot.training.state import identity


@pytest.fixture(params=EXAMPLES)
def example(request):
    _ = EXAMPLES[request.param].path  # skips where a library is missing
    return EXAMPLES[request.param]


@pytest.fixture
def path(tmp_path):
    with RobomimicWriter(tmp_path / "demos.hdf5", {"env_name": "Toy", "type": 1, "env_kwargs": {}}) as writer:
        for seed in range(3):
            writer.add(make_episode(40, seed))
    return tmp_path / "demos.hdf5"


def test_a_view_passes_on_whatever_a_reader_defines_or_knows(example):
    own = {name for name in vars(CameraView) if not name.startswith("_")}
    for reader in FORMATS.values():
        assert {name for name in vars(reader) if not name.startswith("_")} - {"layout", "read_errors"} <= own, reader
    with open_dataset(example.path) as stored, open_dataset(example.path, cameras=stored.cameras) as view:
        known = {name for name in vars(stored) if not name.startswith("_")}
        assert {name: getattr(view, name) for name in known} == {name: getattr(stored, name) for name in known}
        assert view.fingerprint() == stored.fingerprint()
        assert view.filter_keys() == stored.filter_keys()


def test_a_mapping_renames_and_chooses_in_its_own_order_in_every_format(example):
    with open_dataset(example.path) as stored:
        expected = stored.episode(1)
        recorded = stored.cameras
    names = {f"view{index}": name for index, name in reversed(list(enumerate(recorded)))}
    with open_dataset(example.path, cameras=names) as dataset:
        assert dataset.cameras == list(names)
        episode = dataset.episode(1)
        assert list(episode.images) == list(names)
        for name, camera in names.items():
            np.testing.assert_array_equal(episode.images[name], expected.images[camera])
            assert dataset.image_size(name) == expected.images[camera].shape[1:3]
        np.testing.assert_array_equal(episode.actions, expected.actions)
        assert episode.proprioception.keys() == expected.proprioception.keys()
    with open_dataset(example.path, cameras={"only": example.camera}) as dataset:
        assert list(dataset.episode(0).images) == ["only"]
        assert dataset.episode(0, cameras=[]).images == {}
        with pytest.raises(DatasetError, match="unknown camera"):
            dataset.episode(0, cameras=[example.camera])


def test_a_flipped_camera_is_turned_upside_down_however_it_is_read(example):
    with open_dataset(example.path) as stored:
        expected = stored.episode(1).images
    with open_dataset(example.path, flip=[example.camera]) as dataset:
        images = dataset.episode(1).images
        some = np.empty_like(images[example.camera][:2])
        dataset.read_images(1, example.camera, 1, some)
    assert images.keys() == expected.keys()
    for camera, pictures in expected.items():
        turned = pictures[:, ::-1] if camera == example.camera else pictures
        np.testing.assert_array_equal(images[camera], turned)
    np.testing.assert_array_equal(some, expected[example.camera][1:3, ::-1])
    assert (some != expected[example.camera][1:3]).any()


def test_one_recorded_camera_may_have_two_names_of_which_one_is_turned(path):
    with open_dataset(path, cameras={"up": "wrist", "down": "wrist"}, flip=["down"]) as dataset:
        images = dataset.episode(0).images
    np.testing.assert_array_equal(images["up"], images["down"][:, ::-1])
    assert (images["up"] != images["down"]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cameras": {"front": "agentveiw"}}, "unknown camera 'agentveiw'; did you mean 'agentview'"),
        ({"cameras": ["front"]}, "unknown camera 'front'.*agentview, wrist"),
        ({"cameras": {"front": "position"}}, "unknown camera 'position'"),
        ({"cameras": {"front": "agentview"}, "flip": ["agentview"]}, "flip: unknown camera 'agentview'.*front"),
        ({"flip": ["frnt"]}, "flip: unknown camera 'frnt'.*agentview, wrist"),
    ],
)
def test_an_unknown_camera_names_the_file_and_the_choices(path, settings, message):
    with pytest.raises(DatasetError, match=rf"demos\.hdf5': {message}"):
        open_dataset(path, **settings)


@pytest.mark.parametrize("cameras", ["front", {}, [], 3, {"front": None}, {"front": ["a"]}, [1]])
def test_cameras_that_are_neither_names_nor_a_mapping_of_names_are_refused(cameras):
    with pytest.raises(ConfigError, match="cameras=.*valid: null, a list such as .*new name: recorded name"):
        TrainConfig(dataset="demos.hdf5", cameras=cameras)


def entries(root):
    return {info.folder.name: info.camera for info in list_entries(root)}


def test_a_new_name_shares_the_cached_features_and_a_flip_does_not(path, tmp_path):
    def encoded(**settings):
        encoder = PooledPixels()
        with open_dataset(path, **settings) as dataset:
            camera = dataset.cameras[0]
            features = cache_features(dataset, encoder, camera, tmp_path / "cache", num_shifts=1)
        return encoder.frames, np.array(features.rows), np.array(features.shifted[0])

    count, plain, shifted = encoded(cameras=["agentview"])
    assert count == 2 * 120
    before = entries(tmp_path / "cache")
    again, renamed, renamed_shifted = encoded(cameras={"front": "agentview"})
    assert again == 0
    assert entries(tmp_path / "cache") == before
    np.testing.assert_array_equal(renamed, plain)
    np.testing.assert_array_equal(renamed_shifted, shifted)
    turned_count, turned, _ = encoded(cameras={"front": "agentview"}, flip=["front"])
    assert turned_count == 2 * 120
    assert (turned != plain).any()
    assert sorted(entries(tmp_path / "cache").values()) == ["agentview"] * 2 + ["agentview, upside down"] * 2
    assert encoded(cameras=["agentview"], flip=["agentview"])[0] == 0


def test_features_of_flipped_frames_are_those_of_a_file_with_upright_frames(path, tmp_path):
    convert_dataset(path, tmp_path / "turned.hdf5", cameras=["wrist"], flip=["wrist"])
    with open_dataset(path, cameras={"hand": "wrist"}, flip=["hand"]) as dataset:
        mine = np.array(cache_features(dataset, PooledPixels(), "hand", tmp_path / "cache").rows)
    with open_dataset(tmp_path / "turned.hdf5") as dataset:
        np.testing.assert_array_equal(mine, cache_features(dataset, PooledPixels(), "wrist", tmp_path / "other").rows)


def test_a_checkpoint_records_the_new_names_as_those_of_the_environment(tmp_path):
    workspace = make_workspace(tmp_path)
    cameras = {"hand": "wrist", "front": "agentview"}
    config = make_config(workspace, tmp_path / "run", training={"epochs": 1}, cameras=cameras, flip=["hand"])
    checkpoint, _ = load_checkpoint(train(config, make_encoder()))
    assert list(checkpoint.spec.features) == ["hand", "front"]
    assert checkpoint.environment["cameras"] == ["hand", "front"]
    assert checkpoint.environment["image_size"].keys() == cameras.keys()
    assert checkpoint.config.cameras == cameras
    assert checkpoint.config.flip == ["hand"]


def test_a_run_from_before_the_setting_keeps_its_identity_and_a_flip_changes_it(tmp_path):
    config = make_config(tmp_path, tmp_path / "run", cameras=["wrist"])
    run = identity(config, "encoder", "data")
    assert "flip" not in run
    assert run["cameras"] == ["wrist"]
    flipped = identity(make_config(tmp_path, tmp_path / "run", cameras=["wrist"], flip=["wrist"]), "encoder", "data")
    assert flipped == {**run, "flip": ["wrist"]}


def test_inspect_convert_and_encode_take_a_mapping_from_the_command_line(path, tmp_path, capsys):
    words = ["cameras={front: agentview}", "flip=[front]"]
    assert main(["inspect", str(path), f"sheet={tmp_path}/sheet.png", *words]) == 0
    shown = capsys.readouterr().out
    assert "camera          front: 16 x 16 pixels" in shown
    assert "agentview" not in shown
    assert main(["convert", f"dataset={path}", f"out={tmp_path}/copy.hdf5", *words]) == 0
    with open_dataset(path) as source, open_dataset(tmp_path / "copy.hdf5") as copy:
        assert copy.cameras == ["front"]
        stored = source.episode(2).images["agentview"]
        np.testing.assert_array_equal(copy.episode(2).images["front"], stored[:, ::-1])
    capsys.readouterr()
    encoder = ["encoder.backbone=test_efficientnet", "encoder.scales=[32]", "encoder.weights=none", "device=cpu"]
    encode = ["--json", "encode", f"dataset={path}", f"cache_dir={tmp_path}/cache", *encoder]
    assert main([*encode, *words]) == 0
    assert json.loads(capsys.readouterr().out)["cameras"] == ["front"]
    assert list(entries(tmp_path / "cache").values()) == ["agentview, upside down"]


def test_the_sheet_shows_the_pictures_turned(path, tmp_path):
    plain = contact_sheet(path, tmp_path / "plain.png", cameras=["wrist"]).read_bytes()
    assert contact_sheet(path, tmp_path / "turned.png", cameras=["wrist"], flip=["wrist"]).read_bytes() != plain
    assert inspect_dataset(path, cameras={"w": "wrist"}).image_sizes == {"w": (16, 16)}


def test_an_interrupted_conversion_is_not_continued_with_other_cameras(path, tmp_path):
    class StopError(Exception):
        pass

    def interrupted(**settings):
        def stop(*_):
            raise StopError

        with pytest.MonkeyPatch.context() as patch, pytest.raises(StopError):
            calls = []
            add = RobomimicWriter.add
            patch.setattr(RobomimicWriter, "add", lambda *a: stop() if len(calls) == 2 else (calls.append(1), add(*a)))
            convert_dataset(path, tmp_path / "copy.hdf5", **settings)

    interrupted(cameras={"front": "wrist"})
    convert_dataset(path, tmp_path / "copy.hdf5", cameras={"front": "wrist"}, flip=["front"])
    with open_dataset(path) as source, open_dataset(tmp_path / "copy.hdf5") as copy:
        for index in range(3):
            stored = source.episode(index).images["wrist"]
            np.testing.assert_array_equal(copy.episode(index).images["front"], stored[:, ::-1])
