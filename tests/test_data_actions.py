"""Which recorded actions a policy learns: others than the format's own, and controllers that take them."""

import json
import logging

import h5py
import numpy as np
import pytest
from dataset_examples import DATA, EXAMPLES
from training_runs import make_config, make_encoder

from s2robot.checkpoint import load_checkpoint
from s2robot.config import ConfigError, TrainConfig
from s2robot.data import open_dataset
from s2robot.data.actions import input_of_controllers, input_of_keys, other_actions, with_input
from s2robot.data.conversion import convert_dataset
from s2robot.data.inspection import inspect_dataset
from s2robot.interfaces import DatasetError
from s2robot.policies.bc import BCConfig
from s2robot.training import train
from s2robot.training.data import plan_training
from s2robot.training.state import identity

LENGTH = 12
OSC_1_4 = {"type": "OSC_POSE", "input_max": 1, "input_min": -1, "control_delta": True}
OSC_1_5 = {
    "type": "BASIC",
    "body_parts": {"right": {"type": "OSC_POSE", "input_max": 1, "input_type": "delta", "input_ref_frame": "base"}},
}


def absolute(length, seed):
    """Poses as robosuite's controllers take them: the gripper points down, so the rotation is near π about x."""
    rng = np.random.default_rng(seed)
    position, rotation = rng.uniform(-0.3, 1.1, (length, 3)), rng.normal([3.1, 0, 0], 0.05, (length, 3))
    return np.c_[position, rotation, rng.choice([-1.0, 1.0], length)]


def write_file(path, change=lambda group, demo: None, controller=OSC_1_4):
    """A file as robomimic's scripts leave it, which add `actions_abs` and `action_dict` to each demonstration."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for index in range(5):
            group = file.create_group(f"data/demo_{index}")
            group["actions"] = rng.uniform(-1, 1, (LENGTH, 7))
            group["actions_abs"] = absolute(LENGTH, index)
            parts = group.create_group("action_dict")
            for prefix, key in (("rel_", "actions"), ("abs_", "actions_abs")):
                parts[f"{prefix}pos"] = group[key][:, :3].astype(np.float32)
                parts[f"{prefix}rot_axis_angle"] = group[key][:, 3:6].astype(np.float32)
                parts[f"{prefix}rot_6d"] = rng.normal(size=(LENGTH, 6)).astype(np.float32)
            parts["gripper"] = group["actions"][:, 6:7].astype(np.float32)
            group["obs/robot0_eef_pos"] = rng.normal(size=(LENGTH, 3))
            group["obs/agentview_image"] = rng.integers(0, 255, (LENGTH, 64, 64, 3), np.uint8)
            change(group, index)
        kwargs = {"robots": ["Panda"], "controller_configs": controller}
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": kwargs})
    return path


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


def test_robomimics_arrays_of_actions_are_listed_and_read(tmp_path):
    path = write_file(tmp_path / "demos.hdf5")
    listed = inspect_dataset(path)
    assert listed.other_actions["actions_abs"] == 7
    assert listed.other_actions["action_dict/abs_rot_6d"] == 6
    assert "actions" not in listed.other_actions
    assert "action_key      actions_abs: 7 wide" in str(listed)
    with open_dataset(path, action_key=["actions_abs"]) as dataset, h5py.File(path) as file:
        for index, demo in enumerate(dataset.demos):
            np.testing.assert_array_equal(
                dataset.episode(index).actions, file[f"data/{demo}/actions_abs"][:].astype(np.float32)
            )


def test_several_arrays_are_put_side_by_side_in_the_order_asked_for(tmp_path):
    path = write_file(tmp_path / "demos.hdf5")
    keys = ["action_dict/abs_pos", "action_dict/abs_rot_axis_angle", "action_dict/gripper"]
    with open_dataset(path, action_key=keys) as dataset, open_dataset(path, action_key=keys[::-1]) as other:
        assert dataset.action_width == other.action_width == 7
        first, second = dataset.episode(1).actions, other.episode(1).actions
    np.testing.assert_array_equal(first[:, :3], second[:, 4:])
    np.testing.assert_array_equal(first[:, 3:6], second[:, 1:4])
    np.testing.assert_array_equal(first[:, 6], second[:, 0])


def test_the_file_that_robomimics_own_scripts_wrote_offers_its_dictionary():
    with open_dataset(DATA / "robomimic_lift.hdf5", action_key=["action_dict/rel_pos"]) as dataset:
        chosen = dataset.episode(0).actions
    with open_dataset(DATA / "robomimic_lift.hdf5") as dataset:
        np.testing.assert_array_equal(chosen, dataset.episode(0).actions[:, :3])


def test_a_replay_buffer_offers_its_other_actions_and_no_policy_sees_them_as_proprioception(tmp_path):
    zarr = pytest.importorskip("zarr")
    source = zarr.open_group(zarr.storage.ZipStore(EXAMPLES["replay_buffer"].path, mode="r"), mode="r", zarr_format=2)
    root = zarr.open_group(tmp_path / "demos.zarr", mode="w", zarr_format=2)
    steps = source["data/action"].shape[0]
    root.create_array("meta/episode_ends", data=source["meta/episode_ends"][:])
    root.create_array("data/action", data=source["data/action"][:])
    root.create_array("data/state", data=source["data/state"][:])
    poses = np.arange(steps * 9, dtype=np.float32).reshape(steps, 9)
    root.create_array("data/action_abs", data=poses)
    with open_dataset(tmp_path / "demos.zarr", action_key=["action_abs"]) as dataset:
        read = np.concatenate([dataset.episode(index).actions for index in range(len(dataset))])
        np.testing.assert_array_equal(read, poses)
        assert dataset.seen_by_default() == ["state"]
        assert dataset.left_out()["action_abs"] == "it is an action, by its name"


def test_a_lerobot_folder_offers_its_other_actions(tmp_path):
    path = EXAMPLES["lerobot"].copy(tmp_path)
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = path / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(file)
    rows = [[float(row), -1.0] for row in range(len(table))]
    parquet.write_table(table.append_column("action.xyz", pyarrow.array(rows)), file)
    info = json.loads((path / "meta/info.json").read_text())
    info["features"]["action.xyz"] = {"dtype": "float32", "shape": [2], "names": None}
    (path / "meta/info.json").write_text(json.dumps(info))
    with open_dataset(path, action_key=["action.xyz"]) as dataset:
        read = np.concatenate([dataset.episode(index).actions for index in range(len(dataset))])
        assert sorted(map(tuple, read.tolist())) == [tuple(row) for row in rows]
        assert dataset.action_width == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["action_abs"], "did you mean 'actions_abs'"),
        (["obs/robot0_eef_pos"], "Choices: action_dict/abs_pos"),
        (["actions_abs", "nothing"], "unknown array of actions 'nothing'"),
    ],
)
def test_an_unknown_array_is_an_error_with_the_choices(keys, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        open_dataset(write_file(tmp_path / "demos.hdf5"), action_key=keys)


@pytest.mark.parametrize("format_", ["minari", "robomimic", "replay_buffer", "lerobot"])
def test_every_format_names_its_arrays_in_the_error(format_):
    with pytest.raises(DatasetError, match="unknown array of actions 'nothing'"):
        open_dataset(EXAMPLES[format_].path, action_key=["nothing"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda group: group.__delitem__("actions_abs"), "demo_2.*actions_abs"),
        (lambda group: replaced(group, np.zeros((LENGTH - 1, 7))), "demo_2.*'actions_abs' has shape"),
        (lambda group: replaced(group, np.zeros((LENGTH, 6))), "demo_2.*'actions_abs' has shape"),
        (lambda group: replaced(group, np.full((LENGTH, 7), np.nan)), "demo_2.*not finite"),
        (lambda group: replaced(group, np.full((LENGTH, 7), b"x")), "demo_2.*valid: numbers"),
    ],
)
def test_a_fault_of_another_array_blocks_only_who_chooses_it(change, message, tmp_path):
    path = write_file(tmp_path / "demos.hdf5", lambda group, index: change(group) if index == 2 else None)
    with open_dataset(path) as dataset:
        dataset.episode(2)
    with open_dataset(path, action_key=["actions_abs"]) as dataset, pytest.raises(DatasetError, match=message):
        dataset.episode(2)


def replaced(group, values):
    del group["actions_abs"]
    group["actions_abs"] = values


def test_integers_in_another_array_are_discrete_there_alone(tmp_path, encoder):
    def add(group, index):
        group["action_mode"] = np.arange(LENGTH) % 3

    path = write_file(tmp_path / "demos.hdf5", add)
    config = make_config(tmp_path, tmp_path / "run", training={"epochs": 1})
    with open_dataset(path, action_key=["action_mode"]) as dataset, pytest.raises(DatasetError, match="discrete"):
        plan_training(dataset, config, encoder)
    with open_dataset(path) as dataset:
        plan_training(dataset, config, encoder)


def test_a_link_to_another_file_that_is_not_chosen_blocks_nothing(tmp_path):
    def link(group, index):
        group["action_far"] = h5py.ExternalLink("other.hdf5", "/x")

    path = write_file(tmp_path / "demos.hdf5", link)
    with open_dataset(path) as dataset:
        assert "action_far" not in dataset.action_arrays


def test_a_copy_for_robomimic_keeps_every_array_and_one_for_lerobot_names_them(tmp_path, capsys):
    path = write_file(tmp_path / "demos.hdf5")
    convert_dataset(path, tmp_path / "out.hdf5")
    assert "not copied" not in capsys.readouterr().err
    with open_dataset(path) as source, open_dataset(tmp_path / "out.hdf5") as copy:
        assert copy.action_arrays == source.action_arrays
        for index in range(len(source)):
            kept = other_actions(copy, index)
            for key, values in other_actions(source, index).items():
                np.testing.assert_array_equal(kept[key], values)
    pytest.importorskip("pyarrow")
    convert_dataset(path, tmp_path / "lerobot", video=False, fps=20)
    assert "not copied: actions_abs (a LeRobot folder gets" in capsys.readouterr().err


def test_training_on_another_array_records_it_and_is_another_run(tmp_path, encoder):
    write_file(tmp_path / "demos.hdf5")
    config = make_config(tmp_path, tmp_path / "run", training={"epochs": 1}, action_key="actions_abs")
    checkpoint, state = load_checkpoint(train(config, encoder))
    assert checkpoint.config.action_key == "actions_abs"
    assert float(state["actions.maximum"][3]) > 3  # the rotation's first number, near π
    same = make_config(tmp_path, tmp_path / "run")
    assert identity(config, "e", "d") != identity(same, "e", "d")
    assert not {"action_key", "controller_input"} & identity(same, "e", "d").keys()


@pytest.mark.parametrize("controller", [OSC_1_4, OSC_1_5, [OSC_1_5]])
@pytest.mark.parametrize("keys", ["actions_abs", ["action_dict/abs_pos", "action_dict/abs_rot_axis_angle"]])
def test_absolute_actions_get_controllers_that_take_them(keys, controller, tmp_path, encoder, caplog):
    path = write_file(tmp_path / "demos.hdf5", controller=controller)
    config = make_config(tmp_path, tmp_path / "run", action_key=keys)
    with caplog.at_level(logging.WARNING), open_dataset(path, action_key=config.action_keys) as dataset:
        plan = plan_training(dataset, config, encoder)
        assert dataset.env_args["env_kwargs"]["controller_configs"] == controller
    assert "take delta actions, the chosen ones are absolute" in caplog.text
    made = plan.environment["controller"]
    assert made == plan.env_args["env_kwargs"]["controller_configs"]
    assert input_of_controllers(plan.env_args) == "absolute"
    # Nothing but the input is another one: the same frame, gains and limits.
    assert with_input(plan.env_args, "delta")["env_kwargs"]["controller_configs"] == controller


def test_the_recorded_actions_keep_the_recorded_controllers(tmp_path, encoder, caplog):
    path = write_file(tmp_path / "demos.hdf5")
    config = make_config(tmp_path, tmp_path / "run")
    with caplog.at_level(logging.WARNING), open_dataset(path) as dataset:
        plan = plan_training(dataset, config, encoder)
        assert plan.env_args == dataset.env_args
    assert "controller" not in plan.environment
    assert "controllers" not in caplog.text


def test_absolute_poses_that_are_described_as_increments_are_refused(tmp_path, encoder):
    """Diffusion Policy's script replaces `actions` and leaves the description of the environment as it was."""

    def overwrite(group, index):
        group["actions"][:] = group["actions_abs"][:]

    path = write_file(tmp_path / "demos.hdf5", overwrite)
    config = make_config(tmp_path, tmp_path / "run")
    with open_dataset(path) as dataset, pytest.raises(DatasetError, match="controller_input=absolute"):
        plan_training(dataset, config, encoder)
    stated = make_config(tmp_path, tmp_path / "run", controller_input="absolute")
    with open_dataset(path) as dataset:
        assert input_of_controllers(plan_training(dataset, stated, encoder).env_args) == "absolute"
    honest = write_file(tmp_path / "honest.hdf5", overwrite, controller={**OSC_1_4, "control_delta": False})
    with open_dataset(honest) as dataset:
        assert "controller" not in plan_training(dataset, config, encoder).environment
    assert not [problem for problem in inspect_dataset(honest).problems if "out of range" in problem]


@pytest.mark.parametrize("rotations", [[], [{"start": 3, "form": "axis_angle"}]])
def test_rotations_that_jump_are_told_unless_they_are_learned_as_such(rotations, tmp_path, encoder, caplog):
    def turn(group, index):  # the same rotations, every second one by its other name
        vectors = group["actions_abs"][:, 3:6]
        other = vectors * (1 - 2 * np.pi / np.linalg.norm(vectors, axis=1, keepdims=True))
        vectors[::2] = other[::2]
        group["actions_abs"][:, 3:6] = vectors

    policy = BCConfig(action_steps=4, action_rotations=rotations)
    for change, told in ((turn, not rotations), (lambda group, index: None, False)):
        path = write_file(tmp_path / "demos.hdf5", change, controller={**OSC_1_4, "control_delta": False})
        config = make_config(tmp_path, tmp_path / "run", action_key="actions_abs", policy=policy)
        caplog.clear()
        with caplog.at_level(logging.WARNING), open_dataset(path, action_key=["actions_abs"]) as dataset:
            plan_training(dataset, config, encoder)
        assert (f"actions[3:6] jumps by more than half a turn at {5 * (LENGTH - 1)} steps" in caplog.text) == told
        assert ("jumps" in caplog.text) == told


def test_a_few_steps_beyond_the_limits_are_not_taken_for_poses(tmp_path, encoder):
    def push(group, index):
        group["actions"][0, :3] = 1.5

    path = write_file(tmp_path / "demos.hdf5", push)
    with open_dataset(path) as dataset:
        plan_training(dataset, make_config(tmp_path, tmp_path / "run"), encoder)


@pytest.mark.parametrize(
    ("keys", "meaning"),
    [
        (["actions_abs"], "absolute"),
        (["action.absolute"], "absolute"),
        (["action_dict/rel_pos", "action_dict/gripper"], "delta"),
        (["action_delta"], "delta"),
        (["actions"], None),
        (["cabs_action"], None),
        (["action_dict/abs_pos", "action_dict/rel_rot_6d"], None),
    ],
)
def test_names_tell_increments_from_poses(keys, meaning):
    assert input_of_keys(keys) == meaning


def test_controllers_that_are_not_recorded_cannot_be_changed(tmp_path, encoder):
    path = write_file(tmp_path / "demos.hdf5", controller={"type": "JOINT_POSITION"})
    config = make_config(tmp_path, tmp_path / "run", controller_input="absolute")
    with open_dataset(path) as dataset, pytest.raises(DatasetError, match="no operational-space controllers"):
        plan_training(dataset, config, encoder)


def test_a_task_that_is_named_keeps_its_own_controllers(tmp_path, encoder):
    path = write_file(tmp_path / "demos.hdf5")
    named = {"task": "Lift", "controller": "OSC_POSITION"}
    config = make_config(tmp_path, tmp_path / "run", action_key="actions_abs", **named)
    with open_dataset(path, action_key=config.action_keys) as dataset:
        assert plan_training(dataset, config, encoder, named).environment["controller"] == "OSC_POSITION"


@pytest.mark.parametrize("value", [[], [1], "", {"a": 1}, [""]])
def test_a_wrong_action_key_is_one_clear_error(value):
    with pytest.raises(ConfigError, match="action_key"):
        TrainConfig(dataset="a", output="b", action_key=value)


def test_a_wrong_controller_input_is_one_clear_error():
    with pytest.raises(ConfigError, match="delta, absolute, or null"):
        TrainConfig(dataset="a", output="b", controller_input="relative")
