"""Replaying recorded states, also those of files that robosuite and robomimic wrote themselves (tests/data/make.py)."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from robosuite_twin import assert_same_picture, robosuite_twin

from s2robot_envs import S2RobotEnvError, collect, make_env
from s2robot_envs.errors import EnvConfigError
from s2robot_envs.replay import RecordedEpisode, as_robosuite_1_5, replay, replay_episode

pytestmark = pytest.mark.sim

ROBOMIMIC = Path(__file__).parent / "data" / "robomimic_lift.hdf5"
OLD = Path(__file__).parent / "data" / "robosuite_1_4_lift.hdf5"
CAMERAS = {"cameras": ["agentview"], "image_size": 64}


@pytest.fixture(scope="module")
def door():
    """A recording of a task whose scene differs from episode to episode (the door's frame is placed anew)."""
    return next(collect("Door", 1, workers=1, env_kwargs=CAMERAS))


@pytest.fixture(scope="module")
def door_env():
    env = make_env("Door", **CAMERAS)
    yield env
    env.close()


def recording(episode, **scene):
    return RecordedEpisode("demo_0", episode["states"][:10], **scene)


def test_replay_of_a_seed_gives_the_recorded_observations_bit_for_bit(door, door_env):
    replayed = replay_episode(door_env, recording(door, seed=door["seed"]))
    np.testing.assert_array_equal(replayed["images"]["agentview"], door["images"]["agentview"][:10])
    for key, values in replayed["proprioception"].items():
        np.testing.assert_array_equal(values, door["proprioception"][key][:10])


def test_replay_of_a_model_gives_the_recorded_observations(door, door_env):
    replayed = replay_episode(door_env, recording(door, model_file=door["model_file"]))
    # The scene went through text, which rounds; that a picture stays the same to the bit is nobody's promise.
    assert_same_picture(replayed["images"]["agentview"], door["images"]["agentview"][:10])
    for key, values in replayed["proprioception"].items():
        np.testing.assert_allclose(values, door["proprioception"][key][:10], atol=1e-6)


def test_results_come_in_order_from_several_processes(door):
    recordings = [RecordedEpisode(str(i), door["states"][i : i + 2], seed=door["seed"]) for i in range(5)]
    results = list(replay({"task": "Door", **CAMERAS}, iter(recordings), workers=2))
    assert len(results) == 5
    for i, replayed in enumerate(results):
        np.testing.assert_array_equal(replayed["images"]["agentview"], door["images"]["agentview"][i : i + 2])


def robomimics_pictures(env, recording):
    """What robomimic's `dataset_states_to_obs` makes of a recording: robosuite draws every state."""
    with robosuite_twin(env) as simulator:
        simulator.reset_from_xml_string(simulator.edit_model_xml(recording.model_file))
        simulator.sim.reset()
        pictures = []
        for state in recording.states:
            simulator.sim.set_state_from_flattened(state)
            simulator.sim.forward()
            pictures.append(simulator._get_observations(force_update=True)["agentview_image"][::-1])
    return np.stack(pictures)


def test_recording_of_robomimic_is_replayed_as_robomimic_does_it():
    with h5py.File(ROBOMIMIC) as file:
        demo = file["data/demo_1"]
        recorded = {key: demo["obs"][key][:] for key in ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")}
        images = demo["obs/agentview_image"][:]
        theirs = RecordedEpisode("demo_1", demo["states"][:], model_file=demo.attrs["model_file"])
    env = make_env("Lift", cameras=("agentview",), image_size=images.shape[1], render_profile="full")
    env.reset(seed=0)
    expected = robomimics_pictures(env, theirs)
    replayed = replay_episode(env, theirs)
    env.close()
    ours = replayed["images"]["agentview"]
    assert_same_picture(ours, expected)
    # The file's own pictures are another OpenGL's. Without antialiasing, which changes most, they differ by 5.5 levels.
    apart = np.abs(images[:, None].astype(int) - ours).mean((2, 3, 4))
    assert apart.diagonal().mean() < 8
    steps = np.abs(np.diff(ours.astype(int), axis=0)).mean((1, 2, 3))
    moving = 1 + np.flatnonzero((steps[:-1] > 3) & (steps[1:] > 3))
    assert len(moving) > 5
    np.testing.assert_array_equal(apart.argmin(1)[moving], moving)
    for key, values in recorded.items():
        np.testing.assert_allclose(replayed["proprioception"][key], values, atol=1e-6, err_msg=key)


def test_recording_of_robosuite_1_4_is_replayed():
    with h5py.File(OLD) as file:
        demo = file["data/demo_0"]
        old = RecordedEpisode("demo_0", demo["states"][:], model_file=demo.attrs["model_file"])
        recorded = {key: demo["obs"][key][:] for key in ("robot0_eef_pos", "robot0_gripper_qpos")}
    (replayed,) = replay({"task": "Lift", **CAMERAS}, [old], workers=1)
    for key, values in recorded.items():
        # the first observation was read at rest, later ones lag by a physics step
        np.testing.assert_allclose(replayed["proprioception"][key][0], values[0], atol=1e-6)
        np.testing.assert_allclose(replayed["proprioception"][key], values, atol=5e-3)
    assert replayed["images"]["agentview"].std() > 10


def test_the_panda_of_robosuite_1_4_0_is_replayed():
    """It lacks a geom of the last link."""
    with h5py.File(OLD) as file:
        demo = file["data/demo_0"]
        states, model = demo["states"][:3], demo.attrs["model_file"]
    lacking = re.sub(r'<geom name="robot0_link7_collision"[^>]*/>', "", model)
    assert lacking != model
    whole, mended = replay(
        {"task": "Lift", **CAMERAS},
        [RecordedEpisode("demo_0", states, model_file=scene) for scene in (model, lacking)],
        workers=1,
    )
    np.testing.assert_array_equal(whole["proprioception"]["robot0_eef_pos"], mended["proprioception"]["robot0_eef_pos"])
    assert_same_picture(whole["images"]["agentview"], mended["images"]["agentview"])


def test_scene_of_robosuite_1_5_keeps_its_names(door):
    assert as_robosuite_1_5(door["model_file"]) == door["model_file"]


@pytest.mark.parametrize(
    ("states", "scene", "message"),
    [
        (np.zeros((2, 5)), {"seed": 0}, r"replaying demo_7: state has shape \(5,\)"),
        (np.zeros((2, 32)), {}, "demo_7 has neither a seed nor a model_file"),
        (
            np.zeros((2, 32)),
            {"model_file": "<mujoco/>"},
            "replaying demo_7: the recorded model_file is not a Lift scene",
        ),
        (np.zeros((2, 32)), {"model_file": "model_1.xml"}, "'model_1.xml', which is not a scene .*robosuite 1.0 wrote"),
        (np.zeros((2, 32)), {"model_file": "<mujoco"}, "is not a scene .MJCF. that can be read"),
    ],
)
def test_what_cannot_be_replayed_names_the_recording(states, scene, message):
    with pytest.raises(EnvConfigError, match=message):
        list(replay({"task": "Lift", **CAMERAS}, [RecordedEpisode("demo_7", states, **scene)], workers=1))


def test_impossible_workers_are_refused():
    with pytest.raises(S2RobotEnvError, match="workers is 0; it must be at least 1"):
        replay({"task": "Lift"}, [], workers=0)
