"""LIBERO's demonstration files, in the layout of its own script, read as they are."""

import dataclasses
import json

import h5py
import numpy as np
import pytest
from libero_layout import CONTROLLER, LANGUAGE, NAME, SUITE, random_episodes, write_libero
from training_runs import make_config, make_encoder

from s2robot.checkpoint import load_checkpoint
from s2robot.data import format_of, open_dataset
from s2robot.data.conversion import convert_dataset
from s2robot.data.inspection import inspect_dataset
from s2robot.data.rerender import render_dataset
from s2robot.training import train

TASK = f"libero:{SUITE}/{NAME}"


@pytest.fixture(scope="module")
def episodes():
    return random_episodes()


@pytest.fixture
def path(tmp_path, episodes):
    return write_libero(tmp_path / f"{NAME}_demo.hdf5", episodes)


def test_every_field_is_read_and_pictures_are_upright(path, episodes):
    assert format_of(path) == "robomimic"
    with open_dataset(path) as dataset:
        assert dataset.cameras == ["agentview_rgb", "eye_in_hand_rgb"]
        assert dataset.seen_by_default() == ["ee_ori", "ee_pos", "ee_states", "gripper_states", "joint_states"]
        assert not dataset.left_out()
        for index, expected in enumerate(episodes):
            episode = dataset.episode(index)
            for camera in dataset.cameras:
                np.testing.assert_array_equal(episode.images[camera], expected[camera][:, ::-1])
            for key in ("ee_states", "gripper_states", "joint_states"):
                np.testing.assert_array_equal(episode.proprioception[key], expected[key].astype(np.float32))
            np.testing.assert_array_equal(episode.actions, expected["actions"].astype(np.float32))
            np.testing.assert_array_equal(episode.states, expected["states"])
            assert episode.rewards.tolist() == [0] * (len(episode) - 1) + [1]
            assert episode.attributes["tasks"] == [LANGUAGE]
        assert dataset.fps == 20


def test_it_says_which_environment_evaluates_it_with_the_recorded_controller(tmp_path, episodes):
    stiff = {**CONTROLLER, "kp": 300}
    for controller, frequency in ((CONTROLLER, 20), (stiff, 10)):
        path = write_libero(tmp_path / "demo.hdf5", episodes, controller=controller, control_freq=frequency)
        with open_dataset(path) as dataset:
            assert dataset.env_args["s2robot"] == {
                "task": TASK,
                "render_profile": "full",
                "robots": ["Panda"],
                "controller": controller,
                "control_freq": frequency,
            }


def test_a_policy_trained_on_it_records_that_environment(tmp_path, path):
    config = dataclasses.replace(make_config(tmp_path, tmp_path / "run", training={"epochs": 1}), dataset=str(path))
    checkpoint, _ = load_checkpoint(train(config, make_encoder()))
    assert checkpoint.environment["task"] == TASK
    assert checkpoint.environment["cameras"] == ["agentview_rgb", "eye_in_hand_rgb"]
    assert checkpoint.environment["image_size"] == {"agentview_rgb": 16, "eye_in_hand_rgb": 16}
    assert checkpoint.proprioception == ["ee_ori", "ee_pos", "ee_states", "gripper_states", "joint_states"]


def test_conversion_keeps_pictures_task_and_environment(tmp_path, path):
    convert_dataset(path, tmp_path / "copy.hdf5")
    with open_dataset(path) as original, open_dataset(tmp_path / "copy.hdf5") as copy:
        assert copy.env_args["s2robot"] == original.env_args["s2robot"]
        for index in range(len(original)):
            first, second = original.episode(index), copy.episode(index)
            assert second.attributes["tasks"] == [LANGUAGE]
            for camera, images in first.images.items():
                np.testing.assert_array_equal(second.images[camera], images)


def test_rendering_compares_observations_with_the_states_one_step_later(tmp_path, path, episodes):
    def replay(recordings):
        for _ in recordings:
            observed = {"gripper_states": np.roll(episodes[0]["gripper_states"].astype(np.float32), 1, axis=0)}
            yield {"images": {}, "proprioception": observed}

    with open_dataset(path) as dataset:
        drifts = render_dataset(dataset, tmp_path / "out.hdf5", dataset.env_args, replay)
        with open_dataset(tmp_path / "out.hdf5") as rendered:
            later = render_dataset(rendered, tmp_path / "again.hdf5", rendered.env_args, replay)
    assert {drift.demo for drift in drifts} == {"demo_1"}
    assert not [drift for drift in later if drift.demo == "demo_0"]


def test_late_observations_are_named_until_they_are_rendered_again(tmp_path, path, caplog):
    (problem,) = inspect_dataset(path).problems
    assert "after the action of the same index" in problem
    config = dataclasses.replace(make_config(tmp_path, tmp_path / "run", training={"epochs": 1}), dataset=str(path))
    train(config, make_encoder())
    assert "after the action of the same index" in caplog.text
    with h5py.File(path, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        file["data"].attrs["env_args"] = json.dumps(env_args | {"rendered_from": "0"})
    assert inspect_dataset(path).problems == []


@pytest.mark.parametrize("said", ["{", "[]", '{"problem_name": "x"}'])
def test_without_language_there_is_no_task_text(path, said):
    with h5py.File(path, "r+") as file:
        file["data"].attrs["problem_info"] = said
    with open_dataset(path) as dataset:
        assert "tasks" not in dataset.episode(0).attributes


def test_language_stored_as_a_list_of_words_is_one_text(tmp_path, episodes):
    path = write_libero(tmp_path / "demo.hdf5", episodes, language=LANGUAGE.split())
    with open_dataset(path) as dataset:
        assert dataset.episode(0).attributes["tasks"] == [LANGUAGE]
