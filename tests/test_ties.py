"""Data that records no environment, tied to one by `task=`: at training, where both are compared, or later."""

import json
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from helpers import make_episode

from s2robot.checkpoint import load_checkpoint
from s2robot.cli import main
from s2robot.cli.environment import environment_of
from s2robot.config import TrainConfig
from s2robot.data import RobomimicWriter
from s2robot.interfaces import DatasetError
from s2robot.policies.bc import BCConfig
from s2robot_envs import make_env
from s2robot_envs.errors import EnvConfigError

TASK = "gym:test_ties:Pusher-v0"
TINY = [
    *("encoder.backbone=test_efficientnet", "encoder.weights=none", "encoder.scales=[32]", "readout=mean", "policy=bc"),
    *("training.epochs=1", "training.batch_size=32", "training.validation_fraction=0", "device=cpu"),
]
LENGTH = 110


class Pusher(gymnasium.Env):
    """A dot that goes where the action says, in pixels from 0 to 512, as PushT's agent does."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.action_space = spaces.Box(0, 512, (2,), np.float32)
        picture, place = spaces.Box(0, 255, (32, 32, 3), np.uint8), spaces.Box(0, 512, (2,), np.float64)
        self.observation_space = spaces.Dict({"pixels": picture, "agent_pos": place})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(0, 512, 2)
        return self.seen(), {}

    def step(self, action):
        self.place = np.asarray(action, float)
        return self.seen(), 0.0, False, False, {"is_success": bool(self.place.min() > 300)}

    def seen(self):
        picture = np.zeros((32, 32, 3), np.uint8)
        picture[tuple(np.clip(self.place / 16, 0, 31).astype(int))] = 255
        return {"pixels": picture, "agent_pos": self.place.copy()}


if "Pusher-v0" not in gymnasium.registry:
    gymnasium.register("Pusher-v0", lambda **kwargs: Pusher(**kwargs))


@pytest.fixture
def replay_buffer(tmp_path):
    """Two episodes in Diffusion Policy's layout, actions in pixels; no environment is recorded."""
    zarr = pytest.importorskip("zarr")
    rng = np.random.default_rng(0)
    count = 2 * LENGTH
    root = zarr.open_group(tmp_path / "push.zarr", mode="w", zarr_format=2)
    arrays = {
        "data/pixels": rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        "data/agent_pos": rng.uniform(0, 512, (count, 2)).astype(np.float32),
        "data/action": rng.uniform(400, 500, (count, 2)).astype(np.float32),
        "meta/episode_ends": np.array([LENGTH, count]),
    }
    for name, values in arrays.items():
        root.create_array(name, data=values)
    return tmp_path / "push.zarr"


def settings(dataset, **changes):
    return TrainConfig(dataset=str(dataset), output="", policy=BCConfig(), **changes)


def test_a_replay_buffer_is_trained_for_an_environment_and_evaluated_in_it(replay_buffer, tmp_path):
    run = tmp_path / "run"
    words = [f"dataset={replay_buffer}", f"output={run}", f"cache_dir={tmp_path}/cache", *TINY]
    assert main(["train", *words, f"task={TASK}", "gym.actions=own"]) == 0
    environment = load_checkpoint(run / "checkpoint")[0].environment
    assert (environment["task"], environment["gym"], environment["horizon"]) == (TASK, {"actions": "own"}, 200)
    assert main(["evaluate", f"checkpoint={run}/checkpoint", "episodes=2", "videos=0", "num_envs=1", "device=cpu"]) == 0
    # All recorded actions are beyond 300, where the task is solved; squeezed to [-1, 1], none would be.
    assert json.loads((run / "results.json").read_text())["successes"] == 2


def test_a_policy_without_an_environment_is_given_one_at_evaluation(replay_buffer, tmp_path, capsys):
    run = tmp_path / "run"
    words = [f"dataset={replay_buffer}", f"output={run}", f"cache_dir={tmp_path}/cache", *TINY]
    assert main(["train", *words]) == 0
    evaluation = [f"checkpoint={run}/checkpoint", "episodes=2", "videos=0", "num_envs=1", "device=cpu", "horizon=20"]
    capsys.readouterr()
    assert main(["evaluate", *evaluation]) == 2
    assert "to evaluate it in simulation, name an environment, such as task=Lift" in capsys.readouterr().err
    assert main(["evaluate", *evaluation, f"task={TASK}", "gym.actions={low: 0, high: 512}"]) == 0
    results = json.loads((run / "results.json").read_text())
    assert (results["successes"], results["environment"]["gym"]) == (2, {"actions": {"low": 0, "high": 512}})


def test_an_environment_of_gymnasium_that_others_recorded_is_named_with_its_settings(tmp_path, capsys):
    """As Minari and robomimic record it; it may need a package to be imported, so that it is not made by itself."""
    kwargs = {"obs_type": "pixels"}
    with RobomimicWriter(tmp_path / "demos.hdf5", {"env_name": "Pusher-v0", "type": 2, "env_kwargs": kwargs}) as writer:
        writer.add(make_episode(4, 0))
    assert environment_of(settings(tmp_path / "demos.hdf5")) is None
    assert (
        """give task=gym:Pusher-v0 'gym.kwargs={"obs_type": "pixels"}', or task=gym:<module>"""
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "the environment's own actions go from [0.0, 0.0] to [512.0, 512.0]; give gym.actions=own"),
        ({"gym": {"actions": "own", "proprioception": {"place": "agent_pos"}}}, "unknown observation 'agent_pos'"),
        ({"gym": {"actions": "own", "proprioception": {"agent_pos": ["agent_pos", 0, 1]}}}, "agent_pos has 2 numbers"),
        ({"gym": {"actions": "own"}, "cameras": {"front": "pixels"}}, "unknown camera 'front'. Choices: pixels"),
    ],
)
def test_what_does_not_fit_is_one_error_before_training(replay_buffer, changes, message):
    with pytest.raises(DatasetError) as error:
        environment_of(settings(replay_buffer, task=TASK, **changes))
    assert message in str(error.value)


def test_actions_out_of_the_range_of_a_mapping_are_named(replay_buffer, capsys):
    assert environment_of(settings(replay_buffer, task=TASK, gym={"actions": {"low": 0, "high": 450}}))
    assert "actions out of range, which the environment cuts off: actions[0] from 400" in capsys.readouterr().err


@pytest.mark.parametrize("given", [{"actions": "own"}, {"actions": {"low": [0, 0], "high": [512, 512]}}])
def test_own_units_and_their_bounds_mean_the_same(given):
    env = make_env(TASK, cameras=(), horizon=5, gym=given)
    np.testing.assert_array_equal((env.action_space.low, env.action_space.high), ([0, 0], [512, 512]))
    env.reset(seed=0)
    observation, *_ = env.step(np.array([17.0, 600.0]))
    np.testing.assert_array_equal(observation["agent_pos"], [17, 512])
    assert env.env_args()["s2robot"]["gym"]["actions"] == given["actions"]
    env.close()


def test_without_the_option_actions_and_description_are_as_before():
    env = make_env(TASK, cameras=(), horizon=5)
    env.reset(seed=0)
    observation, *_ = env.step(np.array([0.0, 1.0]))
    np.testing.assert_array_equal(observation["agent_pos"], [256, 512])
    assert "actions" not in env.env_args()["s2robot"]["gym"]
    env.close()


@pytest.mark.parametrize("actions", ["mine", {"low": 0}, {"low": [0, 0, 0], "high": 1}, {"low": 1, "high": 0}, 3])
def test_an_impossible_mapping_names_the_valid_ones(actions):
    with pytest.raises(EnvConfigError, match=r"gym\.actions=.* is not possible; valid: (unit, own, or|low below)"):
        make_env(TASK, cameras=(), horizon=5, gym={"actions": actions})


GUARD = """
import sys, gymnasium
class Draws(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))
    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        print("triton first:", "triton._C.libtriton" in sys.modules)
gymnasium.register("Draws-v0", lambda **kwargs: Draws(**kwargs), max_episode_steps=3)
from s2robot_envs import make_env
make_env("gym:Draws-v0", cameras=())
"""


def test_triton_is_loaded_before_an_environment_may_open_opengl():
    """dm_control's make their context when they are made or reset; Mesa before Triton ends in a segmentation fault."""
    pytest.importorskip("triton", reason="Triton is not installed here")
    done = subprocess.run([sys.executable, "-c", GUARD], capture_output=True, text=True, env=dict(os.environ))
    assert "triton first: True" in done.stdout, done.stderr


def test_an_environment_that_hides_how_it_draws_is_told_the_setting():
    """As shimmy's: they are registered with a function, which has no `metadata`."""
    gymnasium.register("Hides-v0", lambda **kwargs: Hides(**kwargs), max_episode_steps=3)
    with pytest.raises(EnvConfigError, match=r"needs gym\.kwargs\.render_mode=rgb_array"):
        make_env("gym:Hides-v0")
    env = make_env("gym:Hides-v0", image_size=16, gym={"kwargs": {"render_mode": "rgb_array"}})
    assert env.reset(seed=0)[0]["render_image"].shape == (16, 16, 3)
    env.close()
    del gymnasium.registry["Hides-v0"]


class Hides(gymnasium.Env):
    observation_space = action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)
