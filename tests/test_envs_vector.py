import numpy as np
import pytest

from s2robot_envs import make_env, make_vector_env
from s2robot_envs.errors import ActionError, WorkerError
from s2robot_envs.vector import default_num_envs

pytestmark = pytest.mark.sim
SETTINGS = {"cameras": ("agentview",), "image_size": 32, "horizon": 8, "action_steps": 4}
ZEROS = np.zeros((2, 4, 7), np.float32)


@pytest.fixture(scope="module")
def envs():
    envs = make_vector_env("Lift", 2, **SETTINGS)
    yield envs
    envs.close()


def first_image(seed):
    env = make_env("Lift", **SETTINGS)
    image = env.reset(seed=seed)[0]["agentview_image"]
    env.close()
    return image


def test_each_environment_runs_the_seed_it_was_given(envs):
    observations, infos = envs.reset(seed=[11, 12])
    assert infos["seed"].tolist() == [11, 12]
    assert observations["agentview_image"].shape == (2, 1, 32, 32, 3)
    np.testing.assert_array_equal(observations["agentview_image"][1], first_image(12))


def test_a_masked_reset_leaves_the_others_alone(envs):
    envs.reset(seed=[11, 12])
    before, *_ = envs.step(ZEROS)
    options = {"reset_mask": np.array([False, True])}
    after, infos = envs.reset(seed=[None, 13], options=options)
    assert "reset_mask" in options
    assert infos["seed"][1] == 13
    np.testing.assert_array_equal(after["agentview_image"][0], before["agentview_image"][0])
    assert not np.array_equal(after["agentview_image"][1], before["agentview_image"][1])
    *_, truncations, _ = envs.step(ZEROS)
    assert truncations.tolist() == [True, False]


def test_finished_environments_idle_while_the_others_go_on(envs):
    envs.reset(seed=[11, 12])
    for _ in range(2):
        envs.step(ZEROS)
    envs.reset(seed=[None, 13], options={"reset_mask": np.array([False, True])})
    *_, infos = envs.step(ZEROS)
    assert infos["steps"].tolist() == [0, 4]


def test_recordings_of_different_lengths_travel_together(envs):
    envs.reset(seed=[11, 12])
    envs.step(ZEROS)
    envs.reset(seed=[None, 12], options={"reset_mask": np.array([False, True]), "record": True})
    *_, infos = envs.step(ZEROS)
    assert infos["frames"][0] is None
    assert infos["frames"][1].shape == (4, 32, 32, 3)


def test_nan_actions_name_the_environment_and_its_seed(envs):
    envs.reset(seed=[11, 12])
    actions = ZEROS.copy()
    actions[1, 2, 3] = np.nan
    with pytest.raises(ActionError, match=r"environment 1 \(seed 12\)"):
        envs.step(actions)
    with pytest.raises(ActionError, match=r"shape \(2, 7\); expected \(2, 4, 7\)"):
        envs.step(np.zeros((2, 7)))
    *_, infos = envs.step(ZEROS)  # nothing was sent, so it still works
    assert infos["steps"].tolist() == [4, 4]


@pytest.mark.parametrize(("cores", "gigabytes", "expected"), [(4, 100, 4), (64, 10, 8), (2, 0.5, 1)])
def test_the_default_number_of_environments_fits_cores_and_memory(monkeypatch, cores, gigabytes, expected):
    monkeypatch.setattr("s2robot_envs.vector.available_memory", lambda: gigabytes * 1e9)
    monkeypatch.setattr("s2robot_envs.vector.os.sched_getaffinity", lambda pid: set(range(cores)))
    assert default_num_envs() == expected


def test_an_error_in_a_worker_is_reported_with_its_seed():
    envs = make_vector_env("Lift", 1, **{**SETTINGS, "cameras": ()})
    envs.reset(seed=[22])
    with pytest.raises(WorkerError, match=r"environment 0 \(seed 22\) raised EnvConfigError: state has shape"):
        envs.call("set_state", np.zeros(3))
    assert envs.closed
