"""Foreign formats, read from files that each format's own library wrote (tests/data/make.py says how)."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from moving_square import LENGTHS, SIZE, frames, numbers
from PIL import Image

from s2robot.data import open_dataset
from s2robot.interfaces import DatasetError

DATA = Path(__file__).parent / "data"
REPLAY_BUFFER = "replay.zarr.zip"


def needs(module):
    return pytest.importorskip(module, reason=f"{module} is not installed (pip install -e '.[dev]')")


@pytest.fixture(params=["lerobot", "minari", REPLAY_BUFFER])
def name(request):
    for module in {"lerobot": ("pyarrow", "av"), REPLAY_BUFFER: ("zarr",)}.get(request.param, ()):
        needs(module)
    return request.param


def copy(name, folder):
    """A copy to damage."""
    source, target = DATA / name, folder / name
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return target


def psnr(images, expected):
    """Peak signal-to-noise ratio of uint8 images, in decibels."""
    error = np.square(images.astype(float) - expected).mean()
    return 10 * np.log10(255**2 / error)


def test_actions_and_observations_are_bit_equal(name):
    key = "position" if name == "minari" else "state"
    with open_dataset(DATA / name) as dataset:
        assert dataset.lengths == list(LENGTHS)
        assert dataset.action_width == 2
        assert dataset.proprioception == [key]
        for seed, length in enumerate(LENGTHS):
            episode = dataset.episode(seed)
            extra = 1 if name == "minari" else 0  # the observation after the last action
            np.testing.assert_array_equal(episode.actions, numbers(length, 2, 10 + seed))
            np.testing.assert_array_equal(episode.proprioception[key], numbers(length + extra, 3, seed)[:length])


@pytest.mark.parametrize(
    ("name", "camera"),
    [("lerobot", "wrist"), (REPLAY_BUFFER, "camera_0"), (REPLAY_BUFFER, "img")],
)
def test_lossless_images_are_equal(name, camera):
    needs("pyarrow" if name == "lerobot" else "zarr")
    with open_dataset(DATA / name) as dataset:
        assert dataset.image_size(camera) == (SIZE, SIZE)
        for seed, length in enumerate(LENGTHS):
            np.testing.assert_array_equal(dataset.episode(seed, cameras=[camera]).images[camera], frames(length, seed))


@pytest.mark.parametrize("name", ["lerobot", "minari"])
def test_lossy_images_are_the_right_frames_and_close(name):
    for module in ("pyarrow", "av") if name == "lerobot" else ():
        needs(module)
    with open_dataset(DATA / name) as dataset:
        for seed, length in enumerate(LENGTHS):
            images = dataset.episode(seed, cameras=["front"]).images["front"]
            for step in range(length):
                similar = [psnr(images[step], frame) for frame in frames(length, seed)]
                assert int(np.argmax(similar)) == step
                # This picture is all edges for its 32 pixels. Decoders may differ by a decibel or two in how they blend
                # colours; channels that are swapped, or a picture upside down, come to 16.
                assert similar[step] > 20


def test_images_and_states_of_robomimic_itself_are_read():
    with h5py.File(DATA / "robomimic_lift.hdf5") as file, open_dataset(DATA / "robomimic_lift.hdf5") as dataset:
        assert (dataset.env_args["env_version"], dataset.cameras, dataset.image_size("agentview")) == (
            "1.5.2",
            ["agentview"],
            (SIZE, SIZE),
        )
        for index, demo in enumerate(dataset.demos):
            episode, recorded = dataset.episode(index), file["data"][demo]
            assert len(episode) == recorded.attrs["num_samples"]
            np.testing.assert_array_equal(episode.images["agentview"], recorded["obs/agentview_image"][:])
            np.testing.assert_array_equal(episode.states, recorded["states"][:])
            np.testing.assert_array_equal(episode.actions, recorded["actions"][:].astype(np.float32))


def test_minari_success_and_rewards_are_read():
    with open_dataset(DATA / "minari") as dataset:
        assert [dataset.episode(i).success for i in range(3)] == [True, False, True]
        assert dataset.episode(1).rewards.tolist() == [0.0] * 8 + [1.0]
        assert dataset.episode(2).attributes["seed"] == 2


def test_lerobot_tasks_are_read():
    needs("pyarrow")
    with open_dataset(DATA / "lerobot") as dataset:
        assert dataset.episode(0, cameras=[]).attributes == {"tasks": ["move the square"]}


@pytest.mark.parametrize(
    "depth",
    [
        {"info": {"is_depth_map": True}},
        {"info": {"video.is_depth_map": True}},
        {"video_info": {"video.is_depth_map": True}},
        {"shape": [SIZE, SIZE, 1]},
    ],
    ids=str,
)
def test_lerobot_depth_maps_are_no_cameras(depth, tmp_path):
    needs("pyarrow")
    folder = copy("lerobot", tmp_path)
    change_info(folder, lambda info: info["features"]["observation.images.wrist"].update(depth))
    with open_dataset(folder) as dataset:
        assert (dataset.cameras, dataset.proprioception) == (["front"], ["state"])


def test_lerobot_images_may_be_listed_with_their_channels_first(tmp_path):
    needs("pyarrow")
    folder = copy("lerobot", tmp_path)
    change_info(folder, lambda info: info["features"]["observation.images.wrist"].update(shape=[3, SIZE, SIZE]))
    with open_dataset(folder) as dataset:
        assert dataset.image_size("wrist") == (SIZE, SIZE)
        np.testing.assert_array_equal(dataset.episode(1, cameras=["wrist"]).images["wrist"], frames(LENGTHS[1], 1))


def test_minari_pictures_have_channels_first_or_last_and_depth_maps_are_skipped(tmp_path):
    folder = copy("minari", tmp_path)
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        for seed, length in enumerate(LENGTHS):
            images, observations = frames(length + 1, seed), file[f"episode_{seed}/observations"]
            observations["last"], observations["first"] = images, np.moveaxis(images, -1, 1)
            observations["depth"], observations["mask"] = images[..., 0] / 255, images[..., :1]
    with open_dataset(folder) as dataset:
        assert (dataset.cameras, dataset.proprioception) == (["first", "front", "last"], ["position"])
        assert dataset.image_size("first") == (SIZE, SIZE)
        for camera in ("first", "last"):
            np.testing.assert_array_equal(dataset.episode(1).images[camera], frames(LENGTHS[1], 1))


def test_replay_buffer_may_be_a_folder(tmp_path):
    needs("zarr")
    with zipfile.ZipFile(DATA / REPLAY_BUFFER) as archive:
        archive.extractall(tmp_path / "any_name")
    with open_dataset(tmp_path / "any_name") as dataset:
        np.testing.assert_array_equal(dataset.episode(1).actions, numbers(LENGTHS[1], 2, 11))


def test_minari_main_file_alone_is_read():
    path = DATA / "minari" / "data" / "main_data.hdf5"
    assert path.with_name("metadata.json").is_file()
    with open_dataset(path) as dataset, open_dataset(path.parent) as folder:
        assert dataset.lengths == list(LENGTHS)
        assert dataset.fingerprint() == folder.fingerprint()


def change_info(folder, change):
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.update(codebase_version="v2.1"), "LeRobot version 'v2.1'; valid: v3.0"),
        (lambda info: info["features"].pop("action"), "has no feature 'action'"),
        (lambda info: info.pop("features"), "KeyError: 'features'"),
        (lambda info: info.update(data_path="../../{chunk_index}/secret.parquet"), "outside the dataset's folder"),
        (lambda info: info["features"]["observation.images.wrist"].update(shape=[8, 8, 3]), "episode_0: images of wr"),
        (
            lambda info: info["features"].update({"observation.force": {"dtype": "float32", "shape": [1]}}),
            "episode_0: field 'observation.force' is missing in file-000.parquet",
        ),
        (lambda info: info.update(state_parts={"grip": 2}), r"{'grip': 2}, but observation.state has 3 numbers"),
        (lambda info: info.update(state_parts=["grip"]), r"state_parts in info.json are \['grip'\], but"),
        (lambda info: info.update(state_parts={"a": 4, "b": -1}), r"{'a': 4, 'b': -1}, but observation.state has 3"),
    ],
)
def test_lerobot_description_that_does_not_fit_is_one_clear_error(change, message, tmp_path):
    needs("pyarrow")
    needs("av")
    folder = copy("lerobot", tmp_path)
    change_info(folder, change)
    with pytest.raises(DatasetError, match=message), open_dataset(folder) as dataset:
        dataset.episode(0)


def unequal(file):
    del file["episode_1/observations/position"]
    file["episode_1/observations/position"] = np.zeros((9, 3), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unequal, "episode_1: observation 'position' has 9 steps, but 9 actions need 10"),
        (lambda f: f["episode_1/observations"].pop("front"), "episode_1: observation 'front' is missing"),
        (lambda f: f["episode_1"].pop("actions"), "episode_1: field 'actions' is missing"),
        (lambda f: f["episode_1/actions"].write_direct(np.full((9, 2), np.nan, np.float32)), "episode_1: .*not finite"),
        (lambda f: [f.pop(k) for k in list(f)], "no demonstrations"),
    ],
)
def test_minari_damage_names_episode_and_field(change, message, tmp_path):
    folder = copy("minari", tmp_path)
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        change(file)
    with pytest.raises(DatasetError, match=message), open_dataset(folder) as dataset:
        for index in range(len(dataset)):
            dataset.episode(index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: root["data"].create_array("action", data=np.zeros((5, 2)), overwrite=True),
            r"data/action: it has shape \[5, 2\], but meta/episode_ends ends at 19",
        ),
        (
            lambda root: root["data/img"].__setitem__((7, 0, 0, 0), 0.5),
            "img are float32 with values other than whole numbers",
        ),
        (lambda root: root["data/action"].__setitem__((7, 1), np.nan), "episode_1: 'actions' is not finite at step 1"),
        (lambda root: root["meta/episode_ends"].__setitem__(slice(None), [6, 5, 19]), "valid: increasing positive"),
        (lambda root: root.__delitem__("meta"), "has no array 'meta/episode_ends'"),
        (
            lambda root: root["data"].create_array("action", data=np.zeros(19), overwrite=True),
            r"data/action has shape \[19\]; valid: \[N, A\]",
        ),
    ],
)
def test_replay_buffer_damage_names_array_and_episode(change, message, tmp_path):
    zarr = needs("zarr")
    with zipfile.ZipFile(DATA / REPLAY_BUFFER) as archive:
        archive.extractall(tmp_path / "replay.zarr")
    change(zarr.open_group(tmp_path / "replay.zarr", mode="r+", zarr_format=2))
    with pytest.raises(DatasetError, match=message), open_dataset(tmp_path / "replay.zarr") as dataset:
        for index in range(len(dataset)):
            dataset.episode(index)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


OBJECTS = {"dtype": "|O", "fill_value": None, "compressor": None}


@pytest.mark.parametrize(
    "description",
    [
        {".zarray": {"compressor": {"id": "pickle"}}},
        {".zarray": {**OBJECTS, "filters": [{"id": "pickle"}]}},
        {".zarray": {**OBJECTS, "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]}},
        {"zarr.json": {"zarr_format": 3, "node_type": "array", "codecs": [{"name": "numcodecs.pickle"}]}},
        {"../../.zmetadata": {"metadata": {"data/action/.zarray": {"compressor": {"id": "pickle"}}}}},
    ],
    ids=str,
)
@pytest.mark.parametrize("as_zip", [False, True])
def test_pickled_objects_are_never_loaded(description, as_zip, tmp_path):
    needs("zarr")
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(DATA / REPLAY_BUFFER) as archive:
        archive.extractall(folder)
    array = folder / "data" / "action"
    ((name, change),) = description.items()
    before = json.loads((array / name).read_text()) if name == ".zarray" else {}
    (array / name).write_text(json.dumps({**before, **change}))
    for chunk in array.glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    if as_zip:
        folder = Path(shutil.make_archive(str(tmp_path / "replay.zarr"), "zip", folder))
    with pytest.raises(DatasetError, match="uses the codec 'pickle'"), open_dataset(folder) as dataset:
        dataset.episode(0)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("chunk", ["data/action/0.0", "data/state/2.0", "data/camera_0/0.0.0.0"])
@pytest.mark.parametrize("left", [0, 10, 60])
def test_a_chunk_of_a_replay_buffer_that_was_cut_is_named(chunk, left, tmp_path):
    # Blosc does not notice: it copies what lies in memory behind the end.
    needs("zarr")
    with zipfile.ZipFile(DATA / REPLAY_BUFFER) as archive:
        archive.extractall(tmp_path / "replay.zarr")
    file = tmp_path / "replay.zarr" / chunk
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(DatasetError, match=f"{chunk} is damaged: it has {left} bytes, its header says"):
        open_dataset(tmp_path / "replay.zarr")


def test_arrays_behind_a_link_to_another_folder_are_refused(tmp_path):
    needs("zarr")
    with zipfile.ZipFile(DATA / REPLAY_BUFFER) as archive:
        archive.extractall(tmp_path / "replay.zarr")
    array = tmp_path / "replay.zarr" / "data" / "action"
    array.rename(tmp_path / "elsewhere")
    array.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="'action' leads to .*elsewhere', outside the dataset's folder"):
        open_dataset(tmp_path / "replay.zarr")


def test_unknown_folder_names_the_known_formats(tmp_path):
    with pytest.raises(DatasetError, match=r"unknown format \(folder\); known: .*LeRobot v3.*Minari.*Diffusion Policy"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("error", [Image.DecompressionBombError, SyntaxError, ValueError])
def test_a_picture_that_its_decoder_refuses_is_one_clear_error(error, monkeypatch):
    def broken(*_, **__):
        raise error("no picture")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(DatasetError, match="cannot be read .*a picture cannot be decoded: .*no picture"):
        open_dataset(DATA / "minari")
