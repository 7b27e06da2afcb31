"""Make the small datasets of this folder, each with its format's own library.

The libraries pin versions that exclude each other, so each runs in an environment of its own and the results are kept:

    pip install robosuite==1.4.1 mujoco==2.3.7 "numpy<2" h5py && python make.py robosuite_1_4
    .venvs/robomimic/bin/python make.py robomimic          # robosuite 1.5.2, robomimic 0.5.0 (commit d309eaec)
    .venvs/diffusion_policy/bin/python make.py zarr        # diffusion_policy (commit 5ba07ac6), zarr 2.18.7
    pip install minari==0.5.4 h5py pillow && python make.py minari
    pip install "minari[arrow]==0.5.4" && python make.py minari_arrow
    pip install lerobot==0.4.4 && python make.py lerobot
    pip install mani_skill==3.0.1 torch && python make.py maniskill

`scripts/setup_integration.sh` makes the two environments in `.venvs`.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from moving_square import LENGTHS, SIZE, frames, numbers  # noqa: E402


def make_robosuite_1_4(steps=5):
    """Two Lift episodes as robomimic's converter of robosuite 1.4 recordings lays them out, without images."""
    import h5py
    import robosuite
    from robosuite import load_controller_config

    kwargs = {
        "robots": ["Panda"],
        "controller_configs": load_controller_config(default_controller="OSC_POSE"),
        "control_freq": 20,
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "use_camera_obs": False,
        "use_object_obs": True,
        "ignore_done": True,
    }
    env = robosuite.make("Lift", **kwargs)
    keys = {"object": "object-state", **{k: k for k in ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")}}
    with h5py.File(HERE / "robosuite_1_4_lift.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = 2 * steps
        data.attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "env_version": robosuite.__version__, "type": 1, "env_kwargs": kwargs}
        )
        for episode in range(2):
            observation = env.reset()
            group = data.create_group(f"demo_{episode}")
            group.attrs["num_samples"] = steps
            group.attrs["model_file"] = env.sim.model.get_xml()
            actions = 0.3 * numbers(steps, 7, episode)  # slow: robosuite's observations lag by one physics step
            states, observations, rewards = [], [], []
            for action in actions:
                states.append(env.sim.get_state().flatten())
                observations.append(observation)
                observation, reward, _, _ = env.step(action)
                rewards.append(reward)
            group["actions"] = actions.astype(np.float64)
            group["states"], group["rewards"], group["dones"] = states, rewards, np.zeros(steps, int)
            for name, key in keys.items():
                group[f"obs/{name}"] = np.stack([o[key] for o in observations])


def make_minari():
    """A camera (JPEG, as Minari stores image spaces) and a vector in a dictionary; observations one longer."""
    _make_minari("minari", "hdf5")


def make_minari_arrow():
    """The same in Minari's Arrow storage, and with pictures as they are in its Parquet storage."""
    _make_minari("minari_arrow", "arrow")
    _make_minari("minari_parquet", "parquet", jpeg_encoding=False)


def _make_minari(folder, data_format, jpeg_encoding=True):
    import os

    os.environ["MINARI_DATASETS_PATH"] = str(HERE / "minari_root")
    import minari
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    observation_space = spaces.Dict(
        {"front": spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8), "position": spaces.Box(-1, 1, (3,), np.float32)}
    )
    buffers = []
    for seed, length in enumerate(LENGTHS):
        buffers.append(
            EpisodeBuffer(
                id=seed,
                seed=seed,
                observations={"front": list(frames(length + 1, seed)), "position": list(numbers(length + 1, 3, seed))},
                actions=list(numbers(length, 2, 10 + seed)),
                rewards=[0.0] * (length - 1) + [1.0],
                terminations=[False] * (length - 1) + [True],
                truncations=[False] * length,
                infos={"success": [False] * length + [seed != 1]},
            )
        )
    minari.create_dataset_from_buffers(
        "s2robot/toy-v0",
        buffers,
        observation_space=observation_space,
        action_space=spaces.Box(-1, 1, (2,), np.float32),
        algorithm_name="random",
        author="s2robot",
        author_email="none@example.org",
        code_permalink="https://example.org",
        description="A moving square",
        data_format=data_format,
        jpeg_encoding=jpeg_encoding,
    )
    shutil.rmtree(HERE / folder, ignore_errors=True)
    shutil.move(HERE / "minari_root" / "s2robot" / "toy-v0", HERE / folder)
    shutil.rmtree(HERE / "minari_root")


def make_robomimic(seeds=(0, 1)):
    """Lift demonstrations as robosuite 1.5's users make them: its recorder, robomimic's conversion and its images."""
    import subprocess
    import tempfile

    import robomimic
    import robosuite
    from robosuite.controllers import load_composite_controller_config
    from robosuite.scripts.collect_human_demonstrations import gather_demonstrations_as_hdf5
    from robosuite.wrappers import DataCollectionWrapper

    from s2robot_envs import make_env
    from s2robot_envs.experts import make_expert

    expert, ours = make_expert("Lift"), make_env("Lift", cameras=())
    kwargs = {
        "robots": ["Panda"],
        "controller_configs": load_composite_controller_config(robot="Panda"),
        "control_freq": 20,
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "use_camera_obs": False,
        "use_object_obs": True,
        "ignore_done": True,
    }
    with tempfile.TemporaryDirectory() as scratch:
        recorder = DataCollectionWrapper(robosuite.make("Lift", **kwargs), scratch + "/raw")
        for seed in seeds:
            ours.reset_simulation(
                seed
            )  # only lends its arm to the expert, which then reads robosuite's own environment
            ours.simulator, lent = recorder.env, ours.simulator
            recorder.reset()
            expert.reset(ours)
            for _ in range(60):
                recorder.step(expert.act())
                if recorder.env._check_success():
                    break
            ours.simulator = lent
        recorder.close()
        gather_demonstrations_as_hdf5(scratch + "/raw", scratch, json.dumps(kwargs))
        scripts = Path(robomimic.__file__).parent / "scripts"
        run = [sys.executable, "-W", "ignore"]
        demo = scratch + "/demo.hdf5"
        subprocess.run([*run, scripts / "conversion" / "convert_robosuite.py", "--dataset", demo], check=True)
        render = [*run, scripts / "dataset_states_to_obs.py", "--dataset", demo, "--output_name", "image.hdf5"]
        images = ["--camera_names", "agentview", "--camera_height", str(SIZE), "--camera_width", str(SIZE)]
        subprocess.run([*render, "--done_mode", "2", "--compress", "--exclude-next-obs", *images], check=True)
        shutil.copy(scratch + "/image.hdf5", HERE / "robomimic_lift.hdf5")


def make_zarr():
    """Diffusion Policy's replay buffer, by its own `ReplayBuffer`, as a zip like its PushT data set."""
    import zarr
    from diffusion_policy.common.replay_buffer import ReplayBuffer

    buffer = ReplayBuffer.create_empty_zarr()
    for seed, length in enumerate(LENGTHS):
        images = frames(length, seed)
        buffer.add_episode(
            {
                "camera_0": images,
                "img": images.astype(np.float32),  # PushT's own pictures: float32 of whole numbers from 0 to 255
                "action": numbers(length, 2, 10 + seed),
                "state": numbers(length, 3, seed),
            },
            compressors="disk",
        )
    with zarr.ZipStore(str(HERE / "replay.zarr.zip"), mode="w") as store:
        buffer.save_to_store(store)


def make_maniskill():
    """A stand-in for an environment, recorded by ManiSkill's own `RecordEpisode`; its renderer needs a GPU."""
    import gymnasium
    import torch
    from mani_skill.utils.wrappers import RecordEpisode

    class Square(gymnasium.Env):
        """What `RecordEpisode` asks of ManiSkill's `BaseEnv`: a batch of one environment, dictionaries inside."""

        num_envs, control_mode, gpu_sim_enabled = 1, "pd_ee_delta_pose", False
        single_action_space = action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        observation_space = gymnasium.spaces.Dict()

        def reset(self, *, seed=None, options=None):
            self._episode_seed, self.steps = np.array([seed]), 0
            return self._seen(), {"reconfigure": False}

        def step(self, action):
            self.steps += 1
            seed, length = int(self._episode_seed[0]), LENGTHS[int(self._episode_seed[0])]
            done = torch.tensor([self.steps == length and seed != 1])
            reward = torch.tensor([numbers(length, 1, 80 + seed)[self.steps - 1, 0]])
            return self._seen(), reward, done, torch.tensor([self.steps == length]), {"success": done}

        def get_state_dict(self):
            return self._batch({"actors": {"cube": (13, 60)}, "articulations": {"panda": (31, 70)}})

        def _seen(self):
            seen = self._batch(
                {
                    "agent": {"qpos": (9, 0), "qvel": (9, 20)},
                    "extra": {"tcp_pose": (7, 30), "obj_pose": (7, 40)},
                    "sensor_param": {"base_camera": {"extrinsic_cv": (12, 50), "intrinsic_cv": (9, 51)}},
                }
            )
            matrices = seen["sensor_param"]["base_camera"]
            seen["sensor_param"]["base_camera"] = {key: m.reshape(1, 3, -1) for key, m in matrices.items()}
            image = frames(LENGTHS[int(self._episode_seed[0])] + 1, int(self._episode_seed[0]))[self.steps][None]
            seen["extra"]["is_grasped"] = torch.tensor([self.steps > 3])
            depth = torch.from_numpy(image[..., :1].astype(np.int16) * 10)
            seen["sensor_data"] = {"base_camera": {"rgb": torch.from_numpy(image), "depth": depth}}
            return seen

        def _batch(self, tree):
            seed = int(self._episode_seed[0])
            if isinstance(tree, dict):
                return {key: self._batch(value) for key, value in tree.items()}
            width, first = tree
            return torch.from_numpy(numbers(LENGTHS[seed] + 1, width, first + seed)[self.steps][None])

    gymnasium.register("PickCube-v1", entry_point=lambda **_: Square())
    kwargs = {"obs_mode": "rgb+depth", "control_mode": "pd_ee_delta_pose", "sim_backend": "physx_cpu"}
    env = gymnasium.make("PickCube-v1", disable_env_checker=True, max_episode_steps=50, **kwargs)
    env = RecordEpisode(env, HERE, trajectory_name="maniskill", save_video=False)
    for seed, length in enumerate(LENGTHS):
        env.reset(seed=seed)
        for action in numbers(length, 2, 10 + seed):
            env.step(action)
    env.close()


def make_lerobot():
    """A v3.0 folder: one camera as video, one as pictures inside of parquet, a state and an action."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    shutil.rmtree(HERE / "lerobot", ignore_errors=True)
    picture = {"shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
    dataset = LeRobotDataset.create(
        repo_id="s2robot/toy",
        root=HERE / "lerobot",
        fps=10,
        robot_type="toy",
        features={
            "observation.images.front": {"dtype": "video", **picture},
            "observation.images.wrist": {"dtype": "image", **picture},
            "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
            "action": {"dtype": "float32", "shape": (2,), "names": ["a", "b"]},
        },
        use_videos=True,
    )
    for seed, length in enumerate(LENGTHS):
        images, state, action = frames(length, seed), numbers(length, 3, seed), numbers(length, 2, 10 + seed)
        for step in range(length):
            dataset.add_frame(
                {
                    "observation.images.front": images[step],
                    "observation.images.wrist": images[step],
                    "observation.state": state[step],
                    "action": action[step],
                    "task": "move the square",
                }
            )
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    makers = {name.removeprefix("make_"): make for name, make in list(globals().items()) if name.startswith("make_")}
    if len(sys.argv) != 2 or sys.argv[1] not in makers:
        sys.exit(f"{__doc__}\nusage: python make.py {{{','.join(makers)}}}")
    makers[sys.argv[1]]()
