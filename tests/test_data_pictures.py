"""Pictures are found by their content under any key; what is not read as a picture is named."""

import h5py
import numpy as np
import pytest
from dataset_examples import EXAMPLES
from test_data_fields import LENGTH, lerobot, minari, replay_buffer, robomimic

from s2robot.data import open_dataset
from s2robot.data.conversion import convert_dataset
from s2robot.data.inspection import inspect_dataset
from s2robot.data.kinds import as_rgb, picture_size
from s2robot.interfaces import DatasetError

HEIGHT, WIDTH = 16, 24
KEYS = ["image", "agentview_rgb", "table_cam", "side", "goal_image"]
LAYOUTS = {
    "RGB": lambda rgb: rgb,
    "RGBA": lambda rgb: np.concatenate([rgb, rgb[..., :1]], axis=-1),
    "grey": lambda rgb: rgb[..., :1],
    "RGB, channels first": lambda rgb: np.moveaxis(rgb, -1, 1),
    "RGBA, channels first": lambda rgb: np.moveaxis(LAYOUTS["RGBA"](rgb), -1, 1),
    "grey, channels first": lambda rgb: np.moveaxis(rgb[..., :1], -1, 1),
}


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def shown(layout, rgb):
    return np.repeat(rgb[..., :1], 3, axis=-1) if "grey" in layout else rgb


def with_pictures(folder, kind, fields):
    """A dataset with further fields key -> function (number of frames) -> array, the same in every episode."""
    if kind == "replay_buffer":
        return replay_buffer(folder, **{key: np.concatenate([make(LENGTH)] * 2) for key, make in fields.items()})

    def change(file):
        for episode in (file["data"] if kind == "robomimic" else file).values():
            group = episode["obs" if kind == "robomimic" else "observations"]
            for key, make in fields.items():
                group[key] = make(LENGTH if kind == "robomimic" else len(episode["actions"]) + 1)

    return robomimic(folder, change) if kind == "robomimic" else minari(folder, change)


@pytest.mark.parametrize("kind", ["robomimic", "replay_buffer", "minari"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_of_any_layout_are_cameras_under_any_key(kind, layout, tmp_path):
    path = with_pictures(tmp_path, kind, {key: lambda count: LAYOUTS[layout](pictures(count)) for key in KEYS})
    with open_dataset(path) as dataset:
        cameras = [key.removesuffix("_image") if kind == "robomimic" else key for key in KEYS]
        assert set(cameras) <= set(dataset.cameras)
        assert not set(KEYS) & {*dataset.proprioception, *dataset.skipped}
        images = dataset.episode(1).images
        some = np.empty((2, HEIGHT, WIDTH, 3), np.uint8)
        for camera in cameras:
            expected = shown(layout, pictures(dataset.lengths[1] + (kind == "minari"))[: dataset.lengths[1]])
            assert dataset.image_size(camera) == (HEIGHT, WIDTH)
            np.testing.assert_array_equal(images[camera], expected)
            dataset.read_images(1, camera, 3, some)
            np.testing.assert_array_equal(some, expected[3:5])


@pytest.mark.parametrize("kind", ["robomimic", "replay_buffer", "minari"])
@pytest.mark.parametrize(
    ("key", "dtype", "shape"),
    [
        ("wrist_depth", np.uint8, (HEIGHT, HEIGHT, 1)),
        ("wrist_image", np.uint16, (HEIGHT, WIDTH, 1)),
        ("wrist_image", np.uint16, (HEIGHT, WIDTH, 3)),
        ("segmentation", np.uint8, (1, HEIGHT, WIDTH)),
        ("side", np.float32, (3, HEIGHT, WIDTH)),
        ("side", np.uint8, (HEIGHT, HEIGHT)),
        ("stack", np.uint8, (2, HEIGHT, WIDTH, 3)),
    ],
)
def test_what_is_no_picture_is_named_and_does_not_refuse_the_rest(kind, key, dtype, shape, tmp_path, capsys):
    path = with_pictures(tmp_path, kind, {key: lambda count: np.zeros((count, *shape), dtype)})
    with open_dataset(path) as dataset:
        assert key.removesuffix("_image") not in dataset.cameras
        assert key not in dataset.proprioception
        assert any(word in dataset.skipped[key] for word in ("look", "axes", "may be grey"))
        dataset.episode(0)
    assert f"left out        {key}: " in str(inspect_dataset(path))
    convert_dataset(path, tmp_path / "copy.hdf5")
    assert f"not copied: {key} (" in capsys.readouterr().err


def test_a_key_with_the_ending_of_robomimic_keeps_its_name_beside_one_without(tmp_path):
    def change(file):
        for demo in file["data"].values():
            demo["obs/agentview"] = pictures(LENGTH)

    path = robomimic(tmp_path, change)
    with open_dataset(path) as dataset, h5py.File(path) as file:
        assert dataset.cameras == ["agentview"]
        np.testing.assert_array_equal(dataset.episode(0).images["agentview"], file["data/demo_0/obs/agentview_image"])
        assert "of the same camera" in dataset.skipped["agentview"]


@pytest.mark.parametrize(("convention", "turned"), [("opengl", True), ("opencv", False), (None, False)])
def test_pictures_that_libero_stored_upside_down_are_upright_however_they_are_read(convention, turned, tmp_path):
    def change(file):
        if convention:
            file["data"].attrs["macros_image_convention"] = convention

    path = robomimic(tmp_path, change)
    with open_dataset(path) as dataset, h5py.File(path) as file:
        stored = file["data/demo_1/obs/agentview_image"][:]
        expected = stored[:, ::-1] if turned else stored
        np.testing.assert_array_equal(dataset.episode(1).images["agentview"], expected)
        some = np.empty((2, 16, 16, 3), np.uint8)
        dataset.read_images(1, "agentview", 2, some)
        np.testing.assert_array_equal(some, expected[2:4])
    convert_dataset(path, tmp_path / "copy.hdf5")
    with open_dataset(tmp_path / "copy.hdf5") as copy:
        np.testing.assert_array_equal(copy.episode(1).images["agentview"], expected)


NESTED = {"images/front": "images.front", "sensor_data/base/rgb": "sensor_data.base.rgb", "x.y/z": "x.y.z"}


@pytest.mark.parametrize("kind", ["robomimic", "replay_buffer", "minari"])
def test_pictures_and_vectors_in_groups_are_read_and_named_by_their_path(kind, tmp_path):
    fields = {path: lambda count: pictures(count) for path in NESTED}
    fields |= {"agent/qpos": lambda count: np.arange(count * 2.0).reshape(count, 2)}
    path = with_pictures(tmp_path, kind, fields)
    with open_dataset(path) as dataset:
        assert set(NESTED.values()) <= set(dataset.cameras)
        episode = dataset.episode(1, cameras=["images.front", "x.y.z"], proprioception=["agent.qpos"])
        expected = pictures(dataset.lengths[1] + (kind == "minari"))[: dataset.lengths[1]]
        np.testing.assert_array_equal(episode.images["x.y.z"], expected)
        assert episode.proprioception["agent.qpos"][:, 1].tolist() == list(range(1, 2 * len(expected), 2))
        some = np.empty((2, HEIGHT, WIDTH, 3), np.uint8)
        dataset.read_images(1, "sensor_data.base.rgb", 3, some)
        np.testing.assert_array_equal(some, expected[3:5])
    convert_dataset(path, tmp_path / "copy.hdf5")
    with open_dataset(tmp_path / "copy.hdf5") as copy:
        assert set(NESTED.values()) <= set(copy.cameras)


@pytest.mark.parametrize("kind", ["robomimic", "replay_buffer"])
def test_of_two_paths_with_one_name_the_nested_one_is_named_as_not_read(kind, tmp_path):
    fields = {"a.b": lambda count: pictures(count, seed=1), "a/b": lambda count: pictures(count, seed=2)}
    path = with_pictures(tmp_path, kind, fields)
    with open_dataset(path) as dataset:
        np.testing.assert_array_equal(dataset.episode(0).images["a.b"], pictures(LENGTH, seed=1))
        assert dataset.skipped["a/b"] == "'a.b' has the same name"
    assert "left out        a/b: 'a.b' has the same name" in str(inspect_dataset(path))


def test_an_array_of_another_length_does_not_refuse_the_cameras_of_a_replay_buffer(tmp_path):
    path = replay_buffer(tmp_path, front=pictures(2 * LENGTH), extra=np.zeros((2 * LENGTH + 1, 3)))
    with open_dataset(path) as dataset:
        np.testing.assert_array_equal(dataset.episode(0).images["front"], pictures(2 * LENGTH)[:LENGTH])
        with pytest.raises(DatasetError, match="'extra' cannot be a proprioception key: it has shape .13, 3., but"):
            dataset.select_proprioception(["extra"])


def test_a_link_to_another_file_is_refused_in_a_group_too(tmp_path):
    outside = tmp_path / "outside.hdf5"
    with h5py.File(outside, "w") as file:
        file["images/front"] = pictures(LENGTH)

    def change(file):
        for demo in file["data"].values():
            demo["obs/groups"] = h5py.ExternalLink(outside, "/images")

    with pytest.raises(DatasetError, match="'groups' links to another file"):
        open_dataset(robomimic(tmp_path, change))


def test_pictures_of_lerobot_that_are_not_read_are_named(tmp_path):
    path = lerobot(tmp_path, "observation.images.depth", [[[1]]], "image")
    with open_dataset(path) as dataset:
        assert "without colours" in dataset.skipped["depth"]
        with pytest.raises(DatasetError, match="'depth' cannot be a camera: image .* without colours"):
            dataset.select_cameras(["depth"])


def test_the_cameras_of_the_formats_own_files_stay():
    cameras = {"lerobot": ["front", "wrist"], "minari": ["front"], "robomimic": ["agentview"]}
    for name, expected in cameras.items():
        with open_dataset(EXAMPLES[name].path) as dataset:
            assert dataset.cameras == expected


def test_a_picture_of_three_rows_is_not_taken_for_channels_first():
    assert picture_size("side", np.uint8, (5, 3, HEIGHT, 3)) == (3, HEIGHT)
    assert as_rgb(np.zeros((5, 3, HEIGHT, 3), np.uint8)).shape == (5, 3, HEIGHT, 3)
