"""Every task that robosuite registers, with its robots, controllers and control frequencies: `robosuite:<name>`."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from installed import install, run_with
from robosuite_twin import robosuite_twin
from test_envs_robosuite_env import digest

from s2robot_envs import TASKS, make_env
from s2robot_envs.errors import EnvConfigError
from s2robot_envs.registered import environments, task_of, task_spec
from s2robot_envs.replay import RecordedEpisode, replay_episode

pytestmark = pytest.mark.sim
ROBOMIMIC = Path(__file__).parent / "data" / "robomimic_lift.hdf5"

# Unlike the tasks of our table: no placements, a bin of four objects, a hand without a gripper, a robot with two arms.
UNLIKE = {
    "Wipe": {"robots": "IIWA", "controller": "OSC_POSITION", "control_freq": 10},
    "PickPlace": {"robots": "Sawyer", "controller": "JOINT_POSITION"},
    "TwoArmPegInHole": {},
    "TwoArmHandover": {"robots": "Baxter"},
}
OTHERS = [
    *("Door", "Lift", "NutAssembly", "NutAssemblyRound", "NutAssemblySingle", "NutAssemblySquare", "PickPlaceBread"),
    *("PickPlaceCan", "PickPlaceCereal", "PickPlaceMilk", "PickPlaceSingle", "Stack", "ToolHang", "TwoArmLift"),
    "TwoArmTransport",
]
ROBOTS = ["Jaco", "Kinova3", "PandaDexRH", "PandaOmron", "SpotWithArm", "Tiago", "UR5e", "XArm7"]


@pytest.fixture(scope="module", params=UNLIKE)
def env(request):
    env = make_env(f"robosuite:{request.param}", image_size=32, **UNLIKE[request.param])
    yield env
    env.close()


def test_an_episode_follows_from_its_seed_alone(env):
    first = digest(env, seed=3, steps=3)
    assert digest(env, seed=4, steps=3) != first
    assert digest(env, seed=3, steps=3) == first


def test_the_description_makes_it_again_and_observes_what_it_has(env):
    described = json.loads(json.dumps(env.env_args()))
    assert described["s2robot"]["task"] == env.name
    assert f"robosuite:{described['env_name']}" == env.name
    again = make_env(**described["s2robot"])
    assert again.env_args() == described
    assert digest(again, seed=5, steps=2) == digest(env, seed=5, steps=2)
    again.close()
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert "agentview_image" in observation
    assert any(key.endswith("eef_pos") for key in observation)


def test_the_recorded_model_and_state_rebuild_the_scene_in_robosuite(env):
    env.reset(seed=6)
    with robosuite_twin(env) as theirs:
        np.testing.assert_allclose(theirs.sim.data.geom_xpos, env.simulator.sim.data.geom_xpos, atol=1e-9)


def test_dirt_that_was_wiped_is_gone_in_a_replay_too():
    """It is not part of the simulator's state, and half of the pictures would show it still."""
    env = make_env("robosuite:Wipe", cameras=("agentview",), image_size=64)
    env.reset(seed=0)
    theirs = env.simulator
    dirt = [theirs.sim.model.body_name2id(marker.root_body) for marker in theirs.model.mujoco_arena.markers]
    states, pictures = [], []
    for step in range(40):
        goal = theirs.sim.data.body_xpos[dirt[step // 2]] - [0, 0, 0.08]  # presses onto the table
        hand = theirs.sim.data.site_xpos[theirs.robots[0].eef_site_id["right"]]
        states.append(env.state())
        pictures.append(env.observe()["agentview_image"])
        env.simulate(np.clip([*(10 * (goal - hand)), 0, 0, 0], -1, 1))
    assert len(theirs.wiped_markers) > 5
    replayed = replay_episode(env, RecordedEpisode("demo_0", np.stack(states), seed=0))
    np.testing.assert_array_equal(replayed["images"]["agentview"], pictures)
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_task_that_robosuite_registers_is_made_and_repeats_itself(name):
    assert set(OTHERS) | set(UNLIKE) == set(environments())
    env = make_env(f"robosuite:{name}", image_size=32)
    assert digest(env, seed=3, steps=2) == digest(env, seed=3, steps=2)
    assert env.horizon == 1000  # robosuite's own
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("robot", ROBOTS)
def test_every_kind_of_robot_is_made_and_repeats_itself(robot):
    env = make_env("robosuite:Lift", image_size=32, robots=robot)
    assert digest(env, seed=3, steps=2) == digest(env, seed=3, steps=2)
    assert any(key.endswith("eef_pos") for key in env.proprioception)
    env.close()


def test_observables_are_chosen_by_robosuites_names_and_have_its_values():
    """Some are computed from others: without those, robosuite answers with zeros."""
    import robosuite

    keys = ["object", "robot0_joint_pos_cos", "robot0_eef_quat_site", "robot0_gripper_qvel", "robot0_joint_vel"]
    env = make_env("robosuite:NutAssembly", cameras=(), proprioception=keys)
    assert list(env.observation_space.spaces) == sorted(keys)
    observation, _ = env.reset(seed=1)
    theirs = robosuite.make("NutAssembly", **env.env_args()["env_kwargs"])
    theirs.reset_from_xml_string(env.model_xml())
    theirs.sim.set_state_from_flattened(env.state())
    theirs.sim.forward()
    for _ in range(2):  # what robosuite computes from others lags behind them
        expected = theirs._get_observations(force_update=True)
    theirs.close()
    assert env.env_args()["s2robot"]["proprioception"] == keys
    for key in keys:
        name = "object-state" if key == "object" else key
        np.testing.assert_allclose(observation[key], expected[name], atol=1e-6, err_msg=key)
    assert np.abs(observation["robot0_joint_pos_cos"]).max() > 0.5
    env.close()


def test_absolute_actions_are_not_cut_off():
    settings = {"controller": {"type": "OSC_POSE", "input_type": "absolute", "input_ref_frame": "world"}}
    env = make_env("Lift", cameras=(), **settings)
    low, high = env.action_space.low, env.action_space.high
    np.testing.assert_array_equal(np.isinf(high), [True] * 6 + [False])
    np.testing.assert_array_equal((low[-1], high[-1]), (-1, 1))
    env.reset(seed=0)
    start = env.simulator.sim.data.site_xpos[env.simulator.robots[0].eef_site_id["right"]].copy()
    goal = np.array([*start, np.pi, 0.0, 0.0, -1.0])
    goal[2] += 0.1
    assert goal[2] > 1  # above a table of 0.8 m
    for _ in range(30):
        env.step(goal)
    reached = env.simulator.sim.data.site_xpos[env.simulator.robots[0].eef_site_id["right"]]
    assert np.linalg.norm(reached - goal[:3]) < 0.04  # cut off at 1, it ends 0.11 m below
    env.close()


def test_plain_tasks_have_the_action_space_they_had():
    env = make_env("Lift", cameras=())
    assert (env.action_space.low == -1).all()
    assert (env.action_space.high == 1).all()
    env.close()


def test_a_task_of_the_table_takes_the_observations_of_its_robots():
    env = make_env("Lift", image_size=32, robots="Baxter")
    assert list(env.image_sizes) == ["agentview", "robot0_right_eye_in_hand", "robot0_left_eye_in_hand"]
    assert "robot0_left_eef_pos" in env.proprioception
    env.close()


def test_names_of_the_table_stay_and_all_others_are_of_the_family():
    assert task_of("Lift") == "Lift"
    assert task_of("Wipe") == "robosuite:Wipe"
    assert {task_of(name) for name in environments()} >= set(TASKS)
    assert task_spec("robosuite:Lift").horizon != task_spec("Lift").horizon


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (
            "robosuite:Lfit",
            {},
            "unknown task of robosuite 'Lfit'; did you mean 'Lift'? Choices: Door, Lift,",
        ),
        ("robosuit:Lift", {}, "unknown family of tasks 'robosuit'; did you mean 'robosuite'? Choices: gym,"),
        ("Wipe", {}, "Further tasks: robosuite:<name> for all that robosuite registers, gym:<id>"),
        ("robosuite:nowhere:Lift", {}, "the module 'nowhere' cannot be imported"),
        ("robosuite:Wipe", {"robots": "IIVA"}, "unknown robot 'IIVA'; did you mean 'IIWA'? Choices: Baxter, GR1,"),
        (
            "robosuite:Wipe",
            {"controller": "OSC"},
            "choices: JOINT_VELOCITY, JOINT_TORQUE, JOINT_POSITION,",
        ),
        ("robosuite:Lift", {"proprioception": ["objct"]}, "did you mean 'object'? Choices: cube_pos, cube_quat,"),
        ("robosuite:Lift", {"cameras": ["agentvew"]}, "did you mean 'agentview'?"),
        ("robosuite:Lift", {"variant": {"object_scale": 0.6}}, "variant.object_scale does not apply to robosuite:Lift"),
        ("gym:CartPole-v1", {"proprioception": ["x"]}, "gym.proprioception selects parts of the observation"),
    ],
)
def test_a_wrong_name_is_one_error_with_the_valid_ones(task, settings, message):
    with pytest.raises(EnvConfigError) as error:
        make_env(task, **settings)
    assert message in str(error.value)


MODULE = """
from robosuite.environments.manipulation.lift import Lift

class CalmLift(Lift):
    pass
"""


def test_an_environment_of_another_package_is_named_by_its_module(tmp_path):
    install(tmp_path, "calm_lift", MODULE, {})
    program = """
from s2robot_envs import make_env
env = make_env("robosuite:calm_lift:CalmLift", cameras=(), horizon=7)
env.reset(seed=0)
print(type(env.simulator).__name__, env.horizon, env.env_args()["env_name"], env.env_args()["s2robot"]["task"])
"""
    done = run_with(tmp_path, "-c", program)
    assert done.stdout.split() == ["CalmLift", "7", "CalmLift", "robosuite:calm_lift:CalmLift"], done.stderr
    path = tmp_path / "calm.hdf5"
    path.write_bytes(ROBOMIMIC.read_bytes())
    with h5py.File(path, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        file["data"].attrs["env_args"] = json.dumps({**env_args, "env_name": "CalmLift"})
    words = ["render", f"dataset={path}", f"out={tmp_path}/out.hdf5", "size=16", "workers=1", "cameras=[agentview]"]
    refused = run_with(tmp_path, "-m", "s2robot.cli", *words)
    assert "robosuite:<module>:CalmLift first imports a module that registers it" in refused.stderr
    made = run_with(tmp_path, "-m", "s2robot.cli", *words, "task=robosuite:calm_lift:CalmLift")
    assert "2 demonstrations at 16 pixels" in made.stdout, made.stderr
