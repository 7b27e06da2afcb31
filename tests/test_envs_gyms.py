"""Environments of other packages, by commands alone; `make test-gyms` runs this where the packages are installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from s2robot.cli import main
from s2robot.data import open_dataset

pytestmark = pytest.mark.sim
TINY = [
    *("encoder.backbone=test_efficientnet", "encoder.weights=none", "encoder.scales=[64]", "readout=mean", "policy=bc"),
    *("training.epochs=1", "training.validation_fraction=0", "device=cpu"),
]
EVALUATION = ["episodes=1", "videos=0", "num_envs=1", "device=cpu"]


def trained_and_evaluated(folder, *words):
    """The results of one rollout of a policy trained with these words."""
    run = folder / "run"
    assert main(["train", *words, f"output={run}", f"cache_dir={folder}/cache", *TINY]) == 0
    assert main(["evaluate", f"checkpoint={run}/checkpoint", *EVALUATION]) == 0
    return json.loads((run / "results.json").read_text())


def test_pusht_is_read_trained_and_evaluated_in_pixels(tmp_path):
    """Diffusion Policy's replay buffer: pictures as float32, actions in pixels; pusht_cchi_v7_replay.zarr."""
    pytest.importorskip("gym_pusht", reason="gym-pusht is not installed: make test-gyms")
    zarr = pytest.importorskip("zarr")
    import gymnasium

    env = gymnasium.make("gym_pusht/PushT-v0", obs_type="pixels_agent_pos", render_mode="rgb_array")
    rows = {"img": [], "agent_pos": [], "action": []}
    for seed in range(2):
        seen, info = env.reset(seed=seed)
        noise = np.random.default_rng(seed)
        for _ in range(20):
            action = np.float32(np.clip(info["block_pose"][:2] + noise.normal(0, 30, 2), 0, 512))
            for name, value in (("img", seen["pixels"]), ("agent_pos", seen["agent_pos"]), ("action", action)):
                rows[name].append(np.float32(value))
            seen, _, _, _, info = env.step(action)
    env.close()
    root = zarr.open_group(tmp_path / "pusht.zarr", mode="w", zarr_format=2)
    for name, values in rows.items():
        root.create_array(f"data/{name}", data=np.stack(values))
    root.create_array("meta/episode_ends", data=np.array([20, 40]))
    words = [f"dataset={tmp_path}/pusht.zarr", "cameras={pixels: img}", "proprioception=[agent_pos]"]
    task = ["task=gym:gym_pusht:gym_pusht/PushT-v0", "gym.kwargs={obs_type: pixels_agent_pos}"]
    options = ["gym.actions=own", "gym.proprioception=[agent_pos]"]
    results = trained_and_evaluated(tmp_path, *words, *task, *options)
    assert results["environment"]["gym"]["actions"] == "own"
    assert results["environment"]["horizon"] == 100
    assert results["environment"]["image_size"] == {"pixels": 96}


class Picker:
    """Go above the block, down, close the fingers, and carry the block to its goal (docs/tutorials/recordings.md)."""

    def reset(self, env):
        self.env, self.closed_for = env, 0

    def act(self):
        seen = self.env.raw_observation
        hand, block, goal = seen["observation"][:3], seen["achieved_goal"], seen["desired_goal"]
        if self.closed_for == 0:
            above = np.linalg.norm(hand[:2] - block[:2]) < 0.01
            target = block + np.array([0, 0, 0 if above else 0.08])
            self.closed_for = int(np.linalg.norm(hand - block) < 0.012)
            return np.float32([*np.clip(10 * (target - hand), -1, 1), -1 if self.closed_for else 1])
        self.closed_for += 1
        if self.closed_for < 6:
            return np.float32([0, 0, 0, -1])
        return np.float32([*np.clip(8 * (goal - hand), -1, 1), -1])


def test_fetch_is_collected_trained_and_evaluated(tmp_path):
    pytest.importorskip("gymnasium_robotics", reason="gymnasium-robotics is not installed: make test-gyms")
    out = tmp_path / "fetch.hdf5"
    hand = "gym.proprioception={goal: [desired_goal], hand: [observation, 0, 3], fingers: [observation, 9, 11]}"
    words = ["task=gym:gymnasium_robotics:FetchPickAndPlace-v4", "expert=test_envs_gyms:Picker", hand]
    assert main(["collect", *words, "num=2", "size=64", "workers=1", f"out={out}"]) == 0
    with open_dataset(out) as dataset:
        assert dataset.proprioception == ["fingers", "goal", "hand"]
        assert all(dataset.episode(index).success for index in range(2))
    results = trained_and_evaluated(tmp_path, f"dataset={out}")
    assert results["task"] == "gym:gymnasium_robotics:FetchPickAndPlace-v4"
    assert results["environment"]["horizon"] == 50  # as collected


DM_CONTROL = """
from s2robot_envs import make_env
env = make_env("gym:shimmy:dm_control/cartpole-balance-v0", image_size=64, horizon=20,
               gym={"success": "terminated", "kwargs": {"render_mode": "rgb_array"}})
env.reset(seed=0)
picture = env.step(env.action_space.sample())[0]["render_image"]
import torch, triton
print("alive", picture.std() > 10)
"""


def test_dm_control_draws_and_torch_is_loaded_after_it(tmp_path):
    """Without Triton before Mesa, this ends in a segmentation fault."""
    pytest.importorskip("dm_control", reason="dm_control is not installed: make test-gyms")
    here = str(Path(__file__).parents[1])
    paths = os.pathsep.join([here, str(Path(here) / "envs"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", DM_CONTROL], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["alive", "True"], done.stderr
