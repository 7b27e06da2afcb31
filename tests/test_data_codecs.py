"""Replay buffers whose pictures are packed by imagecodecs, as Diffusion Policy's image caches and UMI store them.

The files are laid out here: zarr v2's metadata with the settings that their code writes, and one codestream per frame.
"""

import json
import shutil
import sys
import zipfile

import numpy as np
import pytest
from moving_square import LENGTHS, SIZE, frames, numbers
from training_runs import make_config, make_encoder

from s2robot.checkpoint import load_checkpoint
from s2robot.data import open_dataset
from s2robot.data.conversion import convert_dataset
from s2robot.data.fields import refuse_discrete_actions
from s2robot.data.inspection import inspect_dataset
from s2robot.interfaces import DatasetError
from s2robot.policies.bc import BCConfig
from s2robot.system.extras import MissingLibraryError
from s2robot.training import train

pytest.importorskip("zarr")

# `diffusion_policy/codecs/imagecodecs_numcodecs.py` writes every argument of its codec into the metadata.
JPEGXL = {
    "id": "imagecodecs_jpegxl",
    "level": None,
    "effort": 3,
    "distance": 0.3,
    "lossless": False,
    "decodingspeed": 1,
    "photometric": None,
    "planar": None,
    "usecontainer": None,
    "index": None,
    "keeporientation": None,
    "numthreads": 1,
}
UMI = JPEGXL | {"level": 99, "effort": None, "distance": None, "decodingspeed": None}
JPEG2K = {
    "id": "imagecodecs_jpeg2k",
    "level": 50,
    "codecformat": None,
    "colorspace": None,
    "tile": None,
    "reversible": None,
    "bitspersample": None,
    "resolutions": None,
    "numthreads": None,
    "verbose": 0,
}
CODECS = {"jpegxl of Diffusion Policy": JPEGXL, "jpegxl of UMI": UMI, "jpeg2k": JPEG2K}
PICTURES = np.concatenate([frames(length, seed) for seed, length in enumerate(LENGTHS)])


def write(folder, name, values, chunks, pack=lambda chunk: chunk.tobytes(), compressor=None):
    """One array of zarr v2, byte by byte."""
    place = folder / name
    place.mkdir(parents=True)
    described = {"chunks": list(chunks), "compressor": compressor, "dtype": values.dtype.str, "fill_value": 0}
    described |= {"filters": None, "order": "C", "shape": list(values.shape), "zarr_format": 2}
    (place / ".zarray").write_text(json.dumps(described))
    for start in range(0, len(values), chunks[0]):
        key = ".".join([str(start // chunks[0]), *["0"] * (values.ndim - 1)])
        (place / key).write_bytes(pack(values[start : start + chunks[0]]))


def packed(compressor):
    """Codestreams of all frames, by imagecodecs itself."""
    imagecodecs = pytest.importorskip("imagecodecs")
    known = {key: value for key, value in compressor.items() if key not in ("id", "index", "keeporientation")}
    encode = getattr(imagecodecs, compressor["id"].removeprefix("imagecodecs_") + "_encode")
    return [encode(frame, **known) for frame in PICTURES]


def replay(folder, compressor, streams):
    path = folder / "replay.zarr"
    stream = iter(streams)
    write(path, "data/camera0_rgb", PICTURES, (1, SIZE, SIZE, 3), lambda _: next(stream), compressor)
    actions = np.concatenate([numbers(length, 2, seed) for seed, length in enumerate(LENGTHS)])
    write(path, "data/action", actions, actions.shape)
    write(path, "meta/episode_ends", np.cumsum(LENGTHS), (len(LENGTHS),))
    for group in (path, path / "data", path / "meta"):
        (group / ".zgroup").write_text('{"zarr_format": 2}')
    return path


def zipped(path):
    target = path.with_name("replay.zarr.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in path.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(path))
    return target


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("codec", CODECS)
def test_pictures_are_bit_for_bit_what_imagecodecs_decodes(codec, kind, tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    streams = packed(CODECS[codec])
    decode = getattr(imagecodecs, CODECS[codec]["id"].removeprefix("imagecodecs_") + "_decode")
    expected = np.stack([decode(stream) for stream in streams])
    assert (expected != PICTURES).any()  # lossy: only the decoded ones can agree
    path = replay(tmp_path, CODECS[codec], streams)
    path = zipped(path) if kind == "zip" else path
    with open_dataset(path) as dataset:
        assert dataset.image_size("camera0_rgb") == (SIZE, SIZE)
        found = np.concatenate([dataset.episode(index).images["camera0_rgb"] for index in range(len(LENGTHS))])
        np.testing.assert_array_equal(found, expected)
        some = np.empty((2, SIZE, SIZE, 3), np.uint8)
        dataset.read_images(1, "camera0_rgb", 3, some)
        np.testing.assert_array_equal(some, expected[LENGTHS[0] + 3 : LENGTHS[0] + 5])
    convert_dataset(path, tmp_path / "copy.hdf5", cameras={"front": "camera0_rgb"})
    with open_dataset(tmp_path / "copy.hdf5") as copy:
        np.testing.assert_array_equal(copy.episode(0).images["front"], expected[: LENGTHS[0]])


def umi(folder, streams):
    """UMI's own layout: a gripper's pose and width at every step, and no actions."""
    path = replay(folder, UMI, streams)
    shutil.rmtree(path / "data/action")
    steps = len(PICTURES)
    for name, width in {"eef_pos": 3, "eef_rot_axis_angle": 3, "gripper_width": 1}.items():
        write(path, f"data/robot0_{name}", numbers(steps, width, width + len(name)), (steps, width))
    for name in ("demo_start_pose", "demo_end_pose"):
        write(path, f"data/robot0_{name}", numbers(steps, 6, len(name)).astype(np.float64), (steps, 6))
    return path


def test_umi_records_no_actions_and_a_policy_learns_its_recorded_poses(tmp_path):
    streams = packed(UMI)
    path = zipped(umi(tmp_path, streams))
    poses = ["robot0_eef_pos", "robot0_eef_rot_axis_angle", "robot0_gripper_width"]
    found = inspect_dataset(path)
    assert "actions (`action_key=` of training chooses what to predict)" in found.missing
    assert set(poses) <= found.other_actions.keys()
    assert not [problem for problem in found.problems if "cannot be read" in problem]
    with open_dataset(path) as dataset:
        assert dataset.cameras == ["camera0_rgb"]
        assert dataset.episode(1).actions.shape == (LENGTHS[1], 0)
        with pytest.raises(DatasetError, match=r"records no actions; action_key=.* chooses .*robot0_gripper_width"):
            refuse_discrete_actions(dataset)
    with open_dataset(path, action_key=poses) as dataset:
        refuse_discrete_actions(dataset)
        assert dataset.action_width == 7
        episode = dataset.episode(1, proprioception=poses)
        np.testing.assert_array_equal(episode.actions, np.concatenate(list(episode.proprioception.values()), axis=1))
    with pytest.raises(DatasetError, match="records no actions"):
        convert_dataset(path, tmp_path / "copy.hdf5")


def test_a_policy_trains_on_a_file_of_umi(tmp_path):
    path = umi(tmp_path, packed(UMI))
    config = make_config(
        tmp_path,
        tmp_path / "run",
        policy=BCConfig(hidden=[32], action_steps=4),
        dataset=str(path),
        action_key=["robot0_eef_pos", "robot0_gripper_width"],
        training={"epochs": 1},
    )
    checkpoint, _ = load_checkpoint(train(config, make_encoder()))
    assert checkpoint.spec.action_width == 4
    assert list(checkpoint.spec.features) == ["camera0_rgb"]


@pytest.mark.parametrize("codec", CODECS)
def test_without_imagecodecs_one_error_names_the_extra(codec, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setitem(sys.modules, "imagecodecs.numcodecs", None)
    path = replay(tmp_path, CODECS[codec], [b"never read"] * len(PICTURES))
    for place in (path, zipped(path)):
        with pytest.raises(MissingLibraryError, match=r"imagecodecs is not installed .*'s2robot\[zarr-images\]'"):
            open_dataset(place)


@pytest.mark.parametrize("damage", ["cut", "other bytes", "empty"])
def test_a_damaged_picture_is_one_error_that_names_the_episode(damage, tmp_path):
    streams = packed(JPEGXL)
    place = LENGTHS[0] + 2
    changed = {"cut": streams[place][: len(streams[place]) // 2], "other bytes": b"no picture", "empty": b""}[damage]
    with open_dataset(replay(tmp_path, JPEGXL, [*streams[:place], changed, *streams[place + 1 :]])) as dataset:
        dataset.episode(0)
        with pytest.raises(DatasetError, match=r"episode_1: data/camera0_rgb cannot be read"):
            dataset.episode(1)


def test_a_codec_that_nobody_has_is_named(tmp_path):
    pytest.importorskip("imagecodecs")
    path = replay(tmp_path, {"id": "imagecodecs_nothing"}, [b""] * len(PICTURES))
    with pytest.raises(DatasetError, match="imagecodecs_nothing"):
        open_dataset(path)
