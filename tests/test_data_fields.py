"""What others recorded under names that we know: read as it is meant, or refused; nothing becomes another thing."""

import json
import re

import h5py
import numpy as np
import pytest
from dataset_examples import DATA, EXAMPLES

from s2robot.data import open_dataset
from s2robot.data.conversion import convert_dataset
from s2robot.data.fields import refuse_discrete_actions, why_discrete
from s2robot.data.inspection import inspect_dataset
from s2robot.data.kinds import why_left_out
from s2robot.data.rerender import _recordings
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
    table = table.drop_columns([column]) if column in table.column_names else table
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


def replay_buffer(folder, **arrays):
    """Diffusion Policy's layout: two episodes of `LENGTH` steps and further arrays [N, …]; returns its path."""
    zarr = pytest.importorskip("zarr")
    root = zarr.open_group(folder / "replay.zarr", mode="w", zarr_format=2)
    rng = np.random.default_rng(0)
    arrays = {"action": rng.normal(size=(2 * LENGTH, 2)), "agent_pos": rng.normal(size=(2 * LENGTH, 2))} | arrays
    for name, values in arrays.items():
        root.create_array(f"data/{name}", data=values)
    root.create_array("meta/episode_ends", data=np.array([LENGTH, 2 * LENGTH]))
    return folder / "replay.zarr"


MANY_AXES = {
    "point_cloud": (512, 6),
    "depth": (16, 16),
    "camera_depth": (16, 16, 1),
    "grey": (64, 64),
    "keypoint": (9, 2),
    "stack": (2, 16, 16, 1),
}


def check_skipped(path, prefix=""):
    """Nothing of `MANY_AXES` is proprioception; each is named, and refused when it is asked for."""
    with open_dataset(path) as dataset:
        assert not {prefix + name for name in MANY_AXES} & {*dataset.proprioception, *dataset.cameras}
        assert dataset.episode(0).proprioception.keys() == set(dataset.proprioception)
        for name in MANY_AXES:
            assert "axes" in dataset.skipped[prefix + name] or "pictures" in dataset.skipped[prefix + name]
            for select in (dataset.select_proprioception, dataset.select_cameras):
                with pytest.raises(DatasetError, match=f"{name}' cannot be a .*float32|{name}' cannot be a .*axis"):
                    select([prefix + name])
    text = str(inspect_dataset(path))
    assert all(f"left out        {prefix}{name}: " in text for name in MANY_AXES)


def test_arrays_with_more_than_two_axes_are_never_proprioception_in_a_replay_buffer(tmp_path):
    arrays = {name: np.zeros((2 * LENGTH, *shape), np.float32) for name, shape in MANY_AXES.items()}
    check_skipped(replay_buffer(tmp_path, **arrays))


def test_arrays_with_more_than_two_axes_are_never_proprioception_in_robomimic(tmp_path):
    def change(file):
        for demo in file["data"].values():
            for name, shape in MANY_AXES.items():
                demo[f"obs/{name}"] = np.zeros((LENGTH, *shape), np.float32)

    check_skipped(robomimic(tmp_path, change))


def test_arrays_with_more_than_two_axes_are_never_proprioception_in_minari(tmp_path):
    def change(file):
        for episode in file.values():
            steps = len(episode["actions"]) + 1
            for name, shape in MANY_AXES.items():
                episode[f"observations/{name}"] = np.zeros((steps, *shape), np.float32)

    check_skipped(minari(tmp_path, change))


def test_tensors_of_lerobot_are_never_proprioception(tmp_path):
    path = lerobot(tmp_path, "observation.point_cloud", np.zeros((8, 6)).tolist(), "float32")
    with open_dataset(path) as dataset:
        assert dataset.proprioception == ["state"]
        with pytest.raises(DatasetError, match="'point_cloud' cannot be a proprioception key: .* more than one axis"):
            dataset.select_proprioception(["point_cloud"])
    assert "left out        point_cloud: " in str(inspect_dataset(path))


OBJECTS = """object object-state cube_pos cubeA_quat gripper_to_cubeA cubeA_to_cubeB Can_to_robot0_eef_pos handle_qpos
obj_pose tcp_to_obj_pos cube_positions environment_state env_state achieved_goal akita_black_bowl_1_pos lang_emb
task_embedding"""
ROBOTS = """robot0_eef_pos robot0_eef_quat_site robot0_gripper_qpos robot0_joint_pos_cos robot0_joint_vel state
observation position agent_pos ee_pos ee_ori gripper_states joint_states qpos tcp_pose joint_pos_rel robot_eef_pose_vel
last_action hand_pos base_to_eef_pos robot0_eef_rot_axis_angle where extra desired_goal tcp_to_goal_pos
gripper x_position cartesian_velocity"""


@pytest.mark.parametrize("key", OBJECTS.split())
def test_what_tells_the_state_of_objects_or_the_task_is_seen_only_if_asked_for(key, tmp_path):
    with open_dataset(replay_buffer(tmp_path, **{key: np.ones((2 * LENGTH, 3))})) as dataset:
        assert dataset.seen_by_default() == ["agent_pos"]
        assert set(dataset.left_out()) == {key}
        assert dataset.select_proprioception([key]) == [key]
        assert dataset.episode(1, proprioception=[key]).proprioception[key].shape == (LENGTH, 3)


@pytest.mark.parametrize("key", ROBOTS.split())
def test_what_tells_the_state_of_the_robot_is_seen(key):
    assert why_left_out(key) is None


def test_the_proprioception_of_the_formats_own_files_stays():
    seen = {"lerobot": ["state"], "minari": ["position"], "replay_buffer": ["state"]}
    for name, keys in seen.items():
        with open_dataset(EXAMPLES[name].path) as dataset:
            assert dataset.seen_by_default() == dataset.proprioception == keys
            last = {"the last observation of each demonstration": "no action follows it"}
            assert dataset.skipped == (last if name == "minari" else {})
    for name in ("robomimic_lift.hdf5", "robosuite_1_4_lift.hdf5"):
        with open_dataset(DATA / name) as dataset:
            assert dataset.seen_by_default() == [key for key in dataset.proprioception if key != "object"]


def test_without_cameras_it_is_said_which_keys_look_like_pictures(tmp_path):
    arrays = {"front": np.zeros((2 * LENGTH, 16, 16, 4), np.float32), "goal": np.zeros((2 * LENGTH, 3))}
    message = r"no camera images that can be read \('front': float32 .* pictures"
    with open_dataset(replay_buffer(tmp_path, **arrays)) as dataset, pytest.raises(DatasetError, match=message):
        dataset.select_cameras(None)


def choices(folder, kind, values):
    """A dataset of any format whose actions are `values`, repeated to its length; returns its path."""
    if kind == "replay_buffer":
        return replay_buffer(folder, action=np.resize(values, (2 * LENGTH, 2)))

    def change(file):
        for episode in (file["data"] if kind == "robomimic" else file).values():
            shape = episode["actions"].shape
            del episode["actions"]
            episode["actions"] = np.resize(values, shape)

    return robomimic(folder, change) if kind == "robomimic" else minari(folder, change)


@pytest.mark.parametrize("kind", ["robomimic", "replay_buffer"])
@pytest.mark.parametrize("values", [np.arange(5), np.arange(3, dtype=np.uint8), np.array([True, False])], ids=str)
def test_integers_of_few_values_are_choices_which_training_and_conversion_refuse(kind, values, tmp_path):
    path = choices(tmp_path, kind, values)
    message = "actions are discrete .*; supported: continuous"
    with open_dataset(path) as dataset, pytest.raises(DatasetError, match=message):
        refuse_discrete_actions(dataset)
    with pytest.raises(DatasetError, match="actions are discrete"):
        convert_dataset(path, tmp_path / "copy.hdf5")
    assert not list(tmp_path.glob("copy*"))
    assert any("discrete" in problem for problem in inspect_dataset(path).problems)


@pytest.mark.parametrize("kind", ["robomimic", "replay_buffer"])
@pytest.mark.parametrize("values", [np.array([0, 4095, 17]), np.array([0.0, 1.0, 2.0])], ids=str)
def test_servo_ticks_and_floating_point_numbers_are_quantities(kind, values, tmp_path):
    with open_dataset(choices(tmp_path, kind, values)) as dataset:
        refuse_discrete_actions(dataset)


@pytest.mark.parametrize(
    ("space", "discrete"), [("Discrete", True), ("MultiDiscrete", True), ("MultiBinary", True), ("Box", False)]
)
def test_the_action_space_that_minari_records_decides(space, discrete, tmp_path):
    path = choices(tmp_path, "minari", np.arange(3))
    file = path / "data/metadata.json"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps(metadata | {"action_space": json.dumps({"type": space})}))
    with open_dataset(path) as dataset:
        assert (why_discrete(dataset) is not None) is discrete
    file.unlink()  # nothing is recorded: integers of few values
    with open_dataset(path) as dataset:
        assert why_discrete(dataset) == "they are stored as integers from 0 to 2"


def test_integer_actions_of_lerobot_are_choices(tmp_path):
    path = lerobot(tmp_path, "action", [1, 0], "int64")
    with open_dataset(path) as dataset, pytest.raises(DatasetError, match="actions are discrete"):
        refuse_discrete_actions(dataset)


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("states", np.zeros((LENGTH + 1, 9)), "'states' has 7 steps, but the episode has 6"),
        ("states", np.full((LENGTH, 9), np.nan), "'states' is not finite at step 0"),
        ("states", np.full((LENGTH, 9), b"x"), "'states' is |S1 (6, 9); valid: numbers [T, …]"),
        ("rewards", np.zeros(LENGTH + 1), "'rewards' has 7 steps, but the episode has 6"),
        ("rewards", np.full(LENGTH, np.inf), "'rewards' is not finite at step 0"),
        ("rewards", np.float64(1), "'rewards' is float64 (); valid: numbers [T, …]"),
    ],
)
def test_states_and_rewards_that_are_not_sound_are_left_out_with_a_word(name, values, why, tmp_path, capsys):
    path = robomimic(tmp_path, lambda file: file["data/demo_1"].__setitem__(name, values))
    with open_dataset(path) as dataset:
        episode = dataset.episode(1)
        assert getattr(episode, name) is None
        assert dataset.unread == {("demo_1", name): why}
        if name == "states":
            with pytest.raises(DatasetError, match=re.escape(f"demo_1: {why}; rendering replays")):
                list(_recordings(dataset, range(1, 2)))
    assert f"demo_1: {why}; left out" in inspect_dataset(path).problems
    convert_dataset(path, tmp_path / "copy.hdf5")
    assert f"not copied: {name} of demo_1 ({why})" in capsys.readouterr().err


def test_rewards_of_minari_and_lerobot_that_are_not_sound_are_left_out(tmp_path):
    def lengthen(file):
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = np.zeros(10)

    for path in (minari(tmp_path, lengthen), lerobot(tmp_path, "next.reward", "high", "string")):
        with open_dataset(path) as dataset:
            assert dataset.episode(1).rewards is None
            assert list(dataset.unread) == [("episode_1", "rewards")]


def test_a_lerobot_folder_goes_without_what_one_demonstration_lacks(tmp_path, capsys):
    pytest.importorskip("pyarrow")

    def change(file):
        for demo, extra in (("demo_0", 0), ("demo_1", 1)):
            file[f"data/{demo}/states"] = np.zeros((LENGTH + extra, 9))
            file[f"data/{demo}/rewards"] = np.zeros(LENGTH)

    convert_dataset(robomimic(tmp_path, change), tmp_path / "copy", video=False)
    told = capsys.readouterr().err
    assert "not copied: states of demo_1 ('states' has 7 steps" in told
    assert "not copied: states of the others" in told
    with open_dataset(tmp_path / "copy") as copy:
        episodes = [copy.episode(index) for index in range(2)]
    assert [episode.states for episode in episodes] == [None, None]
    assert all(len(episode.rewards) == LENGTH for episode in episodes)


def test_rewards_that_lerobot_describes_but_does_not_hold_are_left_out(tmp_path):
    path = lerobot(tmp_path, "unused", 1.0, "float32")
    info = json.loads((path / "meta/info.json").read_text())
    info["features"]["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}
    (path / "meta/info.json").write_text(json.dumps(info))
    with open_dataset(path) as dataset:
        assert dataset.episode(1).rewards is None
        assert dataset.unread == {("episode_1", "rewards"): "field 'next.reward' is missing in file-000.parquet"}


@pytest.mark.parametrize("shape", [(4,), (3,)], ids=str)
def test_pictures_of_lerobot_have_three_or_four_channels(shape, tmp_path):
    path = EXAMPLES["lerobot"].copy(tmp_path)
    info = json.loads((path / "meta/info.json").read_text())
    feature = info["features"]["observation.images.wrist"]
    feature["shape"] = [*feature["shape"][:2], *shape]
    (path / "meta/info.json").write_text(json.dumps(info))
    with open_dataset(path) as dataset, open_dataset(EXAMPLES["lerobot"].path) as original:
        images = [found.episode(0, cameras=["wrist"]).images["wrist"] for found in (dataset, original)]
        np.testing.assert_array_equal(*images)
