"""A file of ManiSkill's own recorder, and one in the layout of Isaac Lab's.

Source of the layout: `utils/datasets/hdf5_dataset_file_handler.py` and `envs/mdp/recorders/recorders.py` in
`source/isaaclab/isaaclab` of https://github.com/isaac-sim/IsaacLab.
"""

import json

import h5py
import numpy as np
import pytest
from dataset_examples import EXAMPLES
from moving_square import LENGTHS, SIZE, frames, numbers

from s2robot.cli import main
from s2robot.data import ManiSkillDataset, RobomimicDataset, open_dataset
from s2robot.data.conversion import convert_dataset
from s2robot.data.inspection import inspect_dataset
from s2robot.interfaces import DatasetError

CAMERA = "sensor_data.base_camera.rgb"
LAST = "the last observation of each demonstration"


def maniskill(folder, change=lambda file: None):
    path = EXAMPLES["maniskill"].copy(folder)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_maniskill_observations_are_named_by_their_path_and_the_last_one_is_left_out_by_name(tmp_path, capsys):
    with open_dataset(maniskill(tmp_path)) as dataset:
        assert isinstance(dataset, ManiSkillDataset)
        assert dataset.cameras == [CAMERA]
        episode = dataset.episode(1)
        np.testing.assert_array_equal(episode.images[CAMERA], frames(LENGTHS[1] + 1, 1)[:-1])
        np.testing.assert_array_equal(episode.proprioception["extra.tcp_pose"], numbers(LENGTHS[1] + 1, 7, 31)[:-1])
        assert dataset.seen_by_default() == ["agent.qpos", "agent.qvel", "extra.is_grasped", "extra.tcp_pose"]
        told = dataset.left_out()
        assert told[LAST] == "no action follows it"
        assert "object" in told["extra.obj_pose"]
        assert {"sensor_data.base_camera.depth", "sensor_param.base_camera.extrinsic_cv"} <= set(dataset.skipped)
    assert f"left out        {LAST}: no action follows it" in str(inspect_dataset(tmp_path / "maniskill.h5"))
    convert_dataset(tmp_path / "maniskill.h5", tmp_path / "copy.hdf5", cameras={"base": CAMERA})
    assert f"not copied: {LAST} (no action follows it)" in capsys.readouterr().err
    with open_dataset(tmp_path / "copy.hdf5") as copy:
        assert copy.cameras == ["base"]
        assert copy.lengths == list(LENGTHS)
        assert [copy.episode(index).success for index in range(3)] == [True, False, True]


def test_maniskill_says_its_environment_controller_rewards_and_success(tmp_path):
    path = maniskill(tmp_path)
    with open_dataset(path) as dataset:
        assert dataset.env_args["env_name"] == "PickCube-v1"
        assert dataset.env_args["env_kwargs"]["control_mode"] == "pd_ee_delta_pose"
        episode = dataset.episode(2)
        assert episode.attributes == {"control_mode": "pd_ee_delta_pose", "success": True}
        np.testing.assert_array_equal(episode.rewards, numbers(LENGTHS[2], 1, 82)[:, 0])
    path.with_suffix(".json").unlink()
    with open_dataset(path) as dataset:  # somebody copied the one file alone
        assert dataset.env_args == {}
        assert dataset.episode(1).attributes == {"success": False}


def _longer(file):
    del file["traj_0/obs/agent/qvel"]
    file["traj_0/obs/agent/qvel"] = np.zeros((LENGTHS[0], 9))


def _shorter_later(file):
    del file[f"traj_1/obs/{CAMERA.replace('.', '/')}"]
    file[f"traj_1/obs/{CAMERA.replace('.', '/')}"] = frames(LENGTHS[1], 1)


def test_maniskill_arrays_of_another_length_are_named(tmp_path):
    with open_dataset(maniskill(tmp_path, _longer)) as dataset:
        assert dataset.skipped["agent.qvel"] == "it has 6 steps, but 6 actions need 7"
        assert dataset.episode(0).images.keys() == {CAMERA}
    (tmp_path / "maniskill.h5").unlink()
    with (
        open_dataset(maniskill(tmp_path, _shorter_later)) as dataset,
        pytest.raises(DatasetError, match=r"traj_1: 'sensor_data.*rgb' has 9 steps, but 9 actions need 10"),
    ):
        dataset.episode(1)


def test_maniskill_without_pictures_is_read_as_one_vector_or_none(tmp_path):
    def flat(file):
        for seed, length in enumerate(LENGTHS):
            del file[f"traj_{seed}/obs"]
            file[f"traj_{seed}/obs"] = numbers(length + 1, 42, seed)

    with open_dataset(maniskill(tmp_path, flat)) as dataset:
        np.testing.assert_array_equal(dataset.episode(1).proprioception["obs"], numbers(LENGTHS[1] + 1, 42, 1)[:-1])
    with h5py.File(tmp_path / "maniskill.h5", "r+") as file:
        for seed in range(3):
            del file[f"traj_{seed}/obs"]
    with open_dataset(tmp_path / "maniskill.h5") as dataset:
        assert (dataset.cameras, dataset.proprioception) == ([], [])
        assert len(dataset.episode(0).actions) == LENGTHS[0]


def test_maniskill_actions_of_several_agents_are_refused_by_name(tmp_path):
    def several(file):
        del file["traj_0/actions"]
        file["traj_0/actions/panda-0"] = numbers(LENGTHS[0], 2, 0)

    with pytest.raises(DatasetError, match=r"maniskill\.h5', traj_0: 'actions' is a group; valid: an array"):
        open_dataset(maniskill(tmp_path, several))


def isaac_lab(folder, *, flat=False, float_camera=False):
    """A file as Isaac Lab's recorder manager writes it: nested dictionaries, gzip, `states` a group."""
    path = folder / "stack.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = 0
        data.attrs["env_args"] = json.dumps({"env_name": "Isaac-Stack-Cube-Franka-IK-Rel-Visuomotor-v0", "type": 2})
        for index, length in enumerate(LENGTHS):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = length
            demo.attrs["seed"] = index
            demo.attrs["success"] = np.bool_(index != 1)
            images = frames(length, index)
            policy = {
                "actions": numbers(length, 7, 90 + index),
                "eef_pos": numbers(length, 3, index),
                "cube_positions": numbers(length, 9, index),
                "table_cam": images / np.float32(255) - np.float32(0.4) if float_camera else images,
                "wrist_cam": images[:, ::-1],
                "datagen_info/object_pose/cube_1": numbers(length, 16, index).reshape(-1, 4, 4),
                "proprio/joint_pos": numbers(length, 9, 5),
            }
            stored = (
                {f"obs/{name}": values for name, values in policy.items()} if not flat else {"obs": policy["eef_pos"]}
            )
            stored |= {
                "actions": numbers(length, 7, 10 + index),
                "processed_actions": numbers(length, 9, 10 + index),
                "initial_state/articulation/robot/root_pose": numbers(1, 7, 0),
                "states/articulation/robot/joint_position": numbers(length, 9, 0),
                "states/rigid_object/cube_1/root_pose": numbers(length, 7, 0),
            }
            for name, values in stored.items():
                demo.create_dataset(name, data=values, compression="gzip")
            data.attrs["total"] += length
    return path


def test_isaac_lab_is_read_whole_though_its_states_are_a_group(tmp_path):
    path = isaac_lab(tmp_path)
    with open_dataset(path) as dataset:
        assert isinstance(dataset, RobomimicDataset)
        assert dataset.cameras == ["table_cam", "wrist_cam"]
        assert dataset.seen_by_default() == ["eef_pos", "proprio.joint_pos"]
        episode = dataset.episode(1)
        np.testing.assert_array_equal(episode.images["table_cam"], frames(LENGTHS[1], 1))
        np.testing.assert_array_equal(episode.proprioception["proprio.joint_pos"], numbers(LENGTHS[1], 9, 5))
        assert episode.states is None
        assert [dataset.episode(index).success for index in range(3)] == [True, False, True]
        assert dataset.skipped["states"] == "it is a group; only an array is read"
        assert "axes" in dataset.skipped["datagen_info.object_pose.cube_1"]
        assert not dataset.unread
    found = inspect_dataset(path)
    assert "left out        states: it is a group" in str(found)
    assert found.problems == ["1 of 3 demonstrations did not succeed"]


def test_isaac_labs_flat_observations_are_one_vector(tmp_path):
    with open_dataset(isaac_lab(tmp_path, flat=True)) as dataset:
        assert dataset.proprioception == ["obs"]
        np.testing.assert_array_equal(dataset.episode(2).proprioception["obs"], numbers(LENGTHS[2], 3, 2))


def test_isaac_labs_normalised_pictures_are_named_and_the_other_camera_is_read(tmp_path):
    with open_dataset(isaac_lab(tmp_path, float_camera=True)) as dataset:
        assert dataset.cameras == ["wrist_cam"]
        assert "numbers from -0." in dataset.skipped["table_cam"]
        assert dataset.image_size("wrist_cam") == (SIZE, SIZE)


@pytest.mark.parametrize("name", ["rewards", "states"])
def test_a_group_in_place_of_rewards_or_states_of_a_later_demonstration_is_named(name, tmp_path):
    path = isaac_lab(tmp_path)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo.pop(name, None)
        file[f"data/demo_2/{name}/inside"] = np.zeros(3)
    assert f"demo_2: {name!r} is a group; only an array is read; left out" in inspect_dataset(path).problems


def test_what_has_neither_pictures_nor_states_is_not_sent_to_render(tmp_path):
    path = isaac_lab(tmp_path, flat=True)
    with open_dataset(path) as dataset, pytest.raises(DatasetError, match="no camera images; it has no states either"):
        dataset.select_cameras(None)
    assert [name for name in inspect_dataset(path).missing if "images" in name] == ["images"]


@pytest.mark.sim
def test_rendering_a_file_without_states_says_so_whatever_its_environment(tmp_path, capsys):
    for path in (isaac_lab(tmp_path), maniskill(tmp_path)):
        assert main(["render", f"dataset={path}", f"out={tmp_path}/new.hdf5"]) == 2
        assert "_0: field 'states' is missing; rendering replays" in capsys.readouterr().err
