import functools
import hashlib
import json
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from robosuite_twin import robosuite_twin

from s2robot_envs import make_env
from s2robot_envs.errors import ActionError, EnvConfigError, EpisodeOverError

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def env():
    env = make_env("Lift", image_size=48, horizon=60)
    yield env
    env.close()


def digest(env, seed, steps=50):
    """Hash of the first observation and of every observation and state of a trajectory of random actions."""
    sha = hashlib.sha256()
    actions = np.random.default_rng(7).uniform(-1, 1, (steps, *env.action_space.shape))
    observation, _ = env.reset(seed=seed)
    for action in [*actions, None]:
        for key in sorted(observation):
            sha.update(observation[key].tobytes())
        sha.update(env.state().tobytes())
        if action is not None:
            observation = env.step(action)[0]
    return sha.hexdigest()


def test_gymnasium_accepts_the_environment():
    env = gymnasium.make("s2robot_envs/Lift-v0", image_size=32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    env.close()
    # Other warnings are a matter of taste, and every version of gymnasium has its own: of infinite bounds, for one.
    broken = ("not equal", "determin", "not within", "expecting", "share an object", "bool")
    assert [str(w.message) for w in caught if any(word in str(w.message).lower() for word in broken)] == []


def test_observations_have_robomimic_names_and_documented_types(env):
    observation, info = env.reset(seed=0)
    assert {key: (value.shape, value.dtype) for key, value in observation.items()} == {
        "agentview_image": ((48, 48, 3), np.uint8),
        "robot0_eye_in_hand_image": ((48, 48, 3), np.uint8),
        "robot0_eef_pos": ((3,), np.float32),
        "robot0_eef_quat": ((4,), np.float32),
        "robot0_gripper_qpos": ((2,), np.float32),
    }
    assert env.observation_space.contains(observation)
    assert info == {"is_success": False, "success_so_far": False, "seed": 0}


def test_a_seed_gives_the_same_episode_whatever_ran_before(env):
    first = digest(env, seed=3)
    other = digest(env, seed=4)
    assert first != other
    assert digest(env, seed=3) == first


def test_reset_without_seed_reports_a_seed_that_repeats_the_episode(env):
    first, info = env.reset()
    second, other = env.reset()
    assert info["seed"] != other["seed"]
    assert not np.array_equal(first["robot0_eef_pos"], second["robot0_eef_pos"])
    again, _ = env.reset(seed=info["seed"])
    np.testing.assert_array_equal(again["agentview_image"], first["agentview_image"])


def test_the_horizon_truncates_and_never_terminates():
    env = make_env("Lift", cameras=(), horizon=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(7))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    with pytest.raises(EpisodeOverError, match="truncated at its horizon of 3"):
        env.step(np.zeros(7))
    env.close()


def test_stepping_before_reset_is_refused():
    env = make_env("Lift", cameras=())
    with pytest.raises(EpisodeOverError, match="never reset"):
        env.step(np.zeros(7))
    env.close()


def test_success_is_reported_now_and_remembered(env):
    env.reset(seed=0)
    state = env.state()
    cube_height = 1 + env.simulator.sim.model.get_joint_qpos_addr("cube_joint0")[0] + 2
    lifted = state.copy()
    lifted[cube_height] += 0.3
    env.set_state(lifted)
    _, reward, terminated, _, info = env.step(np.zeros(7))
    assert (reward, terminated, info["is_success"], info["success_so_far"]) == (1.0, False, True, True)
    env.set_state(state)
    _, reward, _, _, info = env.step(np.zeros(7))
    assert (reward, info["is_success"], info["success_so_far"]) == (0.0, False, True)
    assert env.reset(seed=0)[1]["success_so_far"] is False


@pytest.mark.parametrize(
    ("action", "message"),
    [(np.zeros(6), r"shape \(6,\); expected \(7,\)"), (np.full(7, np.nan), "NaN"), (np.full(7, np.inf), "infinity")],
)
def test_a_bad_action_is_refused_before_it_moves_anything(env, action, message):
    env.reset(seed=0)
    before = env.state()
    with pytest.raises(ActionError, match=message):
        env.step(action)
    np.testing.assert_array_equal(env.state(), before)


def test_actions_beyond_one_are_clipped(env):
    states = []
    for scale in (1.0, 5.0):
        env.reset(seed=0)
        env.step(np.full(7, scale))
        states.append(env.state())
    np.testing.assert_array_equal(*states)


def test_unknown_reset_options_are_refused(env):
    with pytest.raises(EnvConfigError, match="unknown reset option 'recrod'"):
        env.reset(options={"recrod": True})


def test_restoring_states_gives_bit_identical_observations(env):
    env.reset(seed=5)
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 7))
    recorded = [(env.step(action)[0], env.state()) for action in actions]
    env.reset(seed=6)
    for observation, state in recorded:
        env.set_state(state)
        replayed = env.observe()
        for key, value in observation.items():
            np.testing.assert_array_equal(replayed[key], value, err_msg=key)


def test_a_state_of_another_model_is_refused(env):
    with pytest.raises(EnvConfigError, match=r"state has shape \(3,\)"):
        env.set_state(np.zeros(3))


def test_the_quaternion_never_jumps_between_signs(env):
    env.reset(seed=2)
    actions = np.random.default_rng(1).uniform(-1, 1, (50, 7))
    quaternions = np.stack([env.step(action)[0]["robot0_eef_quat"] for action in actions])
    assert (quaternions[1:] * quaternions[:-1]).sum(axis=1).min() > 0.9


def test_env_args_rebuild_the_environment_here_and_in_robosuite(env):
    args = json.loads(json.dumps(env.env_args()))
    assert (args["env_name"], args["type"]) == ("Lift", 1)
    env.reset(seed=8)
    state, observation = env.state(), env.observe()

    ours = make_env(**args["s2robot"])
    assert ours.env_args() == args
    ours.reset(seed=8)
    np.testing.assert_array_equal(ours.state(), state)
    ours.close()

    with robosuite_twin(env) as theirs:
        values = theirs._get_observations(force_update=True)
    for key in ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"):
        np.testing.assert_allclose(values[key], observation[key], atol=1e-6, err_msg=key)
    assert values["agentview_image"].shape == (48, 48, 3)


def test_closing_twice_is_harmless():
    env = make_env("Lift", image_size=32)
    env.reset(seed=0)
    env.close()
    env.close()


def test_gymnasium_sync_vector_env_runs_the_plain_environment():
    envs = gymnasium.vector.SyncVectorEnv([lambda: make_env("Lift", cameras=("agentview",), image_size=32)] * 2)
    observations, _ = envs.reset(seed=[1, 2])
    assert observations["agentview_image"].shape == (2, 32, 32, 3)
    assert not np.array_equal(observations["robot0_eef_pos"][0], observations["robot0_eef_pos"][1])
    envs.close()


def test_gymnasium_async_vector_env_runs_it_in_fresh_processes():
    from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

    make = functools.partial(
        # The part before the colon is imported, which registers the environment in the new process.
        gymnasium.make,
        "s2robot_envs:s2robot_envs/Lift-v0",
        cameras=("agentview",),
        image_size=32,
    )
    results = []
    for vector in (SyncVectorEnv([make]), AsyncVectorEnv([make], context="spawn")):
        first, _ = vector.reset(seed=[5])
        after, _, _, _, info = vector.step(np.full((1, 7), 0.5, np.float32))
        results.append({**{f"first {key}": value for key, value in first.items()}, **after, "seed": info["seed"]})
        vector.close()
    for key, value in results[0].items():
        np.testing.assert_array_equal(results[1][key], value, err_msg=key)
