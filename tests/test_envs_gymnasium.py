"""The wrapper around foreign environments: ones defined here, and one that ships with gymnasium."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from s2robot.cli import main
from s2robot.data import open_dataset
from s2robot_envs import collect, make_env, make_vector_env
from s2robot_envs.action_chunk import ActionChunk
from s2robot_envs.collection import collect_episode
from s2robot_envs.control import Expert
from s2robot_envs.errors import ActionError, EnvConfigError, EpisodeOverError
from s2robot_envs.gymnasium_env import GymnasiumEnv
from s2robot_envs.pictures import fit_square, upright_picture

TASK = "gym:test_envs_gymnasium:Corridor-v0"
LENGTH = 12


class Corridor(gymnasium.Env):
    """A white wall that comes closer from the right; the goal is to stand within 1 of its place."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None, limits=(-2.0, 4.0), silent=False, fatal=False):
        self.render_mode, self.silent, self.fatal = render_mode, silent, fatal
        self.action_space = spaces.Box(*np.float32(limits), (1,), np.float64)
        picture = spaces.Box(0, 255, (20, 10, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {
                "front_image": picture,
                "eyes": spaces.Dict({"left": spaces.Box(0, 255, (3, 16, 16), np.uint8)}),
                "where": spaces.Box(-np.inf, np.inf, (2,), np.float64),
                "depth": spaces.Box(0, 1, (16, 16, 1), np.float32),
                "says": spaces.Text(5),
            }
        )
        self.rendered = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.goal = 0.0, self.np_random.uniform(5, 8)
        return self._observe(), {}

    def step(self, action):
        self.position += float(action[0])
        solved = abs(self.position - self.goal) < 1
        over = self.fatal and self.position < -3
        return self._observe(), -abs(self.position - self.goal), over, False, {} if self.silent else {"success": solved}

    def _observe(self):
        front = np.zeros((20, 10, 3), np.uint8)
        front[:10, :, 0] = 200  # the upper half is red
        left = np.full((3, 16, 16), int(np.clip(10 * self.goal, 0, 255)), np.uint8)
        where = np.array([self.position, self.goal])
        return {
            "front_image": front,
            "eyes": {"left": left},
            "where": where,
            "depth": np.zeros((16, 16, 1)),
            "says": "a",
        }

    def render(self):
        self.rendered += 1
        frame = np.zeros((30, 60, 3), np.uint8)
        frame[:15] = 255
        return frame


class Walker(Expert):
    """Walks to the goal."""

    def attempt(self, env):
        position, goal = env.raw_observation["where"]
        yield np.clip(np.float32([((goal - position) + 2) / 3 - 1]), -1, 1)


class MortalWalker(Walker):
    """Kills its process in the middle of the episode of the seed that `KILLED_ON_SEED` names."""

    def attempt(self, env):
        on_the_way = env.raw_observation["where"][0] != 0
        if on_the_way and os.environ.get("KILLED_ON_SEED") == str(env.info()["seed"]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().attempt(env)


class Reusing(gymnasium.Env):
    """Shows how many steps were taken, in buffers that it hands out again at every step."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self):
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        picture = spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.observation_space = spaces.Dict({"front": picture, "count": spaces.Box(0, 99, (1,), np.float32)})
        self.buffers = {"front": np.zeros((16, 16, 3), np.uint8), "count": np.zeros(1, np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._show(0), {}

    def step(self, action):
        return self._show(self.buffers["count"][0] + 1), 0.0, False, False, {"success": False}

    def _show(self, count):
        for buffer in self.buffers.values():
            buffer[:] = count
        return self.buffers

    def render(self):
        return self.buffers["front"]


class Still(Expert):
    """Does nothing."""

    def attempt(self, env):
        yield np.zeros(1, np.float32)


gymnasium.register("Corridor-v0", Corridor, max_episode_steps=LENGTH)
gymnasium.register("Endless-v0", Corridor)


@pytest.fixture
def env():
    env = make_env(TASK, image_size={"front": 40, "eyes.left": (16, 8)})
    yield env
    env.close()


def test_gymnasium_accepts_the_wrapper(env):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)


def test_pictures_and_vectors_get_our_names_types_and_sizes(env):
    observation, info = env.reset(seed=3)
    shapes = {key: (value.dtype, value.shape) for key, value in observation.items()}
    assert shapes == {
        "front_image": (np.uint8, (40, 40, 3)),
        "eyes.left_image": (np.uint8, (16, 16, 3)),
        "eyes.left_image_8": (np.uint8, (8, 8, 3)),
        "where": (np.float32, (2,)),
    }
    assert info == {"is_success": False, "success_so_far": False, "seed": 3, "terminated": False}
    assert env.horizon == LENGTH
    assert env.observation_space.contains(observation)


def test_a_picture_that_is_not_square_is_whole_and_upright_between_black_bars(env):
    front = env.reset(seed=0)[0]["front_image"]
    assert front[:, :10].max() == front[:, 30:].max() == 0
    assert np.abs(front[1:18, 11:29].astype(int) - [200, 0, 0]).max() <= 1  # libraries round their weights differently
    assert front[22:].max() == 0


def test_a_seed_gives_the_same_episode_whatever_ran_before(env):
    first, _ = env.reset(seed=3)
    env.reset(seed=4)
    env.step(np.ones(1))
    again, _ = env.reset(seed=3)
    for key, value in first.items():
        np.testing.assert_array_equal(again[key], value)
    _, info = env.reset()
    drawn = env.observe()["where"]
    np.testing.assert_array_equal(env.reset(seed=info["seed"])[0]["where"], drawn)


def test_actions_are_mapped_from_one_to_the_bounds_and_clipped(env):
    for action, moved in ((-1, -2), (0, 1), (1, 4), (5, 4)):
        env.reset(seed=0)
        assert env.step(np.array([action]))[0]["where"][0] == moved
    with pytest.raises(ActionError, match=r"Corridor-v0 action has shape \(2,\); expected \(1,\)"):
        env.step(np.zeros(2))


def test_success_is_reported_now_and_remembered_and_the_horizon_truncates(env):
    env.reset(seed=3)
    env._proprioception()
    expert = Walker()
    expert.reset(env)
    infos = [env.step(expert.act())[4] for _ in range(3)]
    assert [info["is_success"] for info in infos] == [False, True, True]
    *_, info = env.step(np.ones(1))
    assert (info["is_success"], info["success_so_far"]) == (False, True)
    ends = [env.step(np.zeros(1))[2:4] for _ in range(LENGTH - 4)]
    assert ends == [(False, False)] * (LENGTH - 5) + [(False, True)]
    with pytest.raises(EpisodeOverError, match="truncated at its horizon of 12"):
        env.step(np.zeros(1))


@pytest.mark.parametrize("chunked", [False, True])
def test_an_episode_that_ends_by_itself_is_truncated_and_says_so(chunked):
    steps = {"observation_steps": 2, "action_steps": 4} if chunked else {}
    env = make_env(TASK, image_size=16, gym={"kwargs": {"fatal": True}}, **steps)
    env.reset(seed=0)
    if chunked:
        observation, _, terminated, truncated, info = env.step(-np.ones((4, 1)))
        assert info["steps"] == 2
        assert observation["where"][:, 0].tolist() == [-4, -4]
    else:
        assert env.step(-np.ones(1))[2:4] == (False, False)
        _, _, terminated, truncated, info = env.step(-np.ones(1))
        with pytest.raises(EpisodeOverError, match="ended by itself"):
            env.step(np.zeros(1))
    assert (terminated, truncated, info["terminated"], info["is_success"]) == (False, True, True, False)
    env.close()


def test_a_loop_until_the_episode_is_over_ends_after_a_success():
    env = make_env(TASK, image_size=16, action_steps=1)
    env.reset(seed=3)
    expert = Walker()
    expert.reset(env.unwrapped)
    infos, over = [], False
    while not over:
        *_, terminated, truncated, info = env.step(expert.act()[None])
        infos.append(info)
        over = terminated or truncated
        assert len(infos) < LENGTH
    assert [info["is_success"] for info in infos] == [False, True, False]
    assert [info["steps"] for info in infos] == [1, 1, 0]
    env.close()


def test_only_the_frames_that_a_policy_sees_are_rendered():
    env = make_env(TASK, cameras=["render"], image_size=32, action_steps=4)
    env.reset(seed=0)
    env.step(np.zeros((4, 1)))
    assert env.unwrapped.env.unwrapped.rendered == 2
    frames = env.reset(seed=0, options={"record": "front"})[1]["frames"]
    assert frames.shape == (1, 32, 32, 3)
    env.close()


def test_a_success_is_never_guessed():
    env = make_env(TASK, image_size=16, gym={"kwargs": {"silent": True}})
    env.reset(seed=0)
    with pytest.raises(EnvConfigError, match=r"does not say whether its task is solved: info has no entries; give gym"):
        env.step(np.zeros(1))
    env.close()


class Reporting(Corridor):
    """Reports whatever it is given as `info` at every step."""

    def __init__(self, report):
        super().__init__("rgb_array")
        self.report = report

    def step(self, action):
        return *super().step(action)[:4], self.report


def reported(report, key):
    env = GymnasiumEnv(Reporting(report), horizon=5, image_size=8, options={"success": key})
    env.reset(seed=0)
    return env.step(np.zeros(1))[4]["is_success"]


@pytest.mark.parametrize("key", [None, "success", "tasks_to_complete"])
@pytest.mark.parametrize(
    "value",
    [["kettle"], [], ("kettle",), {"kettle"}, {"kettle": True}, "False", b"0", None, np.array([1, 0]), 0.5, np.nan, -1],
    ids=repr,
)
def test_what_is_neither_true_nor_false_is_no_success_but_an_error_that_names_it(value, key):
    with pytest.raises(
        EnvConfigError, match=f"Reporting reports {key or 'success'}=.*does not say whether the task is"
    ):
        reported({key or "success": value}, key)


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), 1, 1.0, np.float32(1), np.array(True), np.array([1]), np.array([[1.0]])], ids=repr
)
def test_a_success_is_a_boolean_or_a_number_0_or_1(value):
    assert reported({"success": value}, None) is True
    assert reported({"success": np.logical_not(value)}, None) is False
    assert reported({"success": value * 0}, None) is False


def test_only_entries_that_can_be_a_success_are_offered():
    report = {"tasks_to_complete": ["kettle"], "text": "yes", "step": 7, "solved": np.float32(0), "goal": np.zeros(3)}
    with pytest.raises(EnvConfigError, match="info has solved; give gym.success: one of these, or 'terminated'"):
        reported(report, None)
    del report["solved"]
    with pytest.raises(EnvConfigError, match="no entry that is true or false; give gym.success: 'terminated' if"):
        reported(report, None)


def test_the_end_of_an_episode_can_be_its_success():
    env = make_env(TASK, image_size=16, gym={"kwargs": {"fatal": True}, "success": "terminated"})
    env.reset(seed=0)
    assert [env.step(-np.ones(1))[4]["is_success"] for _ in range(2)] == [False, True]
    env.close()


def test_parts_of_vectors_can_be_named():
    env = make_env(TASK, cameras=(), gym={"proprioception": {"place": ["where", 0, 1]}})
    observation, _ = env.reset(seed=0)
    assert {key: value.tolist() for key, value in observation.items()} == {"place": [0.0]}
    assert make_env(**json.loads(json.dumps(env.env_args()["s2robot"]))).observation_space == env.observation_space
    env.close()


class Scanning(Corridor):
    """Sees a depth map of two axes too, and a small matrix."""

    def __init__(self):
        super().__init__("rgb_array")
        self.further = {"distances": (64, 64), "wide": (8, 9), "inertia": (3, 3)}
        boxes = {name: spaces.Box(0, 1, shape, np.float32) for name, shape in self.further.items()}
        self.observation_space = spaces.Dict({**self.observation_space.spaces, **boxes})

    def _observe(self):
        further = {name: np.ones(shape, np.float32) for name, shape in self.further.items()}
        return {**super()._observe(), **further}


def test_maps_are_proprioception_only_if_they_are_asked_for():
    env = GymnasiumEnv(Scanning(), horizon=5, image_size=8)
    assert set(env.proprioception) == {"where", "inertia"}
    env = GymnasiumEnv(Scanning(), horizon=5, image_size=8, options={"proprioception": ["wide"]})
    assert env.reset(seed=0)[0]["wide"].tolist() == [1.0] * 72
    env = GymnasiumEnv(Scanning(), horizon=5, cameras=(), options={"proprioception": {"place": ["where"]}})
    assert env.reset(seed=0)[0]["place"].shape == (2,)


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.MultiDiscrete([3, 3]), spaces.MultiBinary(2)], ids=str)
def test_discrete_actions_are_refused(space):
    env = Corridor("rgb_array")
    env.action_space = space
    with pytest.raises(EnvConfigError, match=r"has actions .*; valid: a Box with finite bounds"):
        GymnasiumEnv(env, horizon=5, image_size=8)


def test_an_environment_object_takes_further_cameras():
    env = GymnasiumEnv(
        Corridor(),
        horizon=5,
        cameras=["above"],
        image_size=8,
        frames={"above": lambda env: np.full((9, 9), 7, np.uint8)},
    )
    assert env.reset(seed=0)[0]["above_image"].tolist() == np.full((8, 8, 3), 7).tolist()
    with pytest.raises(EnvConfigError, match=r"Corridor cannot be recreated from a recording; register it"):
        env.env_args()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "gym:NoSuchThing-v0"}, "gymnasium cannot make 'NoSuchThing-v0'"),
        ({"task": "gim:Corridor-v0"}, "unknown family of tasks 'gim'; did you mean 'gym'?"),
        ({"task": "gym:Endless-v0"}, "Endless-v0 has no step limit of its own; give horizon"),
        (
            {"task": "gym:Corridor-v0", "cameras": ["frnt"]},
            "unknown camera of gym:Corridor-v0 'frnt'; did you mean 'front'",
        ),
        ({"task": "gym:Corridor-v0", "variant": {"distractors": 2}}, "variant does not apply to gym:Corridor-v0"),
        ({"task": "gym:Corridor-v0", "gym": {"sucess": "x"}}, "unknown gym option 'sucess'; did you mean 'success'"),
        ({"task": "gym:Corridor-v0", "gym": {"proprioception": ["wher"]}}, "vector in the observation of .*'where'"),
        (
            {"task": "gym:Corridor-v0", "gym": {"proprioception": {"place": ["where", "0"]}}},
            r"'place' is \['where', '0'\]; valid: a key, start and end",
        ),
        ({"task": "gym:Corridor-v0", "gym": {"kwargs": {"limits": [-1, np.inf]}}}, "a Box with finite bounds"),
        ({"task": "gym:Corridor-v0", "gym": {"kwargs": {"colour": 1}}}, "gymnasium cannot make .*Corridor-v0"),
        ({"task": "Lift", "gym": {"success": "x"}}, "gym options .* do not apply to Lift"),
    ],
)
def test_what_cannot_be_is_one_clear_error(kwargs, message):
    with pytest.raises(EnvConfigError, match=message):
        make_env(**kwargs)


def test_every_layout_of_a_picture_becomes_three_channels():
    picture = np.arange(12 * 10, dtype=np.uint8).reshape(12, 10)
    colours = np.stack([picture, picture, picture], axis=-1)
    for layout in (picture, picture[..., None], picture[None], colours, np.moveaxis(colours, 2, 0)):
        np.testing.assert_array_equal(upright_picture(layout), colours)
    with pytest.raises(EnvConfigError, match="float64"):
        upright_picture(picture.astype(float))


def reusing():
    cameras = ["front", "render", "above"]
    frames = {"above": lambda env: env.buffers["front"]}
    return GymnasiumEnv(Reusing(), horizon=5, cameras=cameras, image_size=16, frames=frames)


def test_a_recording_of_an_environment_that_reuses_its_buffers_holds_every_step():
    episode = collect_episode(reusing(), Still(), seed=0, noise=0.0)
    assert episode["proprioception"]["count"][:, 0].tolist() == [0, 1, 2, 3, 4]
    for camera, pictures in episode["images"].items():
        assert pictures[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4], camera


def test_the_history_of_an_environment_that_reuses_its_buffers_holds_every_step():
    env = ActionChunk(reusing(), observation_steps=2, action_steps=1)
    first, _ = env.reset(seed=0)
    second = env.step(np.zeros((1, 1)))[0]
    third = env.step(np.zeros((1, 1)))[0]
    for observation, expected in ((first, [0, 0]), (second, [0, 1]), (third, [1, 2])):
        assert observation["count"][:, 0].tolist() == expected
        for camera in ("front", "render", "above"):
            assert observation[f"{camera}_image"][:, 0, 0, 0].tolist() == expected, camera


def test_shrinking_averages_areas():
    checkers = np.zeros((8, 8, 3), np.uint8)
    checkers[::2, ::2] = checkers[1::2, 1::2] = 200
    assert (fit_square(checkers, 4) == 100).all()


@pytest.mark.sim
def test_an_environment_of_gymnasiums_own_is_seen_through_its_renderer():
    env = make_env("gym:Reacher-v5", image_size=64, gym={"success": "terminated"})
    observation, _ = env.reset(seed=0)
    assert observation["render_image"].shape == (64, 64, 3)
    assert observation["render_image"].std() > 5
    assert observation["observation"].shape == (10,)
    after, *_ = env.step(np.ones(2))
    assert not np.array_equal(after["render_image"], observation["render_image"])
    np.testing.assert_array_equal(env.reset(seed=0)[0]["render_image"], observation["render_image"])
    env.close()


class Hanging(gymnasium.Env):
    """A red ball above a blue one, green to the right, seen by an upright camera and one that hangs upside down."""

    SCENE = """<mujoco><worldbody>
      <light pos="0 -3 3"/>
      <camera name="standing" pos="0 -3 0" xyaxes="1 0 0 0 0 1"/>
      <camera name="hanging" pos="0 -3 0" xyaxes="-1 0 0 0 0 -1"/>
      <geom type="sphere" size=".4" pos="0 0 .6" rgba="1 0 0 1"/>
      <geom type="sphere" size=".4" pos="0 0 -.6" rgba="0 0 1 1"/>
      <geom type="sphere" size=".2" pos=".9 0 0" rgba="0 1 0 1"/>
    </worldbody></mujoco>"""

    def __init__(self):
        import mujoco

        self.model = mujoco.MjModel.from_xml_string(self.SCENE)
        self.data = mujoco.MjData(self.model)
        self.action_space, self.observation_space = spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        import mujoco

        super().reset(seed=seed)
        mujoco.mj_forward(self.model, self.data)
        return np.zeros(1, np.float32), {}


@pytest.mark.sim
def test_cameras_of_a_mujoco_model_are_rendered_upright_at_any_size_in_the_profile():
    env = GymnasiumEnv(Hanging(), horizon=5, cameras=["hanging", "standing"], image_size=96)
    observation, _ = env.reset(seed=0)
    for camera in ("hanging", "standing"):
        image = observation[f"{camera}_image"]
        assert [image[row, column].argmax() for row, column in ((30, 48), (66, 48), (48, 78))] == [0, 2, 1], camera
    assert env.render_camera("standing", 40).shape == (40, 40, 3)
    env.close()


@pytest.mark.sim
def test_processes_run_it_and_name_its_failures():
    envs = make_vector_env(TASK, 2, image_size=16, observation_steps=2, action_steps=3)
    observation, _ = envs.reset(seed=[3, 4])
    assert observation["front_image"].shape == (2, 2, 16, 16, 3)
    single = make_env(TASK, image_size=16, observation_steps=2, action_steps=3)
    single.reset(seed=4)
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 3, 1)).astype(np.float32)
    observation, reward, _, _, info = envs.step(actions)
    alone, alone_reward, *_ = single.step(actions[1])
    np.testing.assert_array_equal(observation["where"][1], alone["where"])
    assert reward[1] == alone_reward
    assert info["terminated"].tolist() == [False, False]
    envs.close()
    single.close()


def test_an_expert_of_ones_own_records_demonstrations():
    kwargs = {"image_size": 16}
    walker = "test_envs_gymnasium:Walker"
    episodes = list(collect(TASK, 2, noise=0.05, workers=1, expert=walker, env_kwargs=kwargs))
    assert [episode["success"] for episode in episodes] == [True, True]
    assert episodes[0]["states"] is None
    with pytest.raises(EnvConfigError, match="unknown task with a scripted expert .* give expert=module:Name"):
        collect(TASK, 1)
    with pytest.raises(EnvConfigError, match="expert='nowhere:Walker' cannot be imported"):
        collect(TASK, 1, expert="nowhere:Walker")


def test_collect_writes_a_dataset_that_remembers_how_to_make_the_environment(tmp_path, capsys):
    out = tmp_path / "corridor.hdf5"
    words = [f"task={TASK}", "num=2", "size=16", "noise=0.05", "workers=1", f"out={out}"]
    assert main(["collect", *words, "expert=test_envs_gymnasium:Walker", "gym.kwargs.limits=[-1,2]"]) == 0
    with open_dataset(out) as dataset:
        recorded = dataset.env_args["s2robot"]
        episode = dataset.episode(0)
        assert dataset.cameras == ["eyes.left", "front"]
        assert dataset.fps == 10
    assert (episode.states, episode.model_file, episode.attributes["success"]) == (None, None, True)
    assert recorded["task"] == TASK
    env = make_env(**recorded)
    observation, _ = env.reset(seed=episode.attributes["seed"])
    np.testing.assert_array_equal(observation["front_image"], episode.images["front"][0])
    assert env.step(np.ones(1))[0]["where"][0] == 2
    env.close()
    with h5py.File(out) as file:
        assert json.loads(file["data"].attrs["env_args"])["type"] == 2
    assert main(["render", f"dataset={out}", f"out={tmp_path / 'again.hdf5'}", "workers=1"]) == 2
    assert "field 'states' is missing" in capsys.readouterr().err


def contents(path):
    """Every array and attribute of an HDF5 file."""
    found = {}

    def visit(name, member):
        found.update({f"{name}@{key}": str(value) for key, value in member.attrs.items()})
        if isinstance(member, h5py.Dataset):
            found[name] = (member.dtype, member.shape, member[()].tobytes())

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_a_collection_killed_and_started_again_ends_in_the_same_file(tmp_path):
    words = [f"task={TASK}", "num=8", "size=16", "noise=0.3", "workers=1", "expert=test_envs_gymnasium:MortalWalker"]
    assert main(["collect", *words, f"out={tmp_path / 'whole.hdf5'}"]) == 0
    out = tmp_path / "killed.hdf5"
    command = [sys.executable, "-m", "s2robot.cli", "collect", *words, f"out={out}"]
    with open_dataset(tmp_path / "whole.hdf5") as dataset:
        fourth = dataset.episode(3).attributes["seed"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "KILLED_ON_SEED": str(fourth)}
    process = subprocess.run(command, env=environment, stderr=subprocess.DEVNULL)
    assert process.returncode == -signal.SIGKILL
    assert len(list(out.with_name(out.name + ".parts").glob("demo_*.hdf5"))) == 3
    assert not out.exists()
    assert main(["collect", *words, f"out={out}"]) == 0
    assert contents(out) == contents(tmp_path / "whole.hdf5")
