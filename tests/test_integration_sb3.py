"""The extractor inside Stable-Baselines3 itself; `make test-sb3` installs it, elsewhere these tests are left out."""

import contextlib
import zipfile

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from snippets import snippet

from s2robot.integrations.gymnasium import EncodeObservation
from s2robot.integrations.shared import SharedEncoder
from s2robot.interfaces import CheckpointError, ConfigError, EncoderError, Features

pytest.importorskip("stable_baselines3", reason="run by make test-sb3")

from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from s2robot.integrations.stable_baselines3 import S2FeaturesExtractor

pytestmark = pytest.mark.integration

SETTINGS = {"backbone": "test_efficientnet", "weights": "none", "scales": (32, 64)}
SIZE = 64
GRID = np.mgrid[:SIZE, :SIZE].transpose(1, 2, 0)  # [H, W, (y, x)]


class ReachTheDot(gymnasium.Env):
    """A dot lies somewhere in the picture; the action says where. One step an episode, reward = minus the distance."""

    def __init__(self, layout="image"):
        image = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        vector = spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space = image if layout == "image" else spaces.Dict({"front.rgb": image, "arm": vector})
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.dot = self.np_random.uniform(-0.8, 0.8, 2)
        return self._look(), {}

    def step(self, action):
        return self._look(), -float(np.linalg.norm(action - self.dot)), True, False, {}

    def _look(self):
        image = np.full((SIZE, SIZE, 3), 60, np.uint8)
        centre = (self.dot + 1) / 2 * SIZE
        image[np.linalg.norm(GRID - centre, axis=-1) < 8] = (250, 40, 40)
        if isinstance(self.observation_space, spaces.Dict):
            return {"front.rgb": image, "arm": np.ones(3, np.float32)}
        return image


def kwargs(encoder, **settings):
    return {
        "features_extractor_class": S2FeaturesExtractor,
        "features_extractor_kwargs": {"encoder": encoder, "width": 16, **settings},
        "net_arch": [32],
    }


def backbone_size(shared):
    return sum(parameter.numel() for parameter in shared.encoder.parameters())


@pytest.mark.parametrize(
    ("shape", "normalize"), [((3, SIZE, SIZE), True), ((3, SIZE, SIZE), False), ((SIZE, SIZE, 3), True)]
)
def test_readout_sees_the_features_of_the_cameras_own_bytes(shape, normalize):
    images = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    space = spaces.Box(0, 255, shape, np.uint8)
    shared = SharedEncoder(**SETTINGS)
    extractor = S2FeaturesExtractor(space, shared, width=16, normalize_images=normalize)
    seen = []
    extractor.readouts[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    vector = extractor(images / 255.0 if normalize else images.float())
    expected = shared.encoder(images).map
    torch.testing.assert_close(seen[0].map, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert vector.shape == (2, extractor.features_dim)
    assert vector.requires_grad


def test_stacked_frames_get_a_vector_each():
    env = VecFrameStack(DummyVecEnv([ReachTheDot]), 2)
    model = PPO("CnnPolicy", env, policy_kwargs=kwargs(SharedEncoder(**SETTINGS)), n_steps=8, batch_size=8)
    assert model.policy.features_dim == 2 * 16
    env.reset()
    env.step([env.action_space.sample()])
    observation = torch.from_numpy(env.stackedobs if hasattr(env, "stackedobs") else env.step([np.zeros(2)])[0])
    extractor = model.policy.features_extractor
    both = extractor(observation.movedim(-1, 1) / 255.0)
    for frame in range(2):
        image = observation[..., 3 * frame : 3 * frame + 3]
        alone = extractor.readouts[0](extractor.frozen.encoder(image.contiguous()))
        torch.testing.assert_close(both[:, 16 * frame : 16 * frame + 16], alone)


def test_feature_maps_of_the_wrapper_are_read_out_without_an_encoder():
    env = EncodeObservation(ReachTheDot("dict"), SETTINGS, "map")
    extractor = S2FeaturesExtractor(env.observation_space, width=16)
    observation = {key: torch.as_tensor(value)[None] for key, value in env.reset(seed=0)[0].items()}
    vector = extractor(observation)
    torch.testing.assert_close(vector[:, :3], observation["arm"])
    expected = extractor.readouts[0](Features(observation["front.rgb"], torch.empty(1, 0, 128)))
    torch.testing.assert_close(vector[:, 3:], expected)


def test_training_leaves_the_backbone_alone_and_out_of_the_policy():
    shared = SharedEncoder(**SETTINGS)
    before = shared.encoder.tensors_hash()
    # Orthogonal initialisation, PPO's default, must not reach the backbone either.
    model = PPO("CnnPolicy", ReachTheDot(), policy_kwargs=kwargs(shared), n_steps=16, batch_size=8, n_epochs=1)
    readout = model.policy.features_extractor.readouts[0]
    first = [parameter.detach().clone() for parameter in readout.parameters()]
    model.learn(32)
    model.policy.set_training_mode(True)
    assert shared.encoder.tensors_hash() == before
    assert not shared.encoder.training
    assert any(not torch.equal(a, b) for a, b in zip(first, readout.parameters(), strict=True))
    optimised = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
    assert {id(parameter) for parameter in readout.parameters()} <= optimised
    assert not optimised & {id(parameter) for parameter in shared.encoder.parameters()}


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_saved_agent_acts_the_same_without_storing_the_backbone(algorithm, tmp_path):
    shared = SharedEncoder(**SETTINGS)
    steps = {"n_steps": 8, "batch_size": 8} if algorithm is PPO else {"buffer_size": 32, "learning_starts": 4}
    model = algorithm("MultiInputPolicy", ReachTheDot("dict"), policy_kwargs=kwargs(shared), **steps)
    model.learn(8)
    model.save(tmp_path / "agent.zip")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        assert all(
            item.file_size < 4 * backbone_size(shared) for item in archive.infolist() if "policy" in item.filename
        )
    assert sum(p.numel() for p in model.policy.parameters()) < backbone_size(shared)
    again = algorithm.load(tmp_path / "agent.zip")
    observation, _ = ReachTheDot("dict").reset(seed=5)
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], again.predict(observation, deterministic=True)[0]
    )
    model.policy.save(tmp_path / "policy.pt")
    policy = type(model.policy).load(tmp_path / "policy.pt")
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], policy.predict(observation, deterministic=True)[0]
    )


def test_actor_and_critics_share_one_encoder():
    shared = SharedEncoder(**SETTINGS)
    model = SAC("MultiInputPolicy", ReachTheDot("dict"), policy_kwargs=kwargs(shared), buffer_size=8)
    extractors = [
        model.actor.features_extractor,
        model.critic.features_extractor,
        model.critic_target.features_extractor,
    ]
    assert len({id(extractor) for extractor in extractors}) == 3
    assert all(extractor.frozen.encoder is shared.encoder for extractor in extractors)


def test_saved_agent_refuses_another_encoder(tmp_path, monkeypatch):
    model = PPO("CnnPolicy", ReachTheDot(), policy_kwargs=kwargs(SharedEncoder(**SETTINGS)), n_steps=8, batch_size=8)
    model.save(tmp_path / "agent.zip")
    monkeypatch.setattr("s2robot.encoder.encoder.FEATURES_VERSION", -1)
    with pytest.raises(ConfigError, match="saved with encoder"):
        PPO.load(tmp_path / "agent.zip")


@pytest.mark.parametrize("encoder", [SETTINGS, SharedEncoder(**SETTINGS)], ids=["settings", "shared"])
def test_weights_for_another_encoder_are_refused(encoder, tmp_path, monkeypatch):
    settings = {"policy_kwargs": kwargs(encoder), "n_steps": 8, "batch_size": 8}
    model = PPO("CnnPolicy", ReachTheDot(), **settings)
    model.save(tmp_path / "agent.zip")
    weights = model.policy.state_dict()
    PPO("CnnPolicy", ReachTheDot(), **settings).set_parameters(tmp_path / "agent.zip")
    monkeypatch.setattr("s2robot.encoder.encoder.FEATURES_VERSION", -1)
    other = PPO("CnnPolicy", ReachTheDot(), **settings)
    loads = [lambda: other.set_parameters(tmp_path / "agent.zip"), lambda: other.policy.load_state_dict(weights)]
    if encoder is SETTINGS:  # a shared encoder refuses before there are any weights
        loads.append(lambda: PPO.load(tmp_path / "agent.zip"))
    for load in loads:
        with pytest.raises(CheckpointError, match="trained on features of the encoder"):
            load()


def test_agents_saved_before_there_was_a_fingerprint_still_load():
    model = PPO("CnnPolicy", ReachTheDot(), policy_kwargs=kwargs(SETTINGS), n_steps=8, batch_size=8)
    weights = {name: value for name, value in model.policy.state_dict().items() if "fingerprint" not in name}
    assert len(weights) < len(model.policy.state_dict())
    model.policy.load_state_dict(weights)


def test_an_agent_of_a_gpu_loads_on_the_cpu(tmp_path):
    shared = SharedEncoder(**SETTINGS, device="cuda", engine="eager")
    model = PPO("CnnPolicy", ReachTheDot(), policy_kwargs=kwargs(shared), n_steps=8, batch_size=8, device="cpu")
    model.save(tmp_path / "agent.zip")
    observation, _ = ReachTheDot().reset(seed=5)
    again = PPO.load(tmp_path / "agent.zip", device="cpu")
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], again.predict(observation, deterministic=True)[0]
    )


def test_the_encoder_follows_the_policys_images(monkeypatch):
    image = spaces.Box(0, 255, (3, SIZE, SIZE), np.uint8)
    extractor = S2FeaturesExtractor(image, SharedEncoder(**SETTINGS), width=16).to("meta")  # in place of a GPU
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know this device
    frames = torch.zeros((2, 3, SIZE, SIZE), dtype=torch.uint8, device="meta")
    features = extractor.frozen({"": frames})[""]
    assert extractor.readouts[0](features).device.type == "meta"


def test_cameras_may_stack_different_numbers_of_frames():
    shapes = {"front": (SIZE, SIZE, 9), "wrist": (SIZE, SIZE, 3)}
    space = spaces.Dict({key: spaces.Box(0, 255, shape, np.uint8) for key, shape in shapes.items()})
    extractor = S2FeaturesExtractor(space, SharedEncoder(**SETTINGS), width=16)
    images = {key: torch.rand(2, *shape) for key, shape in shapes.items()}
    assert extractor(images).shape == (2, extractor.features_dim) == (2, 4 * 16)


def test_wrong_observations_are_refused():
    image = spaces.Box(0, 255, (3, SIZE, SIZE), np.uint8)
    with pytest.raises(ConfigError, match="give an encoder"):
        S2FeaturesExtractor(image)
    with pytest.raises(ConfigError, match="1 channels, but the encoder takes RGB images"):
        S2FeaturesExtractor(spaces.Box(0, 255, (1, SIZE, SIZE), np.uint8), SETTINGS)
    with pytest.raises(EncoderError, match="normalize_images=False"):
        S2FeaturesExtractor(image, SETTINGS)(torch.full((1, 3, SIZE, SIZE), 200.0))


def test_an_extractor_that_alone_is_told_that_images_are_bytes_refuses_them():
    settings = kwargs(SharedEncoder(**SETTINGS), normalize_images=False)
    steps = {"n_steps": 8, "batch_size": 8}
    model = PPO("CnnPolicy", ReachTheDot(), policy_kwargs=settings, **steps)
    with pytest.raises(EncoderError, match="fractional values: the policy .* normalize_images=False"):
        model.learn(8)
    PPO("CnnPolicy", ReachTheDot(), policy_kwargs={**settings, "normalize_images": False}, **steps).learn(8)


def rewards_of_training(seed):
    """Mean reward in six parts of a run of PPO."""
    # Random frozen features of a tiny network: enough to say where the dot is, and cheap on a CPU.
    torch.manual_seed(seed)
    shared = SharedEncoder(**{**SETTINGS, "scales": (64, 128)}, pool_to="largest")
    model = PPO(
        "CnnPolicy",
        DummyVecEnv([ReachTheDot] * 8),
        policy_kwargs={**kwargs(shared), "log_std_init": -0.5},
        n_steps=32,
        batch_size=64,
        n_epochs=6,
        learning_rate=1e-3,
        gamma=0.0,
        seed=seed,
    )
    rewards = []
    model.learn(6144, callback=lambda local, _: rewards.extend(local["rewards"]) or True)
    parts = [float(part.mean()) for part in np.array_split(rewards, 6)]
    print("mean reward in six parts of the run:", np.round(parts, 3))
    return parts


def test_ppo_learns_to_reach_the_dot_through_the_extractor():
    # Rewards are minus the distance, of which the exploration's own noise stays. How fast a run learns is chance.
    runs = (rewards_of_training(seed) for seed in range(3))
    assert any(last > 0.6 * first for first, *_, last in runs)


def test_the_documented_snippet_makes_an_agent():
    names = {"env": ReachTheDot()}
    exec(snippet("integrations.md", "python", "S2FeaturesExtractor"), names)
    action, _ = names["agent"].predict(names["env"].reset(seed=0)[0])
    assert names["env"].action_space.contains(action)
