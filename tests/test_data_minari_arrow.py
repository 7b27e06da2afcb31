"""Minari's Arrow and Parquet storages: files that Minari made, and its layout for other spaces."""

import json

import numpy as np
import pytest
from dataset_examples import DATA, EXAMPLES
from moving_square import LENGTHS, SIZE, frames, numbers

from s2robot.data import MinariArrowDataset, format_of, open_dataset
from s2robot.data.fields import refuse_discrete_actions
from s2robot.interfaces import DatasetError

pa = pytest.importorskip("pyarrow")

LENGTH = 5
BOX = {"type": "Box", "dtype": "float32", "low": [], "high": []}


def test_parquet_with_raw_pictures_is_read_bit_for_bit():
    with open_dataset(DATA / "minari_parquet") as dataset:
        assert isinstance(dataset, MinariArrowDataset)
        for index, length in enumerate(LENGTHS):
            episode = dataset.episode(index)
            np.testing.assert_array_equal(episode.images["front"], frames(length + 1, index)[:-1])
            np.testing.assert_array_equal(episode.actions, numbers(length, 2, 10 + index))
            assert episode.rewards.tolist() == [0.0] * (length - 1) + [1.0]
            assert episode.success is (index != 1)


def test_the_two_storages_of_minari_give_the_same_episodes():
    with open_dataset(EXAMPLES["minari"].path) as hdf5, open_dataset(EXAMPLES["minari_arrow"].path) as arrow:
        assert (arrow.cameras, arrow.proprioception, arrow.skipped) == (hdf5.cameras, hdf5.proprioception, hdf5.skipped)
        assert (arrow.lengths, arrow.action_width, arrow.action_space) == (hdf5.lengths, 2, "Box")
        for index in range(len(hdf5)):
            mine, theirs = arrow.episode(index), hdf5.episode(index)
            np.testing.assert_array_equal(mine.images["front"], theirs.images["front"])
            np.testing.assert_array_equal(mine.proprioception["position"], theirs.proprioception["position"])
            np.testing.assert_array_equal(mine.rewards, theirs.rewards)
            assert mine.success == theirs.success


def box(values):
    """A column of a Box, as Minari encodes it: flat lists of fixed size."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    kind = pa.list_(pa.from_numpy_dtype(flat.dtype), flat.shape[1])
    return pa.FixedSizeListArray.from_arrays(flat.reshape(-1), type=kind)


def struct(**columns):
    return pa.StructArray.from_arrays(list(columns.values()), names=list(columns))


def write(folder, observations, spaces, *, kind="arrow", actions=None, parts=1, infos=None, **metadata):
    """A dataset of two episodes in Minari's layout."""
    import pyarrow.dataset as ds

    stored = {"data_format": kind, "jpeg_encoding": False, "observation_space": json.dumps(spaces)}
    stored["action_space"] = json.dumps({**BOX, "shape": [2]})
    data = folder / "data"
    data.mkdir()
    for episode in (0, 1):
        batch = {
            "episode_id": np.full(LENGTH + 1, episode, np.int32),
            "observations": observations,
            "actions": box(np.pad(numbers(LENGTH, 2, episode), ((0, 1), (0, 0)))) if actions is None else actions,
            "rewards": np.arange(LENGTH + 1.0),
            "terminations": np.zeros(LENGTH + 1, bool),
            "truncations": np.zeros(LENGTH + 1, bool),
        }
        if infos is not None:
            batch["infos"] = infos
        table = pa.table(batch)
        options = {"partitioning": ["episode_id"], "existing_data_behavior": "overwrite_or_ignore", "format": kind}
        rows = -(-(LENGTH + 1) // parts)
        ds.write_dataset(table, data, max_rows_per_file=rows, max_rows_per_group=rows, **options)
        (data / str(episode) / "metadata.json").write_text(json.dumps({"id": episode, "total_steps": LENGTH}))
    (data / "metadata.json").write_text(json.dumps({**stored, **metadata}))
    return folder


PICTURE = {"type": "Box", "dtype": "uint8", "shape": [SIZE, SIZE, 3]}
VECTOR = {**BOX, "shape": [3]}
SPACES = {
    "type": "Dict",
    "subspaces": {
        "cams": {"type": "Dict", "subspaces": {"top": PICTURE, "depth_map": {**BOX, "shape": [SIZE, SIZE, 1]}}},
        "pair": {"type": "Tuple", "subspaces": [VECTOR, {"type": "Discrete", "dtype": "int64", "n": 4, "start": 0}]},
        "buttons": {"type": "MultiBinary", "n": 4},
        "channels_first": {**BOX, "shape": [3, SIZE, SIZE]},
        "mission": {"type": "Text", "max_length": 9},
    },
}


def nested():
    images = frames(LENGTH + 1, 1)
    return struct(
        cams=struct(top=box(images), depth_map=box(np.ones((LENGTH + 1, SIZE, SIZE, 1), np.float32))),
        pair=struct(**{"0": box(numbers(LENGTH + 1, 3, 7)), "1": pa.array(np.arange(LENGTH + 1) % 4)}),
        buttons=box(np.eye(LENGTH + 1, 4, dtype=np.int8)),
        channels_first=box(np.moveaxis(images, -1, 1) / np.float32(255)),
        mission=pa.array(["push"] * (LENGTH + 1)),
    )


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
@pytest.mark.parametrize("parts", [1, 3])
def test_nested_spaces_are_named_by_dots_and_shaped_by_their_space(kind, parts, tmp_path):
    path = write(tmp_path, nested(), SPACES, kind=kind, parts=parts)
    assert len(list((path / "data/1").glob(f"*.{kind}"))) == parts
    with open_dataset(path) as dataset:
        assert dataset.cameras == ["cams.top", "channels_first"]
        assert dataset.proprioception == ["pair.0", "pair.1", "buttons"]
        episode = dataset.episode(1)
        for camera in dataset.cameras:
            np.testing.assert_array_equal(episode.images[camera], frames(LENGTH + 1, 1)[:-1])
        np.testing.assert_array_equal(episode.proprioception["pair.0"], numbers(LENGTH + 1, 3, 7)[:-1])
        np.testing.assert_array_equal(episode.proprioception["pair.1"][:, 0], np.arange(LENGTH) % 4)
        np.testing.assert_array_equal(episode.proprioception["buttons"], np.eye(LENGTH + 1, 4)[:-1])
        np.testing.assert_array_equal(episode.actions, numbers(LENGTH, 2, 1))
        assert episode.rewards.tolist() == list(range(LENGTH))
        assert "success" not in episode.attributes
        assert dataset.skipped["mission"] == "it is Text, which does not hold numbers"
        assert "axes" in dataset.skipped["cams.depth_map"] or "look" in dataset.skipped["cams.depth_map"]
        assert "multiplied by 255" in dataset.conversions["channels_first"]


def test_a_plain_space_is_named_observation_and_the_folder_data_is_recognised_too(tmp_path):
    path = write(
        tmp_path, box(numbers(LENGTH + 1, 3, 0)), VECTOR, infos=struct(is_success=pa.array([False] * 5 + [True]))
    )
    assert format_of(path) == format_of(path / "data") == "minari_arrow"
    with open_dataset(path / "data") as dataset:
        assert dataset.proprioception == ["observation"]
        assert dataset.episode(0).attributes == {"success": True}


def test_discrete_actions_of_the_arrow_storage_are_refused(tmp_path):
    space = json.dumps({"type": "Discrete", "dtype": "int64", "n": 3, "start": 0})
    actions = pa.array(np.array([0, 1, 2, 1, 0, 0]))
    path = write(tmp_path, box(numbers(LENGTH + 1, 3, 0)), VECTOR, actions=actions, action_space=space)
    with open_dataset(path) as dataset, pytest.raises(DatasetError, match="recorded action space is Discrete"):
        refuse_discrete_actions(dataset)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"observation_space": None}, "metadata.json has no observation_space"),
        ({"action_space": None}, "metadata.json has no action_space"),
        ({"data_format": "csv"}, "data_format 'csv'; valid: arrow, parquet"),
        ({"observation_space": json.dumps({**BOX, "shape": [4]})}, "cannot be read|observation"),
    ],
)
def test_metadata_that_does_not_describe_the_data_is_one_clear_error(metadata, message, tmp_path):
    path = write(tmp_path, box(numbers(LENGTH + 1, 3, 0)), VECTOR, **metadata)
    with pytest.raises(DatasetError, match=message), open_dataset(path) as dataset:
        dataset.episode(0)
