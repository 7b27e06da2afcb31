"""LIBERO's tasks, compared with LIBERO's own environment; `make test-libero` runs it where the library is installed."""

import os
import pickle
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from libero_layout import write_libero
from training_runs import make_config, make_encoder

from s2robot.cli import main
from s2robot.cli.environment import environment_of
from s2robot.data import open_dataset
from s2robot.interfaces import DatasetError
from s2robot.training import train
from s2robot_envs import make_env
from s2robot_envs.errors import EnvConfigError

pytest.importorskip("libero", reason="LIBERO is not installed (pip install 's2robot[libero]')")
pytestmark = pytest.mark.sim
TASK = "libero:libero_spatial/0"
NAME = "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"
MOVES = np.random.default_rng(0).uniform(-1, 1, (9, 7))
CAMERAS = {"agentview_rgb": "agentview_image", "eye_in_hand_rgb": "robot0_eye_in_hand_image"}


@pytest.fixture(scope="module")
def env():
    env = make_env(TASK, image_size=128, render_profile="full")
    yield env
    env.close()


@pytest.fixture(scope="module")
def theirs():
    """LIBERO's own environment as its evaluation makes it, and the fixed initial states."""
    from s2robot_envs.libero_package import find_task, import_libero, read_initial_states, use_assets

    use_assets()
    task = find_task(TASK)
    env = import_libero("libero.libero.envs").OffScreenRenderEnv(
        bddl_file_name=str(task.definition), camera_heights=128, camera_widths=128
    )
    yield env, read_initial_states(task)
    make_current(env)
    env.close()


def start(theirs, seed):
    """Start an episode as LIBERO's `create_dataset.py` does, with the fixtures where our seed places them."""
    from s2robot_envs.libero_env import _numpy_seeded

    env, states = theirs
    make_current(env)  # its reset frees what it finds in the current one
    with _numpy_seeded(seed):
        env.reset()
    env.sim.set_state_from_flattened(states[seed % len(states)])
    env.sim.forward()
    return [step(theirs, np.zeros(7)) for _ in range(5)][-1]


def make_current(env):
    """LIBERO's environment draws into whatever OpenGL context is current: let that be its own."""
    env.sim._render_context_offscreen.gl_ctx.make_current()


def step(theirs, action):
    make_current(theirs[0])
    return theirs[0].step(action)[0]


def as_recorded(observation):
    """LIBERO's observation under the names and in the quantities of its `create_dataset.py`; images as they come."""
    from robosuite.utils.transform_utils import quat2axisangle

    orientation = quat2axisangle(observation["robot0_eef_quat"].copy())
    return {
        "gripper_states": observation["robot0_gripper_qpos"],
        "joint_states": observation["robot0_joint_pos"],
        "ee_states": np.hstack([observation["robot0_eef_pos"], orientation]),
        **{camera: observation[key] for camera, key in CAMERAS.items()},
    }


@pytest.fixture(scope="module")
def recording(theirs):
    """LIBERO's own observations of two short episodes, as its script lays them out."""
    episodes = []
    for seed in (3, 4):
        start(theirs, seed)
        rows = []
        for action in MOVES:
            state = theirs[0].get_sim_state()
            observation = step(theirs, action)
            rows.append(as_recorded(observation) | {"actions": action, "states": state, "robot_states": np.zeros(9)})
        episodes.append({key: np.stack([row[key] for row in rows]) for key in rows[0]})
    return episodes


def test_gymnasium_accepts_the_task(env):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize("seed", [0, 57])
def test_observations_are_liberos_own_with_the_pictures_turned_upright(env, theirs, seed):
    expected, (observed, _) = start(theirs, seed), env.reset(seed=seed)
    for action in [None, *MOVES]:
        if action is not None:
            expected, (observed, *_) = step(theirs, action), env.step(action)
        for key, values in as_recorded(expected).items():
            if key in CAMERAS:
                np.testing.assert_array_equal(observed[f"{key}_image"], values[::-1], err_msg=key)
            else:
                np.testing.assert_array_equal(observed[key], values.astype(np.float32), err_msg=key)
        np.testing.assert_array_equal(observed["ee_states"], np.hstack([observed["ee_pos"], observed["ee_ori"]]))


def test_seeds_seed_whatever_ran_before(env):
    def episode(seed):
        rows = [env.reset(seed=seed)[0]]
        rows += [env.step(action)[0] for action in MOVES]
        return rows

    first, other = episode(3), episode(4)
    assert not np.array_equal(first[0]["agentview_rgb_image"], other[0]["agentview_rgb_image"])
    for _ in range(5):
        env.step(np.ones(7))  # closes the gripper
    for row, again in zip(first, episode(3), strict=True):
        for key, values in row.items():
            np.testing.assert_array_equal(again[key], values, err_msg=key)


def test_a_seed_starts_the_state_of_its_number_and_leaves_numpys_generator_alone(env):
    np.random.seed(0)
    expected = np.random.get_state()[1].copy()
    starts = [env.reset(seed=seed)[0]["joint_states"] for seed in (1, 51, 2)]
    np.testing.assert_array_equal(np.random.get_state()[1], expected)
    np.testing.assert_allclose(starts[0], starts[1], atol=1e-4)  # fixtures stand elsewhere, the robot does not
    assert np.abs(starts[0] - starts[2]).max() > 1e-3


def test_success_is_liberos():
    env = make_env("libero:libero_goal/turn_on_the_stove", cameras=())
    _, info = env.reset(seed=0)
    assert env.language == "turn on the stove"
    assert not info["is_success"]
    stove = next(state for name, state in env.simulator.object_states_dict.items() if name == "flat_stove_1")
    for _ in range(3):
        stove.set_joint(1.0)
        _, reward, _, _, info = env.step(np.zeros(7))
    assert (info["is_success"], reward) == (True, 1.0)
    assert env.reset(seed=0)[1]["is_success"] is False
    env.close()


@pytest.mark.parametrize("suite", ["libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"])
def test_every_suite_runs(suite):
    env = make_env(f"libero:{suite}/7", cameras=("agentview_rgb", "frontview"), image_size=64, horizon=2)
    observation, _ = env.reset(seed=0)
    assert all(observation[f"{camera}_image"].std() > 10 for camera in ("agentview_rgb", "frontview"))
    truncated = [env.step(np.zeros(7))[3] for _ in range(2)]
    assert truncated == [False, True]
    assert env.language
    env.close()


def test_the_fast_look_shows_the_same_scene(env):
    fast = make_env(TASK, image_size=128)
    pictures = [e.reset(seed=5)[0]["agentview_rgb_image"].astype(float) for e in (env, fast)]
    fast.close()
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < 25


def test_a_controller_changes_the_motion_and_is_recorded():
    ends = []
    for settings in ({}, {"controller": "OSC_POSITION"}, {"control_freq": 10}):
        env = make_env(TASK, cameras=(), **settings)
        env.reset(seed=0)
        for _ in range(3):
            observation = env.step(np.ones(env.action_space.shape))[0]
        ends.append(observation["ee_pos"])
        described = env.env_args()["s2robot"]
        assert settings.items() <= described.items()
        env.close()
        again = make_env(**described)
        assert again.action_space == env.action_space
        again.close()
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
    assert np.abs(ends[0] - ends[2]).max() > 1e-3


def test_a_recorded_file_trains_and_evaluates_without_conversion(recording, tmp_path):
    path = write_libero(tmp_path / f"{NAME}_demo.hdf5", recording, "libero_spatial", NAME, "pick the bowl")
    with open_dataset(path) as dataset:
        recorded = dataset.env_args["s2robot"]
        assert recorded["task"] == f"libero:libero_spatial/{NAME}"
        shown = dataset.episode(0)
    env = make_env(**{**recorded, "cameras": dataset.cameras, "image_size": 128})
    env.reset(seed=3)
    for step, action in enumerate(MOVES):
        observed = env.step(action)[0]
        for camera in dataset.cameras:
            np.testing.assert_array_equal(shown.images[camera][step], observed[f"{camera}_image"])
        for key, values in shown.proprioception.items():
            np.testing.assert_array_equal(values[step], observed[key], err_msg=key)
    env.close()
    config = make_config(tmp_path, tmp_path / "run", training={"epochs": 1})
    config.dataset = str(path)
    assert environment_of(config) == recorded
    checkpoint = train(config, make_encoder())
    out = tmp_path / "evaluated"
    arguments = [f"checkpoint={checkpoint}", "episodes=2", "horizon=4", f"output={out}", "num_envs=2", "device=cpu"]
    assert main(["evaluate", *arguments]) == 0
    assert (out / "results.json").is_file()
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            shorter = demo["obs/joint_states"][:, :6]
            del demo["obs/joint_states"]
            demo["obs/joint_states"] = shorter
    with pytest.raises(DatasetError, match="joint_states has 6 numbers, and 7 in the environment"):
        environment_of(config)


def test_a_recorded_file_is_rendered_from_its_states_one_step_earlier(theirs, tmp_path, capsys):
    start(theirs, 8)
    rows = []
    scene = theirs[0].sim.model.get_xml()
    for action in MOVES:
        state = theirs[0].get_sim_state()
        rows.append(
            as_recorded(step(theirs, action)) | {"actions": action, "states": state, "robot_states": np.zeros(9)}
        )
    episode = {key: np.stack([row[key] for row in rows]) for key in rows[0]} | {"model_file": scene}
    path = write_libero(tmp_path / "demo.hdf5", [episode], "libero_spatial", NAME)
    out = tmp_path / "rendered.hdf5"
    assert main(["render", f"dataset={path}", f"out={out}", "size=64", "workers=1", "cameras=[agentview_rgb]"]) == 0
    assert "drifts" not in capsys.readouterr().out
    with open_dataset(path) as recorded, open_dataset(out) as rendered:
        former, new = recorded.episode(0), rendered.episode(0)
        assert rendered.image_size("agentview_rgb") == (64, 64)
        assert rendered.env_args["s2robot"]["task"] == f"libero:libero_spatial/{NAME}"
    np.testing.assert_array_equal(new.proprioception["joint_states"][1:], former.proprioception["joint_states"][:-1])
    reduced = former.images["agentview_rgb"].reshape(len(MOVES), 64, 2, 64, 2, 3).mean((2, 4))
    differences = np.abs(new.images["agentview_rgb"].astype(float) - np.roll(reduced, 1, axis=0)).mean((1, 2, 3))
    assert differences[1:].max() < 8


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ("<mujoco", "not XML"),
        ('<mujoco><asset><mesh file="/etc/passwd"/></asset></mujoco>', "needs '/etc/passwd', which neither"),
        ('<mujoco><asset><mesh file="/x/assets/../../a.obj"/></asset></mujoco>', "which neither robosuite nor LIBERO"),
        ("<mujoco><worldbody/></mujoco>", "not a scene of libero:"),
    ],
)
def test_scenes_that_are_not_the_tasks_are_one_clear_error(scene, message):
    env = make_env(TASK, cameras=())
    with pytest.raises(EnvConfigError, match=message):
        env.load_scene(scene)
    env.close()


def test_home_is_not_touched_and_nothing_is_asked(tmp_path):
    code = f"from s2robot_envs import make_env; make_env({TASK!r}, cameras=()).close()"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert not [file for file in tmp_path.rglob("*") if "libero" in file.name.lower()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "libero:spatial/0"}, "unknown suite of LIBERO 'spatial'; did you mean 'libero_spatial'"),
        (
            {"task": "libero:libero_10/10"},
            "unknown task of libero_10 '10'.*; or a number from 0 to 9: libero:libero_10/0",
        ),
        ({"task": "libero:libero_10"}, "unknown task of libero_10 ''"),
        ({"task": TASK, "variant": {"lighting": True}}, "variant does not apply"),
        ({"task": TASK, "gym": {"success": "x"}}, "gym does not apply"),
        ({"task": TASK, "controller": "OSC"}, "LIBERO cannot make .*OSC"),
        ({"task": TASK, "robots": "Sawyer"}, "robots is not LIBERO's Panda|LIBERO cannot make .*Sawyer"),
        ({"task": TASK, "cameras": ["agentvew"]}, "unknown camera of libero:.*did you mean 'agentview'"),
    ],
)
def test_impossible_settings_are_one_clear_error(settings, message):
    with pytest.raises(EnvConfigError, match=message):
        make_env(**settings)


def test_models_that_are_missing_are_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))
    with pytest.raises(EnvConfigError, match=f"not installed .searched: {tmp_path}.*LIBERO_ASSETS=FOLDER"):
        make_env(TASK)


class Evil:
    def __reduce__(self):
        return print, ("this was run",)


def test_initial_states_cannot_run_code(tmp_path, capsys):
    import torch

    from s2robot_envs.libero_package import LiberoTask, read_initial_states

    path = tmp_path / "states.pruned_init"
    for content in (Evil(), np.zeros(3), np.array(["a"]), {"a": 1}):
        torch.save(content, path)
        with pytest.raises(EnvConfigError, match="initial states"):
            read_initial_states(LiberoTask("libero_10", "x", path, path))
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(EnvConfigError, match="initial states"):
        read_initial_states(LiberoTask("libero_10", "x", path, path))
    assert "this was run" not in capsys.readouterr().out
