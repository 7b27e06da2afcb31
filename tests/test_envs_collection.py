import numpy as np
import pytest

from s2robot_envs import collect, collect_episode, experts, make_env
from s2robot_envs.collection import FIRST_EVALUATION_SEED, STEPS_AFTER_SUCCESS, collection_seed
from s2robot_envs.errors import EnvConfigError, S2RobotEnvError, WorkerError
from s2robot_envs.experts import make_expert
from s2robot_envs.experts.lift import LiftExpert

ENV = {"cameras": ["agentview"], "image_size": 32}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        if isinstance(value, dict):
            assert_same(value, right[key])
        else:
            np.testing.assert_array_equal(value, right[key], err_msg=key)


@pytest.fixture(scope="module")
def env():
    env = make_env("Lift", **ENV)
    yield env
    env.close()


@pytest.mark.sim
def test_observations_precede_their_actions(env):
    episode = collect_episode(env, make_expert("Lift"), seed=4, noise=0.15)
    observation, _ = env.reset(seed=4)
    for t, action in enumerate(episode["executed_actions"]):
        np.testing.assert_array_equal(episode["states"][t], env.state())
        np.testing.assert_array_equal(episode["images"]["agentview"][t], observation["agentview_image"])
        np.testing.assert_array_equal(episode["proprioception"]["robot0_eef_pos"][t], observation["robot0_eef_pos"])
        observation, reward, *_ = env.step(action)
        assert episode["rewards"][t] == reward
    lengths = {len(episode[key]) for key in ("actions", "executed_actions", "rewards", "states")}
    assert lengths == {len(episode["images"]["agentview"]), len(episode["proprioception"]["robot0_eef_quat"])}


@pytest.mark.sim
def test_a_recording_stops_a_few_steps_after_success(env):
    episode = collect_episode(env, make_expert("Lift"), seed=4, noise=0.15)
    assert episode["rewards"].tolist() == [0.0] * (len(episode["rewards"]) - STEPS_AFTER_SUCCESS - 1) + [1.0] * (
        STEPS_AFTER_SUCCESS + 1
    )


@pytest.mark.sim
def test_labels_are_the_clean_actions_and_noise_has_the_asked_size(env):
    noisy = collect_episode(env, make_expert("Lift"), seed=4, noise=0.15)
    unclipped = (np.abs(noisy["actions"]) < 0.4) & (np.abs(noisy["executed_actions"]) < 1)
    deviation = (noisy["executed_actions"] - noisy["actions"])[unclipped]
    assert 0.12 < deviation.std() < 0.18
    clean = collect_episode(env, make_expert("Lift"), seed=4, noise=0.0)
    np.testing.assert_array_equal(clean["actions"], clean["executed_actions"])


@pytest.mark.sim
def test_collections_are_the_same_for_any_number_of_workers_and_can_be_continued():
    alone = list(collect("Lift", 2, workers=1, env_kwargs=ENV))
    parallel = list(collect("Lift", 2, workers=2, env_kwargs=ENV))
    for left, right in zip(alone, parallel, strict=True):
        assert_same(left, right)
    assert all(episode["seed"] == episode["attempts"] - 1 for episode in alone)
    continued = list(collect("Lift", 1, workers=1, first_attempt=alone[0]["attempts"], env_kwargs=ENV))
    assert_same(continued[0], alone[1])


@pytest.mark.sim
def test_failed_attempts_are_dropped_but_counted(monkeypatch):
    class EverySecond(LiftExpert):
        def attempt(self, env):
            if env.info()["seed"] % 2:  # the cube is in the air for the few steps that a recording needs
                state = env.state()
                state[1 + env.simulator.sim.model.get_joint_qpos_addr("cube_joint0")[0] + 2] += 5
                env.set_state(state)
            yield np.zeros(7, np.float32)

    monkeypatch.setattr(experts, "EXPERTS", {"Lift": EverySecond})
    episodes = list(collect("Lift", 2, workers=1, env_kwargs={"cameras": [], "horizon": 60}))
    assert [(episode["seed"], episode["attempts"]) for episode in episodes] == [(1, 2), (3, 4)]


@pytest.mark.sim
def test_an_expert_that_never_succeeds_is_reported(monkeypatch):
    class Idle(LiftExpert):
        def attempt(self, env):
            yield np.zeros(7, np.float32)

    monkeypatch.setattr(experts, "EXPERTS", {"Lift": Idle})
    with pytest.raises(S2RobotEnvError, match=r"the Lift expert solved 0 of 50 attempts with noise=0.1"):
        next(collect("Lift", 1, noise=0.1, workers=1, env_kwargs={"cameras": [], "horizon": 1}))


@pytest.mark.sim
def test_a_failure_names_the_seed_it_happened_on(monkeypatch):
    class Broken(LiftExpert):
        def attempt(self, env):
            raise RuntimeError("boom")

    monkeypatch.setattr(experts, "EXPERTS", {"Lift": Broken})
    with pytest.raises(WorkerError, match="collecting Lift on environment seed 20003 failed with RuntimeError: boom"):
        next(collect("Lift", 1, seed=2, first_attempt=3, workers=1, env_kwargs={"cameras": []}))


def test_collection_seeds_never_reach_evaluation_seeds():
    assert collection_seed(0, 0) == 0
    assert collection_seed(9, 9999) == FIRST_EVALUATION_SEED - 1
    assert collection_seed(1, 0) == collection_seed(0, 9999) + 1
    with pytest.raises(EnvConfigError, match="choices: 0 to 9"):
        collection_seed(10, 0)
    with pytest.raises(EnvConfigError, match="no more attempts"):
        collection_seed(0, 10_000)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "Lfit"}, "did you mean 'Lift'"),
        ({"num": -1}, "num is -1"),
        ({"workers": 0}, "workers is 0"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"seed": 11}, "collection seed is 11"),
    ],
)
def test_impossible_arguments_are_refused_at_the_call(kwargs, message):
    with pytest.raises(EnvConfigError, match=message):
        collect(**{"task": "Lift", "num": 1, **kwargs})
