"""Make the small datasets of this folder, each with its format's own library.

The libraries pin versions that exclude each other, so each runs in an environment of its own and the results are kept:

    pip install robosuite==1.4.1 mujoco==2.3.7 "numpy<2" h5py && python make.py robosuite_1_4
    pip install minari==0.5.4 h5py pillow && python make.py minari
    pip install "zarr<3" "numcodecs<0.16" && python make.py zarr
    pip install lerobot==0.4.4 && python make.py lerobot
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
LENGTHS = (6, 9, 4)
SIZE = 32  # pixels


def frames(length, seed):
    """A bright square that moves over a gradient, uint8 [length, SIZE, SIZE, 3]: easy on JPEG and video codecs."""
    ramp = np.linspace(40, 200, SIZE)
    images = np.empty((length, SIZE, SIZE, 3), np.uint8)
    images[..., 0] = ramp[None, :, None]
    images[..., 1] = ramp[None, None, :]
    images[..., 2] = 60 + 40 * seed
    for step in range(length):
        images[step, 8 + seed : 16 + seed, 2 + step : 10 + step] = 240
    return images


def numbers(length, width, seed):
    """Reproducible values, float32 [length, width] in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (length, width)).astype(np.float32)


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
    )
    shutil.rmtree(HERE / "minari", ignore_errors=True)
    shutil.move(HERE / "minari_root" / "s2robot" / "toy-v0", HERE / "minari")
    shutil.rmtree(HERE / "minari_root")


def make_zarr():
    """Diffusion Policy's replay buffer, written as its `ReplayBuffer` and its PushT data set are: as a zip."""
    import numcodecs
    import zarr

    compressor = numcodecs.Blosc(cname="zstd", clevel=5, shuffle=numcodecs.Blosc.NOSHUFFLE)
    root = zarr.group(zarr.MemoryStore())
    images = np.concatenate([frames(length, seed) for seed, length in enumerate(LENGTHS)])
    data, meta = root.create_group("data"), root.create_group("meta")
    data.create_dataset("camera_0", data=images, chunks=(1, *images.shape[1:]), compressor=compressor)
    # PushT's own pictures are float32 holding whole numbers from 0 to 255
    data.create_dataset("img", data=images.astype(np.float32), chunks=(5, *images.shape[1:]), compressor=compressor)
    for name, width, first in (("action", 2, 10), ("state", 3, 0)):
        values = np.concatenate([numbers(length, width, first + seed) for seed, length in enumerate(LENGTHS)])
        data.create_dataset(name, data=values, chunks=(8, width), compressor=compressor)
    meta.create_dataset("episode_ends", data=np.cumsum(LENGTHS), compressor=None)
    with zarr.ZipStore(str(HERE / "replay.zarr.zip"), mode="w") as store:
        zarr.copy_store(root.store, store)


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
