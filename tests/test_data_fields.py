"""What others recorded under names that we know: read as it is meant, or refused; nothing becomes another thing."""

import json

import h5py
import numpy as np
import pytest
from dataset_examples import EXAMPLES

from s2robot.data import open_dataset
from s2robot.interfaces import DatasetError

LENGTH = 6


def robomimic(folder, change=lambda file: None):
    """A file in robomimic's layout: two demonstrations of `LENGTH` steps; returns its path."""
    path = folder / "demos.hdf5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for demo in ("demo_0", "demo_1"):
            group = file.create_group(f"data/{demo}")
            group["actions"] = rng.uniform(-1, 1, (LENGTH, 7))
            group["obs/robot0_eef_pos"] = rng.normal(size=(LENGTH, 3))
            group["obs/agentview_image"] = rng.integers(0, 255, (LENGTH, 16, 16, 3), np.uint8)
        change(file)
    return path


def minari(folder, change):
    """Minari's own example with a changed main file; returns its path."""
    path = EXAMPLES["minari"].copy(folder)
    with h5py.File(path / "data/main_data.hdf5", "r+") as file:
        change(file)
    return path


def lerobot(folder, column, values, dtype):
    """LeRobot's own example with one more column, of the same value at every step; returns its path."""
    path = EXAMPLES["lerobot"].copy(folder)  # skips the test where the libraries are missing
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = path / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(file)
    rows = [values] * len(table)
    parquet.write_table(table.append_column(column, pyarrow.array(rows)), file)
    info = json.loads((path / "meta/info.json").read_text())
    info["features"][column] = {"dtype": dtype, "shape": list(np.shape(values)) or [1], "names": None}
    (path / "meta/info.json").write_text(json.dumps(info))
    return path


NO_SUCCESS = [np.array([True, False]), "False", b"0", "", np.bytes_(b"True"), np.array([], bool), 0.5, np.nan, 2, -1]
SUCCESS = [True, np.bool_(True), 1, np.uint8(1), 1.0, np.array(True), np.array([True]), np.array([[1]])]


@pytest.mark.parametrize("value", NO_SUCCESS, ids=repr)
def test_a_success_attribute_that_is_neither_true_nor_false_is_refused(value, tmp_path):
    path = robomimic(tmp_path, lambda file: file["data/demo_1"].attrs.__setitem__("success", value))
    with open_dataset(path) as dataset:
        assert dataset.episode(0).success
        with pytest.raises(DatasetError, match=r"demos\.hdf5', demo_1: 'success' is .*; valid: one boolean"):
            dataset.episode(1)


@pytest.mark.parametrize("value", SUCCESS, ids=repr)
def test_a_success_attribute_of_any_boolean_kind_is_what_it_says(value, tmp_path):
    def change(file):
        file["data/demo_0"].attrs["success"] = value
        file["data/demo_1"].attrs["success"] = np.logical_not(value)

    with open_dataset(robomimic(tmp_path, change)) as dataset:
        episodes = [dataset.episode(index) for index in range(2)]
    assert [episode.success for episode in episodes] == [True, False]
    assert [episode.attributes["success"] for episode in episodes] == [True, False]


@pytest.mark.parametrize("key", ["success", "is_success"])
@pytest.mark.parametrize(
    ("row", "success"),
    [(b"False", None), (2, None), ([1, 0], None), (0.5, None), ([0], False), (1.0, True), (0, False)],
)
def test_a_success_of_minari_is_the_last_one_and_a_boolean(key, row, success, tmp_path):
    def change(file):
        infos = file["episode_1"].require_group("infos")
        for name in ("success", "is_success"):
            infos.pop(name, None)
        infos[key] = np.stack([np.zeros_like(row)] * 9 + [np.array(row)])

    with open_dataset(minari(tmp_path, change)) as dataset:
        if success is not None:
            assert dataset.episode(1).success is success
            return
        with pytest.raises(DatasetError, match=f"minari', episode_1: 'infos/{key}' is .*; valid: one boolean"):
            dataset.episode(1)


@pytest.mark.parametrize(
    ("value", "success"),
    [
        ("False", None),
        (b"0", None),
        (3, None),
        ([True, False], None),
        (None, None),
        ([0], False),
        (False, False),
        (1.0, True),
    ],
)
def test_a_success_of_lerobot_is_the_last_one_and_a_boolean(value, success, tmp_path):
    with open_dataset(lerobot(tmp_path, "next.success", value, "bool")) as dataset:
        if success is not None:
            assert dataset.episode(1).success is success
            return
        with pytest.raises(DatasetError, match=r"episode_1: 'next\.success' is .*; valid: one boolean"):
            dataset.episode(1)
