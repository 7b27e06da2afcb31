"""Meta-World v3 through the generic wrapper; `make test-metaworld` runs it where the library is installed."""

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from s2robot.cli import main
from s2robot.data import open_dataset
from s2robot_envs import collect_episode, make_env, make_vector_env
from s2robot_envs.errors import EnvConfigError
from s2robot_envs.experts import make_expert

pytest.importorskip("metaworld", reason="metaworld is not installed (pip install 's2robot[metaworld]')")
pytestmark = pytest.mark.sim
TASK = "metaworld:button-press-topdown-v3"
NEEDS_THE_GOAL = "metaworld:reach-v3"


@pytest.fixture(scope="module")
def env():
    env = make_env(TASK, image_size=48)
    yield env
    env.close()


def test_gymnasium_accepts_the_task(env):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)


def test_the_robot_is_observed_and_not_the_objects(env):
    observation, _ = env.reset(seed=0)
    assert {key: value.shape for key, value in observation.items()} == {
        "corner2_image": (48, 48, 3),
        "gripperPOV_image": (48, 48, 3),
        "hand_pos": (3,),
        "gripper": (1,),
    }
    np.testing.assert_allclose(observation["hand_pos"], env.env.unwrapped.get_endeff_pos(), atol=1e-6)


def test_seeds_seed_whatever_ran_before(env):
    first, _ = env.reset(seed=3)
    other, _ = env.reset(seed=4)
    assert not np.array_equal(first["corner2_image"], other["corner2_image"])
    for _ in range(5):
        env.step(np.ones(4))
    again, _ = env.reset(seed=3)
    for key, value in first.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


@pytest.mark.parametrize("camera", ["corner", "corner2", "corner3"])
def test_cameras_that_hang_upside_down_are_turned_upright(env, camera):
    env.reset(seed=0)
    model, data = env.env.unwrapped.model, env.env.unwrapped.data
    index = model.camera(camera).id
    assert data.cam_xmat[index].reshape(3, 3)[2, 1] < 0  # as Meta-World mounts it
    upright = env.render_camera(camera, 48)
    as_mounted = env._renderer.render(data, index, 48)
    np.testing.assert_array_equal(upright, as_mounted[::-1, ::-1])
    assert upright.std() > 20


@pytest.mark.parametrize("task", [TASK, NEEDS_THE_GOAL, "metaworld:pick-place-v3"])
def test_the_scripted_policy_solves_its_task_under_noise(task):
    env = make_env(task, cameras=())
    episodes = [collect_episode(env, make_expert(task), 10_000 + attempt, noise=0.15) for attempt in range(3)]
    env.close()
    assert any(episode["success"] for episode in episodes)  # which, depends on the processor's last bits
    assert all(np.abs(episode["actions"]).max() <= 1 for episode in episodes)


def test_collect_records_demonstrations_that_rebuild_the_environment(tmp_path):
    out = tmp_path / "button.hdf5"
    assert main(["collect", f"task={TASK}", "num=2", "size=32", "workers=2", f"out={out}"]) == 0
    with open_dataset(out) as dataset:
        assert dataset.cameras == ["corner2", "gripperPOV"]
        episode = dataset.episode(1)
        recorded = dataset.env_args["s2robot"]
    envs = make_vector_env(num_envs=1, observation_steps=1, action_steps=2, **recorded)
    observation, _ = envs.reset(seed=[episode.attributes["seed"]])
    np.testing.assert_array_equal(observation["corner2_image"][0, 0], episode.images["corner2"][0])
    envs.close()


def test_impossible_settings_are_one_clear_error():
    for kwargs, message in (
        ({"task": "metaworld:buton-press-v3"}, "unknown Meta-World task .*; did you mean 'button-press-v3'"),
        ({"task": TASK, "horizon": 600}, "Meta-World ends every episode after 500 steps"),
        ({"task": TASK, "cameras": ["corner4"]}, "unknown camera of metaworld:.*did you mean 'corner'"),
    ):
        with pytest.raises(EnvConfigError, match=message):
            make_env(**kwargs)
