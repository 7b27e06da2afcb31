import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from s2robot_envs import make_env
from s2robot_envs.errors import ActionError, EnvConfigError, EpisodeOverError
from s2robot_envs.experts import make_expert

pytestmark = pytest.mark.sim
HORIZON = 10


@pytest.fixture(scope="module")
def chunk():
    env = make_env("Lift", cameras=("agentview",), image_size=32, horizon=HORIZON, observation_steps=2, action_steps=4)
    yield env
    env.close()


@pytest.fixture(scope="module")
def plain():
    env = make_env("Lift", cameras=("agentview",), image_size=32, horizon=HORIZON)
    yield env
    env.close()


@pytest.fixture
def rendered(chunk, monkeypatch):
    """Cameras rendered since the start of the test, in order."""
    cameras = []
    render = chunk.unwrapped.render_camera
    monkeypatch.setattr(
        chunk.unwrapped, "render_camera", lambda name, size=None: (cameras.append(name), render(name, size))[1]
    )
    return cameras


def random_chunk(seed, steps=4):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 7)).astype(np.float32)


def lift_the_cube(env):
    """Put the cube in the air, from where it needs some steps to fall."""
    state = env.unwrapped.state()
    state[1 + env.unwrapped.simulator.sim.model.get_joint_qpos_addr("cube_joint0")[0] + 2] += 0.3
    env.unwrapped.set_state(state)


def test_gymnasium_accepts_the_wrapper(chunk):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(chunk, skip_render_check=True)


def test_reset_repeats_the_first_observation(chunk, plain):
    observation, info = chunk.reset(seed=1)
    first, _ = plain.reset(seed=1)
    assert info["steps"] == 0
    for key, value in first.items():
        np.testing.assert_array_equal(observation[key], np.stack([value, value]), err_msg=key)


def test_a_chunk_is_its_actions_in_order_and_shows_the_last_observations(chunk, plain):
    chunk.reset(seed=1)
    plain.reset(seed=1)
    actions = random_chunk(0)
    observation, reward, terminated, truncated, info = chunk.step(actions)
    singles = [plain.step(action)[0] for action in actions]
    for key in singles[0]:
        np.testing.assert_array_equal(observation[key], np.stack([s[key] for s in singles[-2:]]), err_msg=key)
    assert (reward, terminated, truncated, info["steps"], info["is_success"]) == (0.0, False, False, 4, False)


def test_only_the_observed_frames_are_rendered(chunk, rendered):
    chunk.reset(seed=1)
    assert len(rendered) == 1
    chunk.step(random_chunk(0))
    assert len(rendered) == 1 + 2


def test_the_horizon_shortens_the_last_chunk_and_then_it_idles(chunk, plain):
    chunk.reset(seed=1)
    plain.reset(seed=1)
    steps = [chunk.step(random_chunk(0))[4]["steps"] for _ in range(2)]
    observation, _, _, truncated, info = chunk.step(random_chunk(0))
    assert [*steps, info["steps"], truncated] == [4, 4, HORIZON - 8, True]
    singles = [plain.step(action)[0] for _ in range(3) for action in random_chunk(0)[: plain.steps_left]]
    np.testing.assert_array_equal(
        observation["agentview_image"], np.stack([s["agentview_image"] for s in singles[-2:]])
    )
    state = chunk.unwrapped.state()
    idle, reward, _, truncated, info = chunk.step(random_chunk(1))
    assert (reward, truncated, info["steps"], info["is_success"]) == (0.0, True, 0, False)
    np.testing.assert_array_equal(idle["agentview_image"], observation["agentview_image"])
    np.testing.assert_array_equal(chunk.unwrapped.state(), state)


def test_success_ends_the_chunk_and_the_newest_observation_fills_the_history(chunk):
    chunk.reset(seed=1)
    lift_the_cube(chunk)
    observation, reward, terminated, truncated, info = chunk.step(np.zeros((4, 7)))
    assert (reward, terminated, truncated) == (1.0, False, False)
    assert (info["steps"], info["is_success"], info["success_so_far"]) == (1, True, True)
    np.testing.assert_array_equal(observation["agentview_image"][0], observation["agentview_image"][1])
    np.testing.assert_array_equal(observation["agentview_image"][1], chunk.unwrapped.render())
    *_, truncated, info = chunk.step(np.zeros((4, 7)))
    assert (truncated, info["steps"], info["is_success"]) == (True, 0, False)
    assert chunk.reset(seed=1)[1]["success_so_far"] is False
    assert chunk.step(np.zeros((4, 7)))[4]["steps"] == 4


def test_a_history_longer_than_the_chunk_reaches_into_the_chunk_before():
    env = make_env("Lift", cameras=(), observation_steps=3, action_steps=1)
    positions = [env.reset(seed=0)[0]["robot0_eef_pos"][-1]]
    for step in range(3):
        observation, *_ = env.step(np.ones((1, 7)))
        positions.append(observation["robot0_eef_pos"][-1])
        expected = positions[-3:] if step else [positions[0], positions[0], positions[1]]
        np.testing.assert_array_equal(observation["robot0_eef_pos"], np.stack(expected))
    env.close()


def test_recording_returns_every_frame_and_changes_nothing_else(chunk, rendered):
    plain_observation = (chunk.reset(seed=1), chunk.step(random_chunk(0)))[1][0]
    rendered.clear()
    _, info = chunk.reset(seed=1, options={"record": True})
    assert info["frames"].shape == (1, 32, 32, 3)
    observation, *_, info = chunk.step(random_chunk(0))
    assert info["frames"].shape == (4, 32, 32, 3)
    assert info["frames"].dtype == np.uint8
    assert len(rendered) == 1 + 4  # observed frames are not rendered twice
    np.testing.assert_array_equal(info["frames"][-1], observation["agentview_image"][-1])
    np.testing.assert_array_equal(observation["agentview_image"], plain_observation["agentview_image"])
    assert "frames" not in chunk.reset(seed=1)[1]


def test_any_camera_can_be_recorded(chunk):
    _, info = chunk.reset(seed=1, options={"record": "frontview"})
    np.testing.assert_array_equal(info["frames"][0], chunk.unwrapped.render_camera("frontview"))
    with pytest.raises(EnvConfigError, match="unknown camera to record 'frontveiw'; did you mean 'frontview'"):
        chunk.reset(options={"record": "frontveiw"})


def test_a_bad_chunk_is_refused_before_any_of_it_runs(chunk):
    chunk.reset(seed=1)
    before = chunk.unwrapped.state()
    with pytest.raises(ActionError, match=r"shape \(3, 7\); expected \(4, 7\)"):
        chunk.step(random_chunk(0, steps=3))
    bad = random_chunk(0)
    bad[3, 0] = np.nan
    with pytest.raises(ActionError, match="NaN"):
        chunk.step(bad)
    np.testing.assert_array_equal(chunk.unwrapped.state(), before)


def test_stepping_before_reset_is_refused():
    env = make_env("Lift", cameras=(), action_steps=2)
    with pytest.raises(EpisodeOverError, match="never reset"):
        env.step(np.zeros((2, 7)))
    env.close()


def test_a_chunked_expert_succeeds():
    env = make_env("Lift", cameras=(), action_steps=1)
    expert = make_expert("Lift")
    env.reset(seed=0)
    expert.reset(env.unwrapped)
    infos = [env.step(expert.act()[None])[4] for _ in range(60)]
    assert infos[-1]["success_so_far"]
    assert sum(info["is_success"] for info in infos) == 1
    assert sum(info["steps"] for info in infos) < 60
    env.close()


def test_reset_says_what_draws_and_steps_do_not(chunk):
    _, info = chunk.reset(seed=1)
    assert info["renderer"] == chunk.unwrapped.renderer_name
    name, _, version = info["renderer"].partition(", ")
    assert name
    assert version[0].isdigit()
    assert "renderer" not in chunk.step(random_chunk(0))[4]


def test_an_environment_that_drew_nothing_names_no_renderer():
    env = make_env("Lift", cameras=(), horizon=HORIZON)
    env.reset(seed=0)
    assert env.renderer_name is None
    env.render()
    assert env.renderer_name
    env.close()
    assert env.renderer_name is None
