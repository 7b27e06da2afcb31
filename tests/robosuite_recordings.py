"""Recordings by robosuite's own recorder, of any task, robot, controller and control frequency; and their replay."""

import copy
import json
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from s2robot.cli import main
from s2robot.data import open_dataset
from s2robot_envs import make_env
from s2robot_envs.replay import load_model

STEPS = 16


class Case(NamedTuple):
    """What is recorded: robosuite's names, and settings of the controller beside robosuite's own."""

    task: str
    robot: str
    controller: str
    settings: dict[str, Any]
    control_freq: int


FINE = [0.02] * 3 + [0.2] * 3
CASES = {
    "small steps": Case("Lift", "Panda", "OSC_POSE", {"output_max": FINE, "output_min": [-v for v in FINE]}, 20),
    "absolute": Case("Lift", "Panda", "OSC_POSE", {"input_type": "absolute", "input_ref_frame": "world"}, 20),
    "position only, 10 Hz": Case("Lift", "Panda", "OSC_POSITION", {}, 10),
    "stiffer": Case("Lift", "IIWA", "OSC_POSE", {"kp": 300}, 20),
    "world frame": Case("Lift", "Sawyer", "OSC_POSITION", {"input_ref_frame": "world", "damping_ratio": 2}, 20),
    "joint positions": Case("Lift", "UR5e", "JOINT_POSITION", {}, 25),
    "joint torques": Case("Lift", "Kinova3", "JOINT_TORQUE", {"output_max": 5.0, "output_min": -5.0}, 20),
    "wiping": Case("Wipe", "IIWA", "OSC_POSE", {}, 20),
    "sorting": Case("PickPlace", "Sawyer", "JOINT_POSITION", {}, 20),
    "two arms of one robot": Case("TwoArmHandover", "Baxter", "OSC_POSITION", {}, 20),
}


def part(kind, **settings):
    from robosuite.controllers import load_part_controller_config

    return {**load_part_controller_config(default_controller=kind), **settings}


def composite(robot, controller):
    from robosuite.controllers.composite.composite_controller_factory import refactor_composite_controller_config
    from robosuite.utils.robot_utils import check_bimanual

    arms = ["right", "left"] if check_bimanual(robot) else ["right"]
    return refactor_composite_controller_config(copy.deepcopy(controller), robot, arms)


def commands(env, width, absolute):
    """Slow drifts with a little noise, the same for every run."""
    rng = np.random.default_rng(0)
    drift = rng.uniform(0.3, 0.7, width) * rng.choice([-1, 1], width)
    if not absolute:
        return [np.clip(drift + rng.uniform(-0.2, 0.2, width), -1, 1) for _ in range(STEPS)]
    site = env.robots[0].eef_site_id["right"]
    start = env.sim.data.site_xpos[site].copy()
    turn = Rotation.from_matrix(env.sim.data.site_xmat[site].reshape(3, 3).copy()).as_rotvec()
    return [np.concatenate([start + 0.008 * (step + 1) * drift[:3], turn, [-1.0]]) for step in range(STEPS)]


def record(folder, task, robot, controller, control_freq):
    """One demonstration by robosuite's recorder and its converter to `demo.hdf5`, which does not note the frequency."""
    import robosuite
    from robosuite.scripts.collect_human_demonstrations import gather_demonstrations_as_hdf5
    from robosuite.wrappers import DataCollectionWrapper

    config = {"env_name": task, "robots": [robot], "controller_configs": composite(robot, controller)}
    env = robosuite.make(
        **copy.deepcopy(config),
        control_freq=control_freq,
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        ignore_done=True,
        seed=0,
    )
    recorder = DataCollectionWrapper(env, str(folder / "raw"))
    recorder.reset()
    for action in commands(env, env.action_dim, controller.get("input_type") == "absolute"):
        recorder.step(action)
    recorder.successful = True  # only successes are converted
    recorder.close()
    gather_demonstrations_as_hdf5(str(folder / "raw"), str(folder), json.dumps(config))
    return folder / "demo.hdf5"


def farthest(env, episode):
    """Largest distance of the gripper from where it was recorded, in metres, and how far it was recorded to move.

    The recorded actions are executed from the first recorded state, without looking at the others.
    """

    def gripper():
        return env.simulator.sim.data.site_xpos[env.simulator.robots[0].eef_site_id["right"]].copy()

    load_model(env, episode.model_file)
    recorded = []
    for state in episode.states:
        env.set_state(state)
        recorded.append(gripper())
    env.simulator.sim.reset()
    env.set_state(episode.states[0])
    distances = []
    for action, expected in zip(episode.actions[:-1], recorded[1:], strict=True):
        env.simulator.step(action)
        env.simulator.sim.forward()
        distances.append(np.linalg.norm(gripper() - expected))
    return max(distances), float(np.linalg.norm(np.array(recorded) - recorded[0], axis=1).max())


def replayed(folder, case):
    """Record a case, render it, and replay it open-loop; see `farthest`.

    Returns the recorded description and that of the rendered file, the rendered episode, and both distances.
    """
    path = record(folder, case.task, case.robot, part(case.controller, **case.settings), case.control_freq)
    out = folder / "new.hdf5"
    assert main(["render", f"dataset={path}", f"out={out}", "size=32", "cameras=[agentview]", "workers=1"]) == 0
    with open_dataset(out) as rendered, open_dataset(path) as source:
        described, episode, before = rendered.env_args, rendered.episode(0), source.env_args
    env = make_env(**described["s2robot"])
    assert env.metadata["render_fps"] == case.control_freq
    apart, moved = farthest(env, episode)
    env.close()
    return before, described, episode, apart, moved
