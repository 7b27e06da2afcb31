"""What others recorded against what this package would make of it."""

import copy
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from controllers_1_4 import CONTROLLER

from s2robot_envs import make_env
from s2robot_envs.errors import EnvConfigError
from s2robot_envs.experts import make_expert
from s2robot_envs.recorded import differences, recorded_settings, unrecorded
from s2robot_envs.settings import ROBOT_SETTINGS
from s2robot_envs.tasks import get_task

pytestmark = pytest.mark.sim

DATA = Path(__file__).parent / "data"
WIDE = [0.02] * 3 + [0.5] * 3


def recorded_by(name):
    with h5py.File(DATA / name) as file:
        return json.loads(file["data"].attrs["env_args"])


@pytest.fixture(scope="module")
def ours():
    from s2robot_envs.simulator import robosuite_kwargs

    return {"env_name": "Lift", "type": 1, "env_kwargs": robosuite_kwargs(get_task("Lift"), 150)}


def robosuite_1_4(controller=CONTROLLER, **kwargs):
    kwargs = {"robots": ["Panda"], "control_freq": 20, "controller_configs": controller, **kwargs}
    return {"env_name": "Lift", "env_version": "1.4.1", "type": 1, "env_kwargs": kwargs}


def robosuite_1_5(ours, **changes):
    recorded = copy.deepcopy({**ours, "env_version": "1.5.2"})
    recorded["env_kwargs"]["controller_configs"][0]["body_parts"]["right"] |= changes
    return recorded


@pytest.mark.parametrize("name", ["robomimic_lift.hdf5", "robosuite_1_4_lift.hdf5"])
def test_environments_that_others_recorded_with_robosuites_own_controller_do_not_differ(ours, name):
    assert differences(recorded_by(name), ours) == []


@pytest.mark.parametrize(
    "kwargs",
    [
        {"robots": "Panda"},
        {"controller_configs": [CONTROLLER]},
        {"controller_configs": {**CONTROLLER, "kp": [150] * 6, "kp_limits": [0, 500], "input_max": [1] * 6}},
        {"controller_configs": {name: CONTROLLER[name] for name in ("type", "control_delta")}},
        {"mount_types": "default", "gripper_types": ["default"], "table_friction": [1.0, 5e-3, 1e-4]},
        {"reward_shaping": True, "horizon": 1000, "camera_names": ["frontview"], "env_name": "Lift"},
    ],
)
def test_defaults_spelled_otherwise_are_no_difference(ours, kwargs):
    assert differences(robosuite_1_4(**kwargs), ours) == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"output_max": WIDE}, "output_max"),
        ({"input_max": 0.5}, "input_max"),
        ({"control_delta": False}, "input_type"),
        ({"kp": 300}, "kp"),
        ({"damping_ratio": [1, 1, 1, 1, 1, 2]}, "damping_ratio"),
        ({"impedance_mode": "variable_kp"}, "impedance_mode"),
        ({"uncouple_pos_ori": False}, "uncouple_pos_ori"),
        ({"interpolation": "linear"}, "interpolation"),
        ({"type": "OSC_POSITION"}, "type"),
        ({"type": "JOINT_POSITION", "kp": 50, "output_max": 0.05, "output_min": -0.05}, "type"),
        ({"type": "JOINT_VELOCITY"}, "type"),
    ],
)
def test_every_setting_of_a_controller_of_robosuite_1_4_that_moves_the_arm_otherwise_is_named(ours, changes, name):
    found = differences(robosuite_1_4({**CONTROLLER, **changes}), ours)
    assert any(text.startswith(f"controller_configs robot0 right {name}: recorded ") for text in found), found


@pytest.mark.parametrize(
    "changes",
    [
        {"output_max": WIDE},
        {"input_type": "absolute"},
        {"kp": 100},
        {"type": "JOINT_TORQUE"},
        {"gripper": {"type": "GRIP", "use_action_scaling": False}},
    ],
)
def test_every_setting_of_a_controller_of_robosuite_1_5_that_moves_the_arm_otherwise_is_named(ours, changes):
    (name, value) = next(iter(changes.items()))
    found = differences(robosuite_1_5(ours, **changes), ours)
    assert any(text.startswith(f"controller_configs robot0 right {name}: recorded {value!r}, here ") for text in found)


@pytest.mark.parametrize(
    ("kwargs", "difference"),
    [
        ({"control_freq": 10}, "control_freq: recorded 10, here 20"),
        ({"robots": ["Sawyer"]}, "robots: recorded ['Sawyer'], here ['Panda']"),
        ({"gripper_types": "RethinkGripper"}, "gripper_types: recorded 'RethinkGripper', here nothing"),
        ({"lite_physics": False}, "lite_physics: recorded False, here nothing"),
    ],
)
def test_other_robots_frequencies_and_grippers_are_named(ours, kwargs, difference):
    assert difference in differences(robosuite_1_4(**kwargs), ours)


def test_the_frame_of_a_robot_that_stands_turned_is_named_and_of_one_alone_is_not(ours):
    assert differences(robosuite_1_5(ours, input_ref_frame="world"), ours) == []
    two = copy.deepcopy({**ours, "env_name": "TwoArmLift"})
    two["env_kwargs"] |= {"robots": ["Panda"] * 2, "controller_configs": two["env_kwargs"]["controller_configs"] * 2}
    recorded = {**robosuite_1_4(robots=["Panda"] * 2, env_configuration="single-arm-opposed"), "env_name": "TwoArmLift"}
    assert differences(recorded, two) == [
        f"controller_configs robot{index} right input_ref_frame: recorded 'world', here 'base'" for index in range(2)
    ]


@pytest.mark.parametrize("controller", ["NONSENSE", {"type": "NONSENSE"}, {**CONTROLLER, "type": "IK_POSE"}, 3])
def test_a_controller_that_this_robosuite_does_not_have_is_an_error(ours, controller):
    with pytest.raises(EnvConfigError, match=r"controller .*(NONSENSE|IK_POSE|3)"):
        differences(robosuite_1_4(controller), ours)


def test_what_is_not_recorded_is_named():
    recorded = robosuite_1_4()
    assert unrecorded(recorded) == []
    del recorded["env_kwargs"]["control_freq"]
    assert unrecorded(recorded) == ["control_freq"]
    assert unrecorded({"env_name": "Lift"}) == ["robots", "controller_configs", "control_freq"]


@pytest.mark.parametrize("name", ["robomimic_lift.hdf5", "robosuite_1_4_lift.hdf5"])
def test_our_own_environment_needs_no_further_settings(name):
    assert recorded_settings(recorded_by(name), get_task("Lift")) == {}


def test_what_is_recorded_becomes_settings_and_no_more():
    slow = robosuite_1_4(control_freq=10, gripper_types="RethinkGripper", reward_shaping=True)
    expected = {"control_freq": 10, "robosuite": {"gripper_types": "RethinkGripper"}}
    assert recorded_settings(slow, get_task("Lift")) == expected
    (controller,) = recorded_settings(robosuite_1_4({**CONTROLLER, "kp": 300}), get_task("Lift"))["controller"]
    arm = controller["body_parts"]["right"]
    assert (arm["kp"], arm["input_type"], arm["input_ref_frame"]) == (300, "delta", "world")


def test_an_environment_with_another_controller_and_frequency_is_described_and_made_again():
    env = make_env("Lift", cameras=(), controller="OSC_POSITION", control_freq=10)
    described = json.loads(json.dumps(env.env_args()))
    assert env.action_space.shape == (4,)
    env.close()
    assert described["env_kwargs"]["control_freq"] == described["s2robot"]["control_freq"] == 10
    again = make_env(**described["s2robot"])
    assert again.env_args() == described
    again.reset(seed=0)
    before = again.state()[0]
    again.step(np.zeros(4, np.float32))
    assert again.state()[0] - before == pytest.approx(0.1)
    with pytest.raises(EnvConfigError, match="experts move a Panda by robosuite's own controller"):
        expert = make_expert("Lift")
        expert.reset(again)
        expert.act()
    again.close()


def test_plain_environments_are_described_as_before():
    env = make_env("Lift", cameras=())
    assert not env.env_args()["s2robot"].keys() & set(ROBOT_SETTINGS)
    env.close()


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("Lift", {"controller": "OSC_POES"}, "controller 'OSC_POES' is not a controller of robosuite"),
        ("Lift", {"controller": ["OSC_POSE"] * 2}, "controller has 2 entries for 1 robots"),
        ("Lift", {"robots": "Pnada"}, "unknown robot 'Pnada'; did you mean 'Panda'"),
        ("gym:CartPole-v1", {"control_freq": 10}, "control_freq does not apply to gym:CartPole-v1"),
    ],
)
def test_impossible_robots_and_controllers_are_one_clear_error(task, settings, message):
    with pytest.raises(EnvConfigError, match=message):
        make_env(task, cameras=(), **settings)
