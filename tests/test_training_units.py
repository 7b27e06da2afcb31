import numpy as np
import pytest
from helpers import ENVIRONMENT, make_episode
from scipy.spatial.transform import Rotation
from training_runs import make_config, make_encoder

from s2robot.checkpoint import load_checkpoint
from s2robot.data import RobomimicWriter
from s2robot.training import train
from s2robot.training.units import action_parts

POSE = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "input_type": "delta",
}
POSITION = {**POSE, "type": "OSC_POSITION", "output_max": [0.05] * 3, "output_min": [-0.05] * 3}


def composite(controller):
    """As robosuite 1.5 records it."""
    return {"type": "BASIC", "body_parts": {"right": {**controller, "gripper": {"type": "GRIP"}}}}


def env_args(*controllers):
    return {"env_kwargs": {"robots": ["Panda"] * len(controllers), "controller_configs": list(controllers)}}


def errors(description, predicted, demonstrated):
    predicted, demonstrated = np.asarray(predicted, float), np.asarray(demonstrated, float)
    parts = action_parts(description, predicted.shape[-1])
    return {part.name: part.error(predicted[None, None], demonstrated[None, None]) for part in parts}


def test_errors_of_a_pose_controller_are_in_metres_and_radians():
    found = errors(env_args(composite(POSE)), [0.6, 0, 0.8, 0, 0, 1, 1], [0, 0, 0, 0, 0, -1, -1])
    assert found == pytest.approx({"position_error_m": 0.05, "rotation_error_rad": 1.0, "gripper_error": 2.0})


def test_rotation_error_is_the_angle_between_the_commanded_rotations():
    mine, theirs = np.array([0.9, -0.3, 0.5]), np.array([-0.2, 0.7, 0.1])
    found = errors(env_args(composite(POSE)), [0, 0, 0, *mine, 0], [0, 0, 0, *theirs, 0])["rotation_error_rad"]
    expected = (Rotation.from_rotvec(mine / 2).inv() * Rotation.from_rotvec(theirs / 2)).magnitude()
    assert found == pytest.approx(expected)


def test_each_of_two_robots_has_errors_of_its_own():
    ones, zeros = np.ones(14), np.zeros(14)
    ones[:7] = 0
    found = errors(env_args(composite(POSE), composite(POSE)), ones, zeros)
    assert found["robot0_position_error_m"] == found["robot0_gripper_error"] == 0
    assert found["robot1_position_error_m"] == pytest.approx(0.05 * 3**0.5)
    assert found["robot1_gripper_error"] == 1


def test_the_form_before_robosuite_1_5_is_understood():
    older = {"env_kwargs": {"robots": ["Panda"], "controller_configs": {**POSE, "control_delta": True}}}
    assert errors(older, [1, 0, 0, 0, 0, 0, 0], np.zeros(7))["position_error_m"] == pytest.approx(0.05)
    two = {"env_kwargs": {"robots": ["Panda", "Panda"], "controller_configs": POSE}}
    assert len(action_parts(two, 14)) == 6


@pytest.mark.parametrize("absolute", [{"input_type": "absolute"}, {"control_delta": False}])
def test_absolute_actions_are_in_metres_and_radians_already(absolute):
    found = errors(env_args(composite({**POSE, **absolute})), [0.3, 0, 0, 0, 0, 2, 0], np.zeros(7))
    assert found == pytest.approx({"position_error_m": 0.3, "rotation_error_rad": 2.0, "gripper_error": 0.0})


@pytest.mark.parametrize(
    ("controller", "width", "names"),
    [
        (POSE, 6, ["position_error_m", "rotation_error_rad"]),  # Wipe has no gripper
        (POSITION, 4, ["position_error_m", "gripper_error"]),
        (POSITION, 3, ["position_error_m"]),
        (POSE, 12, []),  # fingers, or a base
        ({**POSE, "type": "JOINT_POSITION"}, 8, []),
        ({"type": "OSC_POSE"}, 7, []),  # no scale is recorded
    ],
)
def test_parts_follow_the_controller_and_are_none_where_it_is_not_understood(controller, width, names):
    assert [part.name for part in action_parts(env_args(composite(controller)), width)] == names


@pytest.mark.parametrize(
    "description", [{}, {"env_kwargs": {}}, {"env_kwargs": None}, {"env_kwargs": {"controller_configs": ["OSC_POSE"]}}]
)
def test_a_description_without_controllers_has_no_parts(description):
    assert action_parts(description, 7) == []


def test_two_arms_under_one_robot_are_left_in_environment_units():
    both = {"type": "BASIC", "body_parts": {"right": POSE, "left": POSE}}
    assert action_parts(env_args(both), 14) == []


def test_validation_reports_physical_units_where_the_dataset_records_them(tmp_path):
    described = {"env_name": "Lift", "type": 1, "s2robot": ENVIRONMENT, **env_args(composite(POSITION))}
    with RobomimicWriter(tmp_path / "demos.hdf5", described) as writer:
        for seed in range(5):
            writer.add(make_episode(30, seed))  # actions: 3 numbers of position, 1 of the gripper
    config = make_config(tmp_path, tmp_path / "run", training={"epochs": 2, "validate_every": 1})
    rows = load_checkpoint(train(config, make_encoder()))[0].loss_curve
    for row in rows:
        # uniform in [-1, 1], that is 0.05 m: an untrained policy is a few centimetres off
        assert 0.005 < row["validation_position_error_m"] < 0.1
        assert 0.2 < row["validation_gripper_error"] < 2
        assert "validation_rotation_error_rad" not in row
