import numpy as np
import pytest

from s2robot_envs import collect_episode, make_env
from s2robot_envs.experts import EXPERTS, make_expert

pytestmark = pytest.mark.sim


@pytest.mark.parametrize("task", [task for task in EXPERTS if ":" not in task])
def test_the_expert_solves_its_task_under_noise(task):
    env = make_env(task, cameras=())
    expert = make_expert(task)
    # Which seeds it solves depends on the last bits of the processor's arithmetic: any of three will do.
    attempts = (collect_episode(env, expert, seed, noise=0.15) for seed in range(3))
    episode = next((episode for episode in attempts if episode["success"]), None)
    env.close()
    assert episode is not None
    assert np.abs(episode["actions"]).max() <= 1
    assert len(episode["actions"]) < env.horizon


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in EXPERTS if ":" not in task])
def test_the_expert_solves_nearly_every_seed(task):
    env = make_env(task, cameras=())
    expert = make_expert(task)
    solved = [collect_episode(env, expert, seed, noise=0.15)["success"] for seed in range(30)]
    env.close()
    assert sum(solved) >= 25  # each solved all 30 where they were tuned
