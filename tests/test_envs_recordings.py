"""Recordings by robosuite's own recorder, of other robots, controllers and control frequencies than ours."""

import copy
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import ENVIRONMENT, make_episode
from scipy.spatial.transform import Rotation

from s2robot.cli import main
from s2robot.data import RobomimicWriter, open_dataset
from s2robot_envs import make_env
from s2robot_envs.replay import load_model

pytestmark = pytest.mark.sim

OLD = Path(__file__).parent / "data" / "robosuite_1_4_lift.hdf5"
STEPS = 16


def part(kind, **settings):
    from robosuite.controllers import load_part_controller_config

    return {**load_part_controller_config(default_controller=kind), **settings}


def composite(robot, controller):
    from robosuite.controllers.composite.composite_controller_factory import refactor_composite_controller_config

    return refactor_composite_controller_config(copy.deepcopy(controller), robot, ["right"])


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


def record(folder, robot, controller, control_freq):
    """One demonstration by robosuite's recorder and its converter to `demo.hdf5`, which does not note the frequency."""
    import robosuite
    from robosuite.scripts.collect_human_demonstrations import gather_demonstrations_as_hdf5
    from robosuite.wrappers import DataCollectionWrapper

    config = {"env_name": "Lift", "robots": [robot], "controller_configs": composite(robot, controller)}
    env = robosuite.make(
        **copy.deepcopy(config),
        control_freq=control_freq,
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        ignore_done=True,
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


FINE = [0.02] * 3 + [0.2] * 3
CASES = {
    "small steps": ("Panda", "OSC_POSE", {"output_max": FINE, "output_min": [-value for value in FINE]}, 20),
    "absolute": ("Panda", "OSC_POSE", {"input_type": "absolute", "input_ref_frame": "world"}, 20),
    "position only, 10 Hz": ("Panda", "OSC_POSITION", {}, 10),
    "stiffer": ("IIWA", "OSC_POSE", {"kp": 300}, 20),
    "world frame": ("Sawyer", "OSC_POSITION", {"input_ref_frame": "world", "damping_ratio": 2}, 20),
    "joint positions": ("UR5e", "JOINT_POSITION", {}, 25),
    "joint torques": ("Kinova3", "JOINT_TORQUE", {"output_max": 5.0, "output_min": -5.0}, 20),
}


@pytest.mark.parametrize("case", CASES)
def test_an_environment_is_rebuilt_as_recorded_and_its_arm_goes_where_it_went(tmp_path, case):
    robot, kind, settings, control_freq = CASES[case]
    path = record(tmp_path, robot, part(kind, **settings), control_freq)
    words = [f"dataset={path}", f"out={tmp_path}/new.hdf5", "size=32", "cameras=[agentview]", "workers=1"]
    assert main(["render", *words]) == 0
    with open_dataset(tmp_path / "new.hdf5") as rendered, open_dataset(path) as source:
        described, episode, before = rendered.env_args, rendered.episode(0), source.env_args
    assert described["env_kwargs"]["controller_configs"] == before["env_kwargs"]["controller_configs"]
    assert (described["env_kwargs"]["robots"], described["env_kwargs"]["control_freq"]) == ([robot], control_freq)
    assert episode.images["agentview"].std() > 10
    env = make_env(**described["s2robot"])
    assert env.metadata["render_fps"] == control_freq
    apart, moved = farthest(env, episode)
    env.close()
    print(f"{case}: {robot}, {kind}, {control_freq} Hz: {apart:.2e} m after {moved:.3f} m")
    assert moved > 0.02
    assert apart < 1e-3


def test_a_controller_of_robosuite_1_4_is_rebuilt_in_the_words_of_1_5(tmp_path):
    absolute = {"input_type": "absolute", "input_ref_frame": "world"}
    path = record(tmp_path, "Panda", part("OSC_POSE", **absolute), 20)
    with h5py.File(path, "r+") as file:
        info = json.loads(file["data"].attrs["env_info"])
        old = {name: value for name, value in part("OSC_POSE", control_delta=False).items() if name not in absolute}
        file["data"].attrs.update(
            env_info=json.dumps({**info, "robots": "Panda", "controller_configs": old}), repository_version="1.4.1"
        )
    words = [f"dataset={path}", f"out={tmp_path}/new.hdf5", "size=32", "cameras=[agentview]", "workers=1"]
    assert main(["render", *words]) == 0
    with open_dataset(tmp_path / "new.hdf5") as rendered:
        described, episode = rendered.env_args, rendered.episode(0)
    assert described["env_kwargs"]["controller_configs"] == old
    env = make_env(**described["s2robot"])
    apart, moved = farthest(env, episode)
    env.close()
    assert moved > 0.02
    assert apart < 1e-3


def test_training_refuses_a_dataset_that_would_be_evaluated_with_another_controller(tmp_path, capsys):
    """As `render` wrote them once: our own settings over what was recorded."""
    with h5py.File(OLD) as file:
        recorded = json.loads(file["data"].attrs["env_args"])
    recorded["env_kwargs"]["controller_configs"]["output_max"] = 0.02
    with RobomimicWriter(tmp_path / "demos.hdf5", {**recorded, "s2robot": ENVIRONMENT}) as writer:
        writer.add(make_episode(4, 0))
    assert main(["train", f"dataset={tmp_path}/demos.hdf5", f"output={tmp_path}/run"]) == 2
    assert "right output_max: recorded 0.02, here [0.05, 0.05, 0.05, 0.5, 0.5, 0.5]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
