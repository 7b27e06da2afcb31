"""The transform inside TorchRL itself; `make test-torchrl` installs it, elsewhere these tests are left out."""

import pickle

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from snippets import snippet

from s2robot.integrations.shared import SharedEncoder
from s2robot.interfaces import ConfigError

pytest.importorskip("torchrl", reason="run by make test-torchrl")

from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import Compose, EnvCreator, GymWrapper, ParallelEnv, SerialEnv, ToTensorImage, TransformedEnv
from torchrl.envs.utils import check_env_specs

from s2robot.integrations.torchrl import S2Transform

try:
    from torchrl.collectors import Collector
except ImportError:  # its name in earlier versions
    from torchrl.collectors import SyncDataCollector as Collector

pytestmark = pytest.mark.integration

SETTINGS = {"backbone": "test_efficientnet", "weights": "none", "scales": (32, 64)}
SIZE = 64
KEYS = ["front", "wrist"]


class TwoCameras(gymnasium.Env):
    """Noise from two cameras, drawn from the seed; five steps an episode."""

    def __init__(self):
        image = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        vector = spaces.Box(-1, 1, (4,), np.float32)
        self.observation_space = spaces.Dict({"front": image, "wrist": image, "position": vector})
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def _look(self):
        seen = {key: self.np_random.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for key in KEYS}
        return {**seen, "position": np.full(4, self.steps / 5, np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action):
        self.steps += 1
        return self._look(), 0.0, self.steps == 5, False, {}


def make_env():
    return GymWrapper(TwoCameras())


def assert_close(seen, expected):
    """The same features; batches of other sizes are added up in another order."""
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def shared():
    return SharedEncoder(**SETTINGS)


@pytest.mark.parametrize("output", ["mean", "map", "rows"])
def test_transformed_environment_keeps_its_specs(shared, output):
    env = TransformedEnv(make_env(), S2Transform(shared, KEYS, output=output))
    check_env_specs(env)
    shape = {"mean": (128,), "map": (128, 1, 1), "rows": (128,)}[output]
    assert env.observation_spec["front"].shape == shape
    assert env.rollout(7)["next", "front"].shape == (5, *shape)


def test_features_are_those_of_the_encoder_and_the_rest_stays(shared):
    plain, env = make_env(), TransformedEnv(make_env(), S2Transform(shared, KEYS, output="map"))
    plain.set_seed(3)
    env.set_seed(3)
    images, seen = plain.reset(), env.reset()
    for key in KEYS:
        assert_close(seen[key], shared.encoder(images[key][None]).map[0])
    torch.testing.assert_close(seen["position"], images["position"])


def test_images_go_when_their_features_have_another_key(shared):
    env = TransformedEnv(make_env(), S2Transform(shared, KEYS, [("features", key) for key in KEYS]))
    check_env_specs(env)
    assert set(env.reset().keys()) & {*KEYS, "features"} == {"features"}
    kept = TransformedEnv(make_env(), S2Transform(shared, KEYS, [("features", key) for key in KEYS], del_keys=False))
    check_env_specs(kept)
    assert set(KEYS) < set(kept.reset().keys())


def test_floats_of_totensorimage_give_the_same_features(shared):
    raw = TransformedEnv(make_env(), S2Transform(shared, KEYS))
    converted = TransformedEnv(make_env(), Compose(ToTensorImage(in_keys=KEYS), S2Transform(shared, KEYS)))
    check_env_specs(converted)
    raw.set_seed(0)
    converted.set_seed(0)
    assert_close(raw.reset()["wrist"], converted.reset()["wrist"])


@pytest.mark.parametrize("batched", [SerialEnv, ParallelEnv])
def test_batched_environments_are_encoded_in_one_call(batched, monkeypatch):
    shared, calls = SharedEncoder(**SETTINGS), []
    encode_cameras = shared.encoder.encode_cameras
    monkeypatch.setattr(shared.encoder, "encode_cameras", lambda images: calls.append(1) or encode_cameras(images))
    env = TransformedEnv(batched(2, EnvCreator(make_env)), S2Transform(shared, KEYS))
    try:
        assert env.observation_spec["front"].shape == (2, 128)
        calls.clear()
        seen = env.reset()
        assert len(calls) == 1
        assert seen["front"].shape == (2, 128)
        check_env_specs(env)
    finally:
        env.close()


def test_a_collector_feeds_a_policy_with_features(shared):
    env = TransformedEnv(make_env(), S2Transform(shared, KEYS))
    policy = TensorDictModule(torch.nn.Linear(128, 2), in_keys=["front"], out_keys=["action"])
    collector = Collector(env, policy, frames_per_batch=10, total_frames=20)
    batches = list(collector)
    collector.shutdown()
    assert len(batches) == 2
    assert batches[0]["front"].shape == (10, 128)
    assert batches[0]["front"].std() > 0


def test_a_replay_buffer_of_images_gives_features(shared):
    buffer = ReplayBuffer(storage=LazyTensorStorage(8), batch_size=4, transform=S2Transform(shared, ["pixels"]))
    images = torch.randint(0, 256, (8, SIZE, SIZE, 3), dtype=torch.uint8)
    buffer.extend(TensorDict({"pixels": images, "row": torch.arange(8)}, [8]))
    sample = buffer.sample()
    expected = shared.encoder(images[sample["row"]]).map.mean((2, 3))
    assert_close(sample["pixels"], expected)


def test_cameras_may_stack_different_numbers_of_steps(shared):
    transform = S2Transform(shared, KEYS)
    shapes = {"front": (4, 2, SIZE, SIZE, 3), "wrist": (4, SIZE, SIZE, 3)}
    images = {key: torch.randint(0, 256, shape, dtype=torch.uint8) for key, shape in shapes.items()}
    seen = transform(TensorDict(dict(images), [4]))
    assert seen["front"].shape == (4, 2, 128)
    assert_close(seen["wrist"], shared.encoder(images["wrist"]).map.mean((2, 3)))


def test_the_backbone_is_no_part_of_the_transform(shared):
    transform = S2Transform(SharedEncoder(**SETTINGS), KEYS)
    assert list(transform.parameters()) == []
    assert transform.state_dict() == {}
    data = pickle.dumps(transform)
    assert len(data) < 5000
    env = TransformedEnv(make_env(), pickle.loads(data))
    assert env.reset()["front"].shape == (128,)


def test_what_cannot_be_encoded_is_refused(shared):
    with pytest.raises(ConfigError, match="unknown output 'men'; did you mean 'mean'"):
        S2Transform(shared, KEYS, output="men")
    with pytest.raises(ConfigError, match="must have equal lengths"):
        S2Transform(shared, KEYS, ["features"])
    with pytest.raises(ConfigError, match="no observation 'side'"):
        TransformedEnv(make_env(), S2Transform(shared, ["side"])).observation_spec  # noqa: B018
    with pytest.raises(ConfigError, match="'position' has shape .*not images"):
        TransformedEnv(make_env(), S2Transform(shared, ["position"])).observation_spec  # noqa: B018


def test_the_documented_snippet_rolls_out():
    names = {"env": make_env()}
    exec(snippet("integrations.md", "python", "S2Transform"), names)
    assert names["steps"].shape == (5, 640)
