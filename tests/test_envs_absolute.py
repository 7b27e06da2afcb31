"""Increments as the absolute poses that they command: both ways move a robot along the same path."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import PooledPixels
from scipy.spatial.transform import Rotation

from s2robot.cli import main
from s2robot.cli.environment import environment_of
from s2robot.config import TrainConfig
from s2robot.data import open_dataset
from s2robot.data.actions import input_of_controllers, with_input
from s2robot.interfaces import DatasetError
from s2robot.policies.bc import BCConfig
from s2robot.training.data import plan_training
from s2robot_envs import make_env
from s2robot_envs.absolute import absolute_action, require_increments
from s2robot_envs.controllers import composite_controller
from s2robot_envs.errors import EnvConfigError

pytestmark = pytest.mark.sim

ROBOMIMIC = Path(__file__).parent / "data" / "robomimic_lift.hdf5"
OLD = Path(__file__).parent / "data" / "robosuite_1_4_lift.hdf5"
STEPS = 30
TOLERANCE = 1e-5  # m; actions are rounded to float32, at most 6e-8 m of a pose within a metre, which feedback damps


def configured(name, robots, **changes):
    """Controllers for robosuite 1.5, each arm with `changes`."""
    configs = [composite_controller(name, robot) for robot in robots]
    for config in configs:
        for part in config["body_parts"].values():
            part.update(changes)
    return configs


def play(task, robots, controllers, actions=None):
    """Run actions, or random increments, from one initial state: the arms' positions, the actions, and the states."""
    env = make_env(task, cameras=[], robots=robots, controller=controllers)
    env.reset(seed=7)
    rng, action = np.random.default_rng(0), np.zeros(env.simulator.action_dim)
    path, executed, states = [], [], []
    for step in range(STEPS):
        action = np.clip(0.8 * action + 0.5 * rng.normal(size=len(action)), -1, 1)
        executed.append(np.float32(action) if actions is None else np.float32(actions[step]))
        states.append(env.state())
        env.step(executed[-1])
        sites = [robot.eef_site_id["right"] for robot in env.simulator.robots]
        path.append(env.simulator.sim.data.site_xpos[sites].copy())
    return env, np.array(path), executed, states


CASES = {
    "Panda": ("Lift", ["Panda"], "OSC_POSE", {}),
    "IIWA in the world's frame": ("Lift", ["IIWA"], "OSC_POSE", {"input_ref_frame": "world"}),
    "UR5e with smaller steps": ("Door", ["UR5e"], "OSC_POSE", {"output_max": 0.02, "output_min": -0.02}),
    "Sawyer by position": ("Lift", ["Sawyer"], "OSC_POSITION", {}),
    "two Pandas that face each other": ("TwoArmLift", ["Panda", "Panda"], "OSC_POSE", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_absolute_poses_of_increments_move_the_arms_along_the_same_path(case):
    task, robots, name, changes = CASES[case]
    env, path, increments, states = play(task, robots, configured(name, robots, **changes))
    poses = []
    for state, action in zip(states, increments, strict=True):
        env.set_state(state)
        poses.append(absolute_action(env.simulator, action))
    described = {"type": 1, "env_kwargs": {"controller_configs": configured(name, robots, **changes)}}
    env.close()
    assert np.abs(path[-1] - path[0]).max() > 0.03  # they moved
    absolute = with_input(described, "absolute")
    assert input_of_controllers(absolute) == "absolute"
    other, same, _, _ = play(task, robots, absolute["env_kwargs"]["controller_configs"], poses)
    other.close()
    assert np.abs(same - path).max() < TOLERANCE


def test_the_poses_are_the_goals_that_robosuite_itself_sets():
    """robomimic's script lets `robot.control` set the goals, and reads them."""
    env, _, increments, states = play("Lift", ["Panda"], configured("OSC_POSE", ["Panda"]))
    (robot,) = env.simulator.robots
    for state, action in zip(states, increments, strict=True):
        env.set_state(state)
        for _ in range(2):  # the first call of an episode still sees the arm as it was before the state was set
            robot.control(action, policy_step=True)
        part = robot.part_controllers["right"]
        position, turn = part.goal_pos.copy(), Rotation.from_matrix(part.goal_ori)
        mine = absolute_action(env.simulator, action)
        np.testing.assert_allclose(mine[:3], position, rtol=0, atol=1e-12)
        assert (Rotation.from_rotvec(mine[3:6]).inv() * turn).magnitude() < 1e-7
        assert mine[6] == action[6]
    env.close()


@pytest.mark.parametrize("name", ["JOINT_POSITION", "JOINT_TORQUE"])
def test_controllers_without_poses_are_refused_by_name(name):
    env = make_env("Lift", cameras=[], controller=name)
    with pytest.raises(EnvConfigError, match="absolute_actions=true needs .* an operational-space controller.*Joint"):
        require_increments(env.simulator)
    env.close()


def test_poses_are_not_made_of_poses():
    env = make_env("Lift", cameras=[], controller=configured("OSC_POSE", ["Panda"], input_type="absolute"))
    with pytest.raises(EnvConfigError, match="takes increments"):
        require_increments(env.simulator)
    env.close()


@pytest.mark.parametrize("source", [ROBOMIMIC, OLD], ids=["robosuite 1.5", "robosuite 1.4"])
def test_rendering_records_the_poses_beside_the_increments(source, tmp_path):
    out = tmp_path / "out.hdf5"
    words = [f"dataset={source}", f"out={out}", "size=32", "workers=1", "absolute_actions=true", "cameras=[agentview]"]
    assert main(["render", *words]) == 0
    with open_dataset(out, action_key=["actions_abs"]) as dataset, open_dataset(source) as recorded:
        for index in range(len(dataset)):
            poses, increments = dataset.episode(index).actions, recorded.episode(index).actions
            position = dataset.episode(index).proprioception["robot0_eef_pos"]
            np.testing.assert_array_equal(poses[:, 6], increments[:, 6])
            # In the frame of the base, poses are apart by the place of the base, the same at all steps.
            goal = poses[:, :3] - 0.05 * increments[:, :3].clip(-1, 1)
            offset = position - goal
            assert np.abs(offset - offset[0]).max() < 2e-3
            assert (np.linalg.norm(poses[:, 3:6], axis=1) > 2.5).all()  # the gripper points down
    with h5py.File(out) as file, open_dataset(source) as recorded:
        kept = set(recorded.action_arrays)
        demo = file["data/demo_0"]
        assert all(key in demo for key in kept)


@pytest.mark.parametrize("source", [ROBOMIMIC, OLD], ids=["robosuite 1.5", "robosuite 1.4"])
def test_a_policy_of_poses_is_evaluated_with_controllers_that_take_poses(source, tmp_path):
    out = tmp_path / "out.hdf5"
    words = [f"dataset={source}", f"out={out}", "size=32", "workers=1", "absolute_actions=true", "cameras=[agentview]"]
    assert main(["render", *words]) == 0
    environments, episodes = [], []
    for key in (None, "actions_abs"):
        config = TrainConfig(dataset=str(out), output=str(tmp_path), action_key=key, policy=BCConfig(action_steps=4))
        with open_dataset(out, action_key=config.action_keys) as dataset:
            environments.append(
                make_env(**plan_training(dataset, config, PooledPixels(), environment_of(config)).environment)
            )
            episodes.append(dataset.episode(0))
    inputs = [env.simulator.robots[0].part_controllers["right"].input_type for env in environments]
    assert inputs == ["delta", "absolute"]
    assert np.isinf(environments[1].action_space.high[:6]).all()  # nothing is clipped on the way
    # Both ways from one recorded state: what was recorded, in the frame of reference in which it was recorded.
    ends = []
    for env, episode in zip(environments, episodes, strict=True):
        env.reset(seed=3)
        env.set_state(episode.states[2])
        env.simulator.robots[0].part_controllers["right"].update(force=True)  # else it sees the arm as it was reset
        env.step(episode.actions[2])
        ends.append(env.state())
        env.close()
    assert np.abs(ends[0] - episodes[0].states[2]).max() > 1e-2
    np.testing.assert_allclose(ends[1], ends[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("setting", [{"action_key": "actions_abs"}, {"controller_input": "absolute"}])
def test_poses_are_not_tied_to_a_task_whose_controllers_take_increments(setting, tmp_path):
    """`task=` brings controllers of its own, which the recorded ones do not change."""
    out = str(tmp_path / "abs.hdf5")
    words = [
        f"dataset={ROBOMIMIC}",
        f"out={out}",
        "size=32",
        "cameras=[agentview]",
        "absolute_actions=true",
        "workers=1",
    ]
    assert main(["render", *words]) == 0
    given = {"dataset": out, "output": "", "policy": BCConfig(), "task": "robosuite:Lift", **setting}
    with pytest.raises(
        DatasetError, match="actions are absolute, but the controllers of the environment .* take delta"
    ):
        environment_of(TrainConfig(**given))
    poses = configured("OSC_POSE", ["Panda"], input_type="absolute")
    assert environment_of(TrainConfig(**given, controller=poses[0]))["controller"] == poses[0]
