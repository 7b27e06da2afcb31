import numpy as np
import pytest
from s2robot_envs import collect_episode, make_env
from s2robot_envs.experts import EXPERTS, make_expert

pytestmark = pytest.mark.sim


@pytest.mark.parametrize("task", sorted(EXPERTS))
def test_the_expert_solves_its_task_under_noise(task):
    env = make_env(task, cameras=())
    expert = make_expert(task)
    episodes = [collect_episode(env, expert, seed, noise=0.15) for seed in range(3)]
    env.close()
    assert [episode["success"] for episode in episodes] == [True] * 3
    for episode in episodes:
        assert np.abs(episode["actions"]).max() <= 1
        assert len(episode["actions"]) < env.horizon
