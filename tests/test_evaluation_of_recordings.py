"""Policies trained on what others recorded, as it is, and the environment in which they are evaluated."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import ENVIRONMENT, make_episode, write_dataset
from robosuite_twin import assert_same_picture, robosuite_twin

from s2robot.checkpoint import load_checkpoint
from s2robot.cli import main
from s2robot.cli.environment import environment_of
from s2robot.config import TrainConfig
from s2robot.data import RobomimicWriter, open_dataset
from s2robot.data.horizon import with_horizon
from s2robot.data.ranges import takes_unit_actions
from s2robot.interfaces import ConfigError, DatasetError
from s2robot.policies.bc import BCConfig
from s2robot_envs import make_env
from s2robot_envs.replay import load_model

ROBOMIMIC = Path(__file__).parent / "data" / "robomimic_lift.hdf5"
TINY = [
    *("encoder.backbone=test_efficientnet", "encoder.weights=none", "encoder.scales=[32]", "readout=mean", "policy=bc"),
    *("training.epochs=1", "training.batch_size=32", "training.validation_fraction=0", "device=cpu"),
]


def settings(dataset, **changes):
    return TrainConfig(dataset=str(dataset), output="", policy=BCConfig(), **changes)


@pytest.mark.sim
def test_a_policy_trained_on_robomimics_own_file_is_evaluated_as_recorded(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", f"dataset={ROBOMIMIC}", f"output={run}", f"cache_dir={tmp_path}/cache", *TINY]) == 0
    checkpoint, _ = load_checkpoint(run / "checkpoint")
    environment = checkpoint.environment
    assert environment["task"] == "Lift"
    assert environment["render_profile"] == "full"  # robosuite's own look
    assert environment["image_size"] == {"agentview": 32}
    assert environment["horizon"] == 100  # the longest demonstration takes 27 steps
    assert "robot0_eef_quat_site" in checkpoint.proprioception
    words = [f"checkpoint={run}/checkpoint", "episodes=1", "videos=0", "horizon=4", "num_envs=1", "device=cpu"]
    capsys.readouterr()
    assert main(["evaluate", *words]) == 0
    assert "at most 4 steps each" in capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert (results["task"], results["episodes"]) == ("Lift", 1)
    capsys.readouterr()
    assert main(["evaluate", *words, "gym.success=terminated"]) == 2
    assert "only together with task=" in capsys.readouterr().err
    assert main(["evaluate", *words, "task=Lift", "robots=Sawyer"]) == 2
    assert "the checkpoint records its environment, Lift" in capsys.readouterr().err


@pytest.mark.sim
def test_the_evaluation_environment_draws_recorded_states_as_robosuite_does():
    """The same pixels: bit for bit by a renderer in software, else but for edges."""
    environment = environment_of(settings(ROBOMIMIC))
    with open_dataset(ROBOMIMIC) as dataset:
        episode = dataset.episode(0)
    cameras = ("agentview", "robot0_eye_in_hand")
    env = make_env(**environment, cameras=cameras, image_size=84)
    env.reset(seed=0)
    load_model(env, episode.model_file)
    with robosuite_twin(env) as theirs:
        theirs.reset_from_xml_string(theirs.edit_model_xml(episode.model_file))
        theirs.sim.reset()
        for state in episode.states[::6]:
            theirs.sim.set_state_from_flattened(state)
            theirs.sim.forward()
            seen = theirs._get_observations(force_update=True)
            env.set_state(state)
            ours = env.observe()
            for camera in cameras:
                picture = seen[f"{camera}_image"][::-1]
                if "llvmpipe" in env.renderer_name:
                    np.testing.assert_array_equal(ours[f"{camera}_image"], picture)
                assert_same_picture(ours[f"{camera}_image"], picture)
            for key in environment["proprioception"]:
                np.testing.assert_allclose(ours[key], seen[key], atol=1e-5, err_msg=key)
    env.close()


@pytest.mark.sim
def test_a_recorded_controller_and_frequency_are_evaluated_in():
    with open_dataset(ROBOMIMIC) as dataset:
        recorded = dataset.env_args
    environment = environment_of(settings(ROBOMIMIC))
    assert not environment.keys() & {"controller", "control_freq", "robots"}  # the task's own
    assert recorded["env_kwargs"]["control_freq"] == 20


@pytest.mark.sim
def test_a_rendered_copy_is_evaluated_with_all_that_its_policy_sees(tmp_path):
    """A copy keeps what robomimic recorded beside the task's own observations; once, evaluation then lacked it."""
    out = tmp_path / "copy.hdf5"
    assert main(["render", f"dataset={ROBOMIMIC}", f"out={out}", "size=16", "workers=1", "cameras=[agentview]"]) == 0
    environment = environment_of(settings(out))
    assert (environment["task"], environment["render_profile"], environment["horizon"]) == ("Lift", "fast", 100)
    assert "robot0_joint_pos_cos" in environment["proprioception"]
    assert environment_of(settings(out, proprioception=["robot0_eef_pos"])) is None  # the task's own


def changed(tmp_path, change):
    """The file of robomimic, with its `env_kwargs` or `env_name` changed."""
    path = tmp_path / "changed.hdf5"
    path.write_bytes(ROBOMIMIC.read_bytes())
    with h5py.File(path, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        change(env_args, file["data"])
        file["data"].attrs["env_args"] = json.dumps(env_args)
    return path


@pytest.mark.sim
def test_another_robot_and_frequency_follow_the_file(tmp_path):
    def change(env_args, data):
        del env_args["env_kwargs"]["controller_configs"]
        env_args["env_kwargs"] |= {"robots": ["Sawyer"], "control_freq": 10}

    environment = environment_of(settings(changed(tmp_path, change)))
    assert (environment["robots"], environment["control_freq"]) == (["Sawyer"], 10)


@pytest.mark.sim
def test_an_environment_that_cannot_be_made_is_named_and_training_goes_on(tmp_path, capsys):
    def change(env_args, data):
        env_args["env_name"] = "KitchenOfMine"

    assert environment_of(settings(changed(tmp_path, change))) is None
    told = capsys.readouterr().err
    assert "the recorded environment cannot be made here" in told
    assert "unknown task of robosuite 'KitchenOfMine'" in told


@pytest.mark.sim
def test_what_does_not_fit_is_refused_before_training_and_all_of_it_is_named(tmp_path, capsys):
    def change(env_args, data):
        for demo in data.values():
            demo["obs/robot0_eef_force"] = np.zeros((len(demo["actions"]), 3))
            demo["obs/robot0_gripper_qpos_wide"] = np.zeros((len(demo["actions"]), 3))
            demo["obs"].move("agentview_image", "kitchenview_image")
            actions = np.concatenate([demo["actions"][:], demo["actions"][:, :1]], 1)
            del demo["actions"]
            demo["actions"] = actions

    path = changed(tmp_path, change)
    with pytest.raises(DatasetError) as error:
        environment_of(settings(path))
    for part in (
        "unknown camera 'kitchenview'",
        "unknown observation 'robot0_eef_force'",
        "actions have 8 numbers, and 7 in the environment",
        "task=none",
    ):
        assert part in str(error.value)
    assert environment_of(settings(path, task="none")) == {}


@pytest.mark.sim
def test_actions_beyond_the_range_of_the_environment_are_named(tmp_path, capsys):
    def change(env_args, data):
        data["demo_1/actions"][3, 2] = 1.25

    environment_of(settings(changed(tmp_path, change)))
    assert "actions out of range, which the environment cuts off: actions[2] from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env_args", "unit"),
    [
        ({"type": 1, "env_kwargs": {}}, True),
        ({"type": 1, "env_kwargs": {"controller_configs": {"type": "OSC_POSE", "control_delta": False}}}, False),
        (
            {"type": 1, "env_kwargs": {"controller_configs": [{"body_parts": {"right": {"input_type": "absolute"}}}]}},
            False,
        ),
        ({"type": 2, "s2robot": {"task": "gym:A-v0", "gym": {}}}, True),
        ({"type": 2, "s2robot": {"task": "gym:A-v0", "gym": {"actions": "own"}}}, False),
        ({"type": 2}, False),
        ({}, False),
    ],
)
def test_only_environments_that_take_unit_actions_have_that_range(env_args, unit):
    assert takes_unit_actions(env_args) == unit


@pytest.mark.sim
def test_actions_of_rendered_recordings_beyond_the_range_are_named_too(tmp_path, capsys):
    env_args = {"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"]}, "s2robot": ENVIRONMENT}
    with RobomimicWriter(tmp_path / "demos.hdf5", env_args) as writer:
        episode = make_episode(4, 0)
        episode.actions[2, 1] = 1.5
        episode.proprioception = {}
        writer.add(episode)
    assert environment_of(settings(tmp_path / "demos.hdf5")) is None
    assert "actions[1] from" in capsys.readouterr().err


def test_options_need_a_task(tmp_path):
    write_dataset(tmp_path / "demos.hdf5", lengths=(4, 4))
    with pytest.raises(ConfigError, match="robots='Sawyer' is not possible; valid: only together with task="):
        environment_of(settings(tmp_path / "demos.hdf5", robots="Sawyer"))


@pytest.mark.parametrize(
    ("environment", "env_args", "lengths", "horizon"),
    [
        ({"task": "Lift"}, {}, [226, 1143], 1200),
        ({"task": "Lift"}, {}, [27], 100),
        ({"task": "Lift", "horizon": 150}, {"s2robot": {}, "collection": {}}, [33], 150),  # our own
        ({"task": "Lift", "horizon": 150}, {"s2robot": {}, "rendered_from": "x"}, [226, 1143], 1200),
        ({"task": "Lift", "horizon": 150}, {"s2robot": {}, "rendered_from": "x", "collection": {}}, [150], 150),
        ({}, {}, [27], None),  # no environment
    ],
)
def test_the_horizon_follows_the_demonstrations_of_others(environment, env_args, lengths, horizon):
    found, told = with_horizon(environment, env_args, lengths)
    assert found.get("horizon") == horizon
    assert bool(told) == (horizon != environment.get("horizon"))
    assert not told or str(max(lengths)) in told


@pytest.mark.sim
def test_what_this_package_collects_is_evaluated_as_before(tmp_path):
    env_args = {"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"]}, "s2robot": ENVIRONMENT}
    with RobomimicWriter(tmp_path / "demos.hdf5", env_args) as writer:
        episode = make_episode(4, 0)
        episode.proprioception = {"robot0_eef_pos": np.zeros((4, 3), np.float32)}
        writer.add(episode)
    assert environment_of(settings(tmp_path / "demos.hdf5")) is None


@pytest.mark.sim
def test_our_own_demonstrations_keep_their_look_in_a_task_that_is_named(tmp_path):
    own = {**ENVIRONMENT, "variant": {"lighting": True}}
    env_args = {"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"]}, "s2robot": own}
    with RobomimicWriter(tmp_path / "demos.hdf5", env_args) as writer:
        episode = make_episode(4, 0)
        episode.actions = np.zeros((4, 7), np.float32)
        episode.images = {"agentview": episode.images["agentview"]}
        episode.proprioception = {"robot0_eef_pos": np.zeros((4, 3), np.float32)}
        writer.add(episode)
    environment = environment_of(settings(tmp_path / "demos.hdf5", task="Lift"))
    assert (environment["render_profile"], environment["variant"]) == ("fast", {"lighting": True})


@pytest.mark.sim
def test_a_task_that_is_named_must_exist(tmp_path):
    write_dataset(tmp_path / "demos.hdf5", lengths=(4, 4))
    with pytest.raises(ConfigError, match="unknown task of robosuite 'Wype'; did you mean 'Wipe'"):
        environment_of(settings(tmp_path / "demos.hdf5", task="robosuite:Wype"))
