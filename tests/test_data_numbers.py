"""Pictures of other types than bytes, and grey ones without channels: converted and told, or refused by name."""

import logging
import shutil

import h5py
import numpy as np
import pytest
from test_data_fields import LENGTH, replay_buffer, robomimic
from test_data_pictures import HEIGHT, LAYOUTS, WIDTH, pictures, shown, with_pictures
from training_runs import make_config, make_encoder

from s2robot.checkpoint import load_checkpoint
from s2robot.data import open_dataset
from s2robot.data.conversion import convert_dataset
from s2robot.data.inspection import inspect_dataset
from s2robot.interfaces import DatasetError
from s2robot.policies.bc import BCConfig
from s2robot.training import train
from s2robot.training.data import plan_training

KINDS = pytest.mark.parametrize("kind", ["robomimic", "replay_buffer", "minari"])
NUMBERS = {
    "0 to 1, float32": (np.float32, 1 / 255),
    "0 to 1, float64": (np.float64, 1 / 255),
    "0 to 1, float16": (np.float16, 1 / 255),
    "0 to 255, float32": (np.float32, 1),
    "0 to 255, int64": (np.int64, 1),
    "0 to 255, uint16": (np.uint16, 1),
}


def stored(layout, dtype, factor):
    """The pictures as `dtype`, as robomimic's own processing divides them: value / 255."""
    return lambda count: (LAYOUTS[layout](pictures(count)).astype(np.float64) * factor).astype(dtype)


@KINDS
@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("layout", ["RGB", "RGB, channels first", "RGBA", "grey, channels first"])
def test_numbers_that_are_certainly_pictures_become_the_same_bytes_and_it_is_told(
    kind, numbers, layout, tmp_path, capsys
):
    path = with_pictures(tmp_path, kind, {"wrist_cam": stored(layout, *NUMBERS[numbers])})
    with open_dataset(path) as dataset:
        expected = shown(layout, pictures(dataset.lengths[1] + (kind == "minari"))[: dataset.lengths[1]])
        np.testing.assert_array_equal(dataset.episode(1).images["wrist_cam"], expected)
        some = np.empty((2, HEIGHT, WIDTH, 3), np.uint8)
        dataset.read_images(1, "wrist_cam", 3, some)
        np.testing.assert_array_equal(some, expected[3:5])
        told = dataset.conversions["wrist_cam"]
    assert np.dtype(NUMBERS[numbers][0]).name in told
    assert ("multiplied by 255" in told) == numbers.startswith("0 to 1,")
    assert f"camera          wrist_cam: {HEIGHT} x {WIDTH} pixels ({told})" in str(inspect_dataset(path))
    convert_dataset(path, tmp_path / "copy.hdf5")
    assert f"converted: wrist_cam ({told})" in capsys.readouterr().err


@KINDS
def test_grey_pictures_without_channels_are_read_if_their_name_says_picture(kind, tmp_path):
    fields = dict.fromkeys(["wrist_image", "grayCam", "rgb2"], lambda count: pictures(count)[..., 0])
    fields["tactile"] = fields["depth_image"] = fields["wrist_image"]
    path = with_pictures(tmp_path, kind, fields)
    with open_dataset(path) as dataset:
        ending = "" if kind == "robomimic" else "_image"
        assert {f"wrist{ending}", "grayCam", "rgb2"} <= set(dataset.cameras)
        episode = dataset.episode(1)
        expected = np.repeat(pictures(dataset.lengths[1] + (kind == "minari"))[: dataset.lengths[1], ..., :1], 3, -1)
        np.testing.assert_array_equal(episode.images["grayCam"], expected)
        assert "grey" in dataset.conversions["grayCam"]
        assert {"tactile", "depth_image"} <= set(dataset.skipped)


@KINDS
def test_what_may_be_grey_pictures_is_read_as_them_if_it_is_chosen(kind, tmp_path):
    path = with_pictures(tmp_path, kind, {"tactile": lambda count: pictures(count)[..., 0], "top": pictures})
    with open_dataset(path) as dataset:
        assert "tactile" not in dataset.cameras
        assert "cameras=[tactile] takes it for them" in dataset.left_out()["tactile"]
        assert "tactile" not in dataset.episode(0).images
        assert "tactile" not in dataset.proprioception
    with open_dataset(path, cameras={"finger": "tactile"}) as dataset:
        expected = np.repeat(pictures(dataset.lengths[1] + (kind == "minari"))[: dataset.lengths[1], ..., :1], 3, -1)
        np.testing.assert_array_equal(dataset.episode(1).images["finger"], expected)
        some = np.empty((2, HEIGHT, WIDTH, 3), np.uint8)
        dataset.read_images(1, "finger", 3, some)
        np.testing.assert_array_equal(some, expected[3:5])
        assert dataset.image_size("finger") == (HEIGHT, WIDTH)
        assert "tactile" not in dataset.left_out()
        assert "grey" in dataset.conversions["finger"]


REFUSED = {
    "negative": (lambda x: x / 127.5 - 1, "numbers from -1 to 1"),
    "normalised": (lambda x: x / 255 * 4.5, "numbers from 0 to 4.5"),
    "fractions of 255": (lambda x: x + 0.0 * x - 0.5 * (x > 0), "numbers from 0 to 254.5"),
    "16 bits": (lambda x: x * 257, "whole numbers from 0 to 65535"),
    "only 0 and 1": (lambda x: x > 127, "only 0 and 1"),
    "not finite": (lambda x: x / np.where(x < 9, 0, 255), "not all finite"),
}


@KINDS
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore:(divide|invalid)")
def test_numbers_of_another_range_are_named_with_it_and_refuse_only_themselves(kind, case, tmp_path):
    change, message = REFUSED[case]

    def make(count):
        values = LAYOUTS["RGB, channels first"](pictures(count)).astype(np.float64)
        values[:, 0, 0, 0], values[:, 0, 0, 1] = 0, 255
        return change(values).astype(np.float32)

    path = with_pictures(tmp_path, kind, {"side": make, "top": pictures})
    with open_dataset(path, cameras=["top"]) as dataset:
        assert dataset.episode(1).images["top"].shape[1:] == (HEIGHT, WIDTH, 3)
    with pytest.raises(
        DatasetError, match=f"'side' cannot be a camera: float32 .*looks like pictures, but .*{message}"
    ):
        open_dataset(path, cameras=["side"])
    assert "left out        side: float32" in str(inspect_dataset(path))


@pytest.mark.parametrize("key", ["point_cloud", "wrist_depth", "normals", "flow_xyz", "segmentation"])
def test_maps_with_three_channels_are_not_pictures_even_if_from_0_to_1(key, tmp_path):
    path = replay_buffer(tmp_path, **{key: pictures(2 * LENGTH) / np.float32(255), "front": pictures(2 * LENGTH)})
    with open_dataset(path) as dataset:
        assert dataset.cameras == ["front"]
        assert key in dataset.skipped


@pytest.mark.parametrize("kind", ["robomimic", "minari"])
def test_a_later_demonstration_of_another_type_or_range_is_one_clear_error(kind, tmp_path):
    def write(change):
        path = with_pictures(tmp_path, kind, {"side": lambda count: pictures(count) / np.float32(255)})
        file = path if kind == "robomimic" else path / "data/main_data.hdf5"
        with h5py.File(file, "r+") as opened:
            group = opened["data/demo_1/obs" if kind == "robomimic" else "episode_1/observations"]
            values = change(group["side"][:])
            del group["side"]
            group["side"] = values
        return path

    for change, message in {
        "range": (
            lambda values: values * 2,
            "_1: images of side are float32 with values other than numbers from 0",
        ),
        "type": (lambda values: (values * 255).astype(np.uint8), "_1: .*side is uint8 .*; valid: float32 as in"),
    }.values():
        path = write(change)
        with open_dataset(path) as dataset:
            dataset.episode(0)
            with pytest.raises(DatasetError, match=message):
                dataset.episode(1)
        if path.is_dir():
            shutil.rmtree(path)


def test_training_tells_each_conversion_of_a_chosen_camera(tmp_path, caplog):
    def change(file):
        for demo in file["data"].values():
            demo["obs/side"] = np.moveaxis(pictures(LENGTH), -1, 1) / np.float32(255)
            demo["obs/other"] = pictures(LENGTH) / np.float32(255)

    path = robomimic(tmp_path, change)
    policy = BCConfig(hidden=[32], action_steps=4)
    config = make_config(tmp_path, tmp_path / "run", policy=policy, cameras={"front": "side"})
    with open_dataset(path, cameras=config.cameras) as dataset, caplog.at_level(logging.WARNING):
        plan_training(dataset, config, make_encoder())
    told = [line for line in caplog.messages if "is converted" in line]
    assert told == [f"dataset {str(path)!r}: camera front is converted: float32 from 0 to 1, multiplied by 255"]


def test_a_policy_trains_on_channels_first_numbers_beside_a_key_that_is_no_picture(tmp_path):
    def change(file):
        for demo in file["data"].values():
            demo["obs/side"] = np.moveaxis(np.random.default_rng(0).random((LENGTH, 32, 32, 3), np.float32), -1, 1)
            demo["obs/odd"] = np.full((LENGTH, 32, 32, 3), np.nan, np.float32)

    robomimic(tmp_path, change)
    policy = BCConfig(hidden=[32], action_steps=4)
    config = make_config(tmp_path, tmp_path / "run", policy=policy, cameras=["side"], training={"epochs": 1})
    checkpoint, _ = load_checkpoint(train(config, make_encoder()))
    assert checkpoint.environment["image_size"] == {"side": 32}
