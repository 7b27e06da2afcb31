import subprocess
import sys

import numpy as np
import pytest
from robosuite_twin import assert_same_picture, robosuite_twin

from s2robot_envs import make_env, rendering
from s2robot_envs.errors import RenderingError

pytestmark = pytest.mark.sim
CAMERAS = ("agentview", "robot0_eye_in_hand")


@pytest.fixture(scope="module")
def env():
    env = make_env("Lift", image_size={"agentview": 96, "robot0_eye_in_hand": 64})
    yield env
    env.close()


@pytest.fixture(scope="module")
def full_env():
    env = make_env("Lift", cameras=CAMERAS, image_size=96, render_profile="full")
    yield env
    env.close()


def pixel_of(env, camera, position, size):
    """Row and column where a world position [3] appears in an upright image."""
    sim = env.simulator.sim
    index = sim.model.camera_name2id(camera)
    x, y, z = sim.data.cam_xmat[index].reshape(3, 3).T @ (position - sim.data.cam_xpos[index])
    focal = size / 2 / np.tan(np.deg2rad(sim.model.cam_fovy[index]) / 2)
    return round(size / 2 - focal * y / -z), round(size / 2 + focal * x / -z)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_red_cube_is_where_an_upright_camera_sees_it(env, seed):
    observation, _ = env.reset(seed=seed)
    cube = env.simulator.sim.data.get_body_xpos("cube_main")
    row, column = pixel_of(env, "agentview", cube, 96)
    red, green, blue = (int(value) for value in observation["agentview_image"][row, column])
    assert red > 2 * max(green, blue)


def test_cameras_have_their_own_sizes(env):
    observation, _ = env.reset(seed=0)
    assert observation["agentview_image"].shape == (96, 96, 3)
    assert observation["robot0_eye_in_hand_image"].shape == (64, 64, 3)
    assert env.render_camera("frontview", 40).shape == (40, 40, 3)
    np.testing.assert_array_equal(env.render(), observation["agentview_image"])


def test_full_is_what_robosuite_draws_turned_upright(full_env):
    full_env.reset(seed=0)
    with robosuite_twin(full_env) as theirs:
        for camera in CAMERAS:
            bottom_up = theirs.sim.render(camera_name=camera, width=96, height=96)
            assert_same_picture(full_env.render_camera(camera), bottom_up[::-1], camera)
            theirs.sim._render_context_offscreen.gl_ctx.make_current()  # robosuite renders in any context


def test_fast_stays_in_force_after_resets_and_differs_from_full(env, full_env):
    first = env.reset(seed=3)[0]["agentview_image"]
    env.reset(seed=4)
    env.step(np.ones(7))
    np.testing.assert_array_equal(env.reset(seed=3)[0]["agentview_image"], first)
    full = full_env.reset(seed=3)[0]["agentview_image"]
    assert not np.array_equal(full, first)
    # The same scene all the same: 1.5 levels apart here, other scenes of this camera 3.5 to 5.5.
    apart = [np.abs(full.astype(int) - env.reset(seed=seed)[0]["agentview_image"]).mean() for seed in (3, 4, 5)]
    assert min(apart) == apart[0] < 5


def test_leaving_out_unseen_geometry_changes_no_pixel(env, monkeypatch):
    env.reset(seed=5)
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 7)):
        for _ in range(8):
            env.step(action)
        fewer = {camera: env.render_camera(camera) for camera in (*CAMERAS, "frontview", "sideview")}
        with monkeypatch.context() as patch:
            patch.setattr(rendering, "_in_view", lambda mujoco, model, data, camera: np.ones(model.ngeom, bool))
            for camera, image in fewer.items():
                np.testing.assert_array_equal(env.render_camera(camera), image, err_msg=camera)


def test_two_environments_render_independently(env, full_env):
    env.reset(seed=0)
    full_env.reset(seed=0)
    fast, full = env.render(), full_env.render()
    env.reset(seed=1)
    np.testing.assert_array_equal(full_env.render(), full)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), fast)


def test_an_image_larger_than_the_buffer_is_refused(env):
    with pytest.raises(RenderingError, match="image size 128 exceeds the renderer's buffer of 96 pixels"):
        env.render_camera("agentview", 128)


def test_a_camera_can_be_observed_at_several_sizes_for_one_rendering():
    env = make_env("Lift", image_size={"agentview": (32, 96, 48), "robot0_eye_in_hand": 32})
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    shapes = {key: value.shape[0] for key, value in observation.items() if "image" in key}
    assert shapes == {
        "agentview_image": 96,
        "agentview_image_48": 48,
        "agentview_image_32": 32,
        "robot0_eye_in_hand_image": 32,
    }
    averaged = observation["agentview_image"].reshape(48, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(observation["agentview_image_48"] - averaged).max() <= 0.5
    again = make_env(**env.env_args()["s2robot"])
    assert again.observation_space == env.observation_space
    again.close()
    env.close()


def test_torch_can_be_imported_after_the_first_frame():
    # Mesa's LLVM loaded before Triton's used to end in a segmentation fault.
    code = """
from s2robot_envs import make_env
env = make_env("Lift", image_size=32)
env.reset(seed=0)
import torch._dynamo
"""
    subprocess.run([sys.executable, "-c", code], check=True)
