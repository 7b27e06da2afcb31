"""A demonstration file of LIBERO, laid out group by group as its `scripts/create_dataset.py` does."""

import json

import h5py
import numpy as np
from controllers_1_4 import CONTROLLER

SUITE, NAME = "libero_goal", "put_the_bowl_on_the_plate"
LANGUAGE = "put the bowl on the plate"


def random_episodes(count=2, length=9, size=16):
    """Episodes of random numbers; images are [T, size, size, 3]."""
    rng = np.random.default_rng(0)
    return [
        {
            "actions": rng.uniform(-1, 1, (length, 7)),
            "states": rng.normal(size=(length, 77)),
            "robot_states": rng.normal(size=(length, 9)),
            "gripper_states": rng.normal(size=(length, 2)),
            "joint_states": rng.normal(size=(length, 7)),
            "ee_states": rng.normal(size=(length, 6)),
            "agentview_rgb": rng.integers(0, 256, (length, size, size, 3), np.uint8),
            "eye_in_hand_rgb": rng.integers(0, 256, (length, size, size, 3), np.uint8),
        }
        for _ in range(count)
    ]


def write_libero(path, episodes, suite=SUITE, name=NAME, language=LANGUAGE, controller=CONTROLLER, control_freq=20):
    """Write a file; returns its path."""
    definition = f"/home/someone/LIBERO/libero/libero/bddl_files/{suite}/{name}.bddl"
    env_kwargs = {
        "robots": ["Panda"],
        "controller_configs": controller,
        "bddl_file_name": definition,
        "has_renderer": False,
        "has_offscreen_renderer": True,
        "ignore_done": True,
        "use_camera_obs": True,
        "camera_depths": False,
        "camera_names": ["robot0_eye_in_hand", "agentview"],
        "reward_shaping": True,
        "control_freq": control_freq,
        "camera_heights": 128,
        "camera_widths": 128,
        "camera_segmentations": None,
    }
    problem = {
        "problem_name": "libero_tabletop_manipulation",
        "domain_name": "robosuite",
        "language_instruction": language,
    }
    env_args = {
        "type": 1,
        "env_name": "Libero_Tabletop_Manipulation",
        "problem_name": "libero_tabletop_manipulation",
        "bddl_file": definition,
        "env_kwargs": env_kwargs,
    }
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_name"] = "Libero_Tabletop_Manipulation"
        data.attrs["problem_info"] = json.dumps(problem)
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["bddl_file_name"] = definition
        data.attrs["bddl_file_content"] = f"(define (problem {problem['problem_name']}))"
        data.attrs["env_args"] = json.dumps(env_args)
        for index, episode in enumerate(episodes):
            demo = data.create_group(f"demo_{index}")
            observed = demo.create_group("obs")
            for key in ("gripper_states", "joint_states", "ee_states"):
                observed.create_dataset(key, data=episode[key])
            observed.create_dataset("ee_pos", data=episode["ee_states"][:, :3])
            observed.create_dataset("ee_ori", data=episode["ee_states"][:, 3:])
            for key in ("agentview_rgb", "eye_in_hand_rgb"):
                observed.create_dataset(key, data=episode[key])
            length = len(episode["actions"])
            ends = np.zeros(length, np.uint8)
            ends[-1] = 1
            for key in ("actions", "states", "robot_states"):
                demo.create_dataset(key, data=episode[key])
            demo.create_dataset("rewards", data=ends)
            demo.create_dataset("dones", data=ends)
            demo.attrs["num_samples"] = length
            demo.attrs["model_file"] = episode.get("model_file", "<mujoco/>")
            demo.attrs["init_state"] = episode["states"][0]
        data.attrs["num_demos"] = len(episodes)
        data.attrs["total"] = sum(len(episode["actions"]) for episode in episodes)
    return path
