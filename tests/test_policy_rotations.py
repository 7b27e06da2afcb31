"""Rotations in actions are learned in their 6-D form, and come back as they were recorded."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_toys import READOUT, SMALL, SPEC, generators, make_batch
from scipy.spatial.transform import Rotation

from s2robot.config.policy import ROTATION_WIDTHS
from s2robot.interfaces import Batch, ConfigError, Observation
from s2robot.policies import make_policy
from s2robot.policies.bc import BCConfig
from s2robot.policies.rotations import from_6d, gram_schmidt, to_6d
from s2robot.rollout import ChunkEnsemble

FLOAT32, FLOAT64 = 2e-6, 1e-14  # rad; a few roundings of numbers near 1
# SciPy is the reference: (rotation -> recorded numbers, recorded numbers -> rotation).
SCIPY = {
    "axis_angle": (lambda r: r.as_rotvec(), Rotation.from_rotvec),
    "euler_xyz": (lambda r: r.as_euler("xyz"), lambda v: Rotation.from_euler("xyz", v)),
    "euler_xyz_intrinsic": (lambda r: r.as_euler("XYZ"), lambda v: Rotation.from_euler("XYZ", v)),
    "quaternion_xyzw": (lambda r: r.as_quat(), Rotation.from_quat),
    "quaternion_wxyz": (lambda r: r.as_quat(scalar_first=True), lambda v: Rotation.from_quat(v, scalar_first=True)),
    "matrix": (lambda r: r.as_matrix().reshape(-1, 9), lambda v: Rotation.from_matrix(v.reshape(-1, 3, 3))),
    "rot_6d": (lambda r: r.as_matrix()[:, :2].reshape(-1, 6), lambda v: Rotation.from_matrix(completed(v))),
}


def completed(rows):
    first, second = rows.reshape(-1, 2, 3).transpose(1, 0, 2)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def directions(count):
    axes = np.random.default_rng(0).normal(size=(count, 3))
    return axes / np.linalg.norm(axes, axis=1, keepdims=True)


def about(angle):
    return Rotation.from_rotvec(directions(500) * angle)


def gimbal(below):
    """Rotations whose second Euler angle is `below` a right angle."""
    rng = np.random.default_rng(1)
    tilt = rng.choice([-1, 1], 500) * (np.pi / 2 - below)
    return Rotation.from_euler("xyz", np.stack([rng.uniform(-3, 3, 500), tilt, rng.uniform(-3, 3, 500)], axis=1))


ROTATIONS = {
    "random": Rotation.random(2000, random_state=0),
    "none": Rotation.identity(3),
    "half turns about the axes": Rotation.from_rotvec(np.pi * np.eye(3)),
    **{f"{angle:g} rad": about(angle) for angle in (1e-9, 1e-4, 1e-2, np.pi - 1e-2, np.pi - 1e-4, np.pi - 1e-7, np.pi)},
    **{f"Euler angles {below:g} from the pole": gimbal(below) for below in (0, 1e-7, 1e-4, 1e-2)},
}


def test_every_form_has_a_reference():
    assert SCIPY.keys() == ROTATION_WIDTHS.keys()


@pytest.mark.parametrize("form", SCIPY)
@pytest.mark.parametrize("name", ROTATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FLOAT32), (torch.float64, FLOAT64)])
def test_the_learned_form_is_scipys_matrix_and_comes_back_as_the_same_rotation(name, form, dtype, tolerance):
    rotation = ROTATIONS[name]
    record, read = SCIPY[form]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # SciPy warns at the pole of Euler angles
        recorded = record(rotation)
    recorded = torch.from_numpy(recorded).to(dtype)
    # What was recorded, read by SciPy: at the pole, its Euler angles themselves are off by 1e-7.
    meant = read(recorded.double().numpy())
    learned = to_6d(recorded, form)
    assert learned.dtype == dtype
    assert learned.shape == (len(rotation), 6)
    np.testing.assert_allclose(learned.numpy(), meant.as_matrix()[:, :2].reshape(-1, 6), rtol=0, atol=tolerance)
    back = from_6d(learned, form)
    assert back.shape == recorded.shape
    assert (read(back.double().numpy()) * meant.inv()).magnitude().max() < tolerance


@pytest.mark.parametrize("form", ["axis_angle", "matrix", "rot_6d"])
def test_numbers_that_stand_for_one_rotation_only_come_back_themselves(form):
    record, _ = SCIPY[form]
    recorded = torch.from_numpy(record(about(2.5)))
    torch.testing.assert_close(from_6d(to_6d(recorded, form), form), recorded, rtol=0, atol=FLOAT64)


def test_an_axis_angle_beyond_a_half_turn_comes_back_as_the_shorter_one():
    recorded = torch.from_numpy(directions(20) * 4.0)
    torch.testing.assert_close(
        from_6d(to_6d(recorded, "axis_angle"), "axis_angle").norm(dim=1),
        torch.full((20,), 2 * np.pi - 4.0, dtype=torch.float64),
    )


def test_quaternions_of_opposite_signs_are_learned_as_one_rotation():
    quaternions = torch.from_numpy(ROTATIONS["random"].as_quat())
    torch.testing.assert_close(to_6d(-quaternions, "quaternion_xyzw"), to_6d(quaternions, "quaternion_xyzw"))
    assert (from_6d(to_6d(-quaternions, "quaternion_xyzw"), "quaternion_xyzw")[:, 3] >= 0).all()


@pytest.mark.parametrize("form", SCIPY)
def test_any_six_numbers_become_a_rotation(form):
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 6)))
    matrix = gram_schmidt(noise)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3, dtype=torch.float64).expand(500, 3, 3))
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(500, dtype=torch.float64))
    _, read = SCIPY[form]
    assert (read(from_6d(noise, form).numpy()) * Rotation.from_matrix(matrix.numpy()).inv()).magnitude().max() < 1e-12
    # The first row keeps its direction, and the second stays in the plane of both.
    torch.testing.assert_close(matrix[:, 0], torch.nn.functional.normalize(noise[:, :3], dim=1))
    torch.testing.assert_close((matrix[:, 2] * noise[:, 3:]).sum(1), torch.zeros(500, dtype=torch.float64))


@pytest.mark.parametrize("form", SCIPY)
@pytest.mark.parametrize("numbers", [[0.0] * 6, [1.0, 0, 0, 1.0, 0, 0], [1e-30] * 6])
def test_numbers_without_a_direction_stay_finite(numbers, form):
    assert from_6d(torch.tensor([numbers]), form).isfinite().all()
    assert to_6d(torch.zeros(1, ROTATION_WIDTHS[form]), form).isfinite().all()


# In policies ------------------------------------------------------------------------------------------------------

WIDE = replace(SPEC, action_width=7)  # position, axis-angle, gripper
ROTATED = {"action_rotations": [{"start": 3, "form": "axis_angle"}], "action_normalization": {"-1": "none"}}


def poses(*shape, seed=0):
    """Absolute poses of a gripper that points down: their rotations are about half a turn, on both sides of it."""
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec([np.pi, 0, 0]) * Rotation.from_rotvec(rng.normal(0, 0.2, (int(np.prod(shape)), 3)))
    position = rng.normal([0.1, 0.0, 0.9], 0.1, (*shape, 3))
    gripper = rng.choice([-1.0, 1.0], (*shape, 1))
    return torch.from_numpy(np.concatenate([position, rotation.as_rotvec().reshape(*shape, 3), gripper], -1)).float()


def apart(first, second):
    """The largest angle [rad] between the rotations of two sets of poses."""
    left, right = (Rotation.from_rotvec(values.reshape(-1, 7)[:, 3:6].double().numpy()) for values in (first, second))
    return (left.inv() * right).magnitude().max()


def rotated(name):
    """A policy that learns poses, fitted to a batch of them."""
    torch.manual_seed(0)
    config = replace(SMALL[name], **ROTATED)
    policy = make_policy(config, READOUT, WIDE)
    seen = make_batch(12, config.observation_steps, config.action_steps).observation
    past = poses(12, config.observation_steps, seed=1)
    batch = Batch(Observation(seen.features, seen.proprioception, past), poses(12, config.action_steps))
    policy.fit_normalization([batch.actions.flatten(0, 1).numpy()], [seen.proprioception.flatten(0, 1).numpy()])
    policy.fit([batch])
    return policy, batch


@pytest.mark.parametrize("name", SMALL)
def test_every_policy_learns_poses_and_acts_in_the_recorded_numbers(name):
    policy, batch = rotated(name)
    loss = policy.loss(batch)
    assert loss.isfinite()
    if policy.trainable:
        loss.backward()
    actions = policy.eval().act(batch.observation, generators(12))
    assert actions.shape == batch.actions.shape
    angles = actions[..., 3:6].norm(dim=-1)
    assert angles.isfinite().all()
    assert (angles <= np.pi + 1e-5).all()


@pytest.mark.parametrize("name", SMALL)
def test_equal_poses_are_equal_to_every_policy_whatever_numbers_they_were_recorded_with(name):
    """Half a turn about x is (π, 0, 0) and (-π, 0, 0): a policy must not learn their mean, no turn at all."""
    policy, batch = rotated(name)
    turn = batch.actions[..., 3:6]
    other = batch.actions.clone()
    other[..., 3:6] = turn * (1 - 2 * np.pi / turn.norm(dim=-1, keepdim=True))  # the same rotation, the other way round
    seen = batch.observation
    assert apart(batch.actions, other) < 1e-5
    assert (batch.actions - other).abs().max() > 6
    torch.testing.assert_close(policy.actions(batch.actions), policy.actions(other), rtol=0, atol=1e-5)
    past = seen.past_actions.clone()
    turn = past[..., 3:6]
    past[..., 3:6] = turn * (1 - 2 * np.pi / turn.norm(dim=-1, keepdim=True))
    policy.eval()
    first = policy.act(seen, generators(12))
    second = policy.act(Observation(seen.features, seen.proprioception, past), generators(12))
    assert apart(first, second) < 1e-3
    torch.testing.assert_close(first[..., :3], second[..., :3], rtol=0, atol=1e-4)


def test_knn_of_poses_on_both_sides_of_a_half_turn_lies_between_them():
    policy, batch = rotated("knn")
    actions = policy.eval().act(batch.observation, generators(12))
    down = Rotation.from_rotvec([np.pi, 0, 0])
    found = Rotation.from_rotvec(actions.reshape(-1, 7)[:, 3:6].double().numpy())
    assert (down.inv() * found).magnitude().max() < 1.0  # the demonstrated ones are within 0.8 rad


def test_what_is_learned_comes_back_through_the_normaliser():
    policy, batch = rotated("bc")
    assert policy.actions(batch.actions).shape[-1] == 10
    back = policy.actions.inverse(policy.actions(batch.actions))
    torch.testing.assert_close(back[..., [0, 1, 2, 6]], batch.actions[..., [0, 1, 2, 6]])
    assert apart(back, batch.actions) < 1e-5


def test_overlapping_chunks_are_averaged_as_rotations():
    """The mean of the numbers of two turns close to half a turn, from both sides, would be no turn at all."""
    policy, _ = rotated("bc")
    ensemble = ChunkEnsemble(0.0, policy.actions.layout)
    chunk = np.zeros((4, 7), np.float32)
    chunk[:, 3] = np.pi - 0.1
    ensemble.combine(0, chunk, 1)
    chunk[:, 3] = -np.pi + 0.1
    average = ensemble.combine(1, chunk, 1)
    assert average.shape == (1, 7)
    assert average.dtype == np.float32
    assert abs(np.linalg.norm(average[0, 3:6]) - np.pi) < 1e-5
    np.testing.assert_allclose(ChunkEnsemble(0.0).combine(0, chunk, 4), chunk)


def test_the_average_of_equal_chunks_is_each_of_them():
    policy, batch = rotated("bc")
    ensemble = ChunkEnsemble(0.01, policy.actions.layout)
    pose = batch.actions[0, :1].numpy().repeat(4, axis=0)
    for step in range(3):
        average = ensemble.combine(step, pose, 1)
    assert apart(torch.from_numpy(average), batch.actions[0, :1]) < 1e-5
    np.testing.assert_allclose(average[0, [0, 1, 2, 6]], pose[0, [0, 1, 2, 6]], rtol=1e-6)


def test_several_rotations_of_different_forms_keep_their_places():
    config = BCConfig(
        action_rotations=[{"start": 5, "form": "quaternion_wxyz"}, {"start": 1, "form": "euler_xyz"}],
        action_normalization="none",
    )
    policy = make_policy(config, READOUT, replace(SPEC, action_width=10))
    assert policy.actions.layout.learned_width == 10 + 3 + 2
    values = torch.randn(20, 10)
    values[:, 5:9] = torch.from_numpy(Rotation.random(20, random_state=0).as_quat(scalar_first=True)).float()
    back = policy.actions.inverse(policy.actions(values))
    torch.testing.assert_close(back[:, [0, 4, 9]], values[:, [0, 4, 9]])
    for start, form in ((1, "euler_xyz"), (5, "quaternion_wxyz")):
        columns = slice(start, start + ROTATION_WIDTHS[form])
        _, read = SCIPY[form]
        first, second = (read(part[:, columns].double().numpy()) for part in (back, values))
        assert (first * second.inv()).magnitude().max() < 1e-5


@pytest.mark.parametrize(
    ("rotations", "message"),
    [
        ([{"start": 5, "form": "axis_angle"}], "within the 7 numbers"),
        ([{"start": 0, "form": "axis_angle"}, {"start": 2, "form": "axis_angle"}], "do not overlap"),
        ([{"start": 0, "form": "matrix"}], "matrix takes 9"),
    ],
)
def test_rotations_that_do_not_fit_the_action_are_refused(rotations, message):
    with pytest.raises(ConfigError, match=message):
        make_policy(BCConfig(action_rotations=rotations), READOUT, WIDE)


@pytest.mark.parametrize(
    "entry",
    [
        {"start": 3},
        {"start": -1, "form": "axis_angle"},
        {"start": 3, "form": "quaternion"},
        {"start": 3, "form": ["axis_angle"]},
        "axis_angle",
        {"start": "3", "form": "matrix"},
        {"start": True, "form": "matrix"},
        {"start": 0, "form": "matrix", "width": 9},
    ],
)
def test_a_malformed_rotation_is_one_clear_error(entry):
    with pytest.raises(ConfigError, match="a form of axis_angle, euler_xyz"):
        BCConfig(action_rotations=[entry])


@pytest.mark.parametrize("modes", [{"3": "min_max"}, {"2-4": "quantile"}, ["min_max"] * 7])
def test_a_rotation_is_not_normalised(modes):
    config = BCConfig(action_rotations=[{"start": 3, "form": "axis_angle"}], action_normalization=modes)
    with pytest.raises(ConfigError, match="part of a rotation.*valid: none"):
        make_policy(config, READOUT, WIDE)
