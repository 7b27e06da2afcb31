"""s2robot's policies inside lerobot-train; `make test-lerobot` runs the marked tests where lerobot is installed."""

import importlib
import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from snippets import ROOT, snippet

from s2robot.config import EncoderConfig
from s2robot.data import RobomimicWriter
from s2robot.interfaces import CheckpointError, ConfigError, Episode
from s2robot.system.extras import MissingLibraryError

PLUGIN = "lerobot_policy_s2robot"
SIDE = 64  # pixels
SCALES = [32, 64]
STEPS = 30


def test_a_missing_lerobot_is_one_clear_error(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "plugins" / PLUGIN)
    monkeypatch.setitem(sys.modules, "lerobot", None)
    monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
    with pytest.raises(MissingLibraryError, match=r"lerobot is not installed.*pip install 'lerobot\[training\]"):
        importlib.import_module(PLUGIN)


def square_episode(seed, length=20):
    """The action is where a bright square is; one coordinate of the state follows it, with noise."""
    rng = np.random.default_rng(seed)
    track = np.linspace(rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2), length)
    images = rng.integers(0, 60, (length, SIDE, SIDE, 3), dtype=np.uint8)
    for image, (x, y) in zip(images, ((track + 1) / 2 * (SIDE - 16)).astype(int), strict=True):
        image[y : y + 16, x : x + 16] = 255
    position = (track + rng.normal(0, 0.3, track.shape)).astype(np.float32)
    return Episode(track.astype(np.float32), {"front": images}, {"position": position})


def write_dataset(folder, episodes, *words):
    """A LeRobot dataset of these episodes; `words` are added to the conversion's command."""
    demonstrations = folder.with_suffix(".hdf5")
    with RobomimicWriter(demonstrations, {"env_name": "Squares", "type": 1, "env_kwargs": {}}) as writer:
        for episode in episodes:
            writer.add(episode)
    arguments = [f"dataset={demonstrations}", f"out={folder}", "video=false", *words]
    subprocess.run([sys.executable, "-m", "s2robot.cli", "convert", *arguments], check=True)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("demos") / "squares", [square_episode(seed) for seed in range(6)])


def documented(**changes):
    """The arguments of the command in docs/integrations.md, with some of them changed."""
    words = shlex.split(snippet("integrations.md", "sh", "policy.type=s2robot").replace("\\\n", " "))[1:]
    arguments = dict(word.removeprefix("--").split("=", 1) for word in words) | changes
    return [f"--{name}={value}" for name, value in arguments.items()]


def small(dataset, output, **changes):
    return documented(
        **{
            "dataset.root": dataset,
            "output_dir": output,
            "policy.encoder.scales": SCALES,
            "policy.device": "cpu",
            "policy.network_settings": '{"down_dims": [32, 64], "inference_steps": 5}',
            "policy.optimizer_lr": 1e-3,
            "policy.scheduler_warmup_steps": 5,
            "batch_size": 8,
            "num_workers": 0,
            "steps": STEPS,
            "log_freq": 5,
            "save_freq": STEPS,
            "seed": 0,
            **changes,
        }
    )


def train(monkeypatch, arguments):
    from lerobot.scripts import lerobot_train

    monkeypatch.setattr(sys, "argv", ["lerobot-train", *arguments])
    lerobot_train.main()


@pytest.fixture
def losses(monkeypatch):
    """The loss of every step of a training, from the policy itself: how lerobot-train prints it is its own affair."""
    from lerobot_policy_s2robot import S2RobotPolicy

    found, forward = [], S2RobotPolicy.forward

    def record(policy, *batch):
        loss, output = forward(policy, *batch)
        found.append(float(loss))
        return loss, output

    monkeypatch.setattr(S2RobotPolicy, "forward", record)
    return found


@pytest.mark.integration
def test_lerobot_finds_the_policy_by_its_name(monkeypatch):
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    assert "s2robot" in PreTrainedConfig.get_known_choices()
    assert get_policy_class("s2robot").__name__ == "S2RobotPolicy"


@pytest.mark.integration
@pytest.mark.parametrize("network", ["diffusion_unet", "bc"])
def test_trains_with_lerobot_train_and_acts_after_reloading(network, dataset, tmp_path, monkeypatch, losses):
    import lerobot
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.policies.factory import make_pre_post_processors

    from s2robot.integrations.vision import shared_encoder

    shared = shared_encoder(EncoderConfig("efficientnet_lite0", SCALES))
    before = shared.encoder.tensors_hash()
    changes = {} if network == "diffusion_unet" else {"policy.network_settings": '{"hidden": [64]}'}
    train(monkeypatch, small(dataset, tmp_path / "out", **{"policy.network": network, **changes}))
    assert len(losses) == STEPS
    curve = np.reshape(losses, (3, -1)).mean(1)  # each is of other frames and noise
    print(f"lerobot {lerobot.__version__} {network}: loss of the thirds of the training: {curve}")
    assert min(curve[1:]) < curve[0]
    assert shared.encoder.tensors_hash() == before

    from lerobot_policy_s2robot import S2RobotPolicy
    from safetensors.torch import load_file

    folder = tmp_path / "out" / "checkpoints" / "last" / "pretrained_model"
    weights = load_file(folder / "model.safetensors")
    assert [name for name in weights if "backbone" in name] == []
    policy = S2RobotPolicy.from_pretrained(folder, strict=True)
    assert policy.frozen.encoder is shared.encoder
    assert all(torch.equal(value, weights[name]) for name, value in policy.state_dict().items())

    preprocess, postprocess = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    frames = LeRobotDataset("local/squares", root=dataset, video_backend="pyav")
    actions = []
    for _ in range(2):
        policy.reset()
        torch.manual_seed(0)
        actions.append(torch.cat([postprocess(policy.select_action(preprocess(dict(frames[i])))) for i in range(10)]))
    assert torch.equal(*actions)
    assert actions[0].shape == (10, 2)
    assert (actions[0].abs() <= 1 + 1e-5).all()

    policy.config.encoder.scales = SCALES[:1]
    with pytest.raises(CheckpointError, match="trained on features of the encoder"):
        S2RobotPolicy.from_pretrained(folder, config=policy.config)


def narrow_episode(seed, length=12):
    """One number each of action and state, and two of the environment's."""
    rng = np.random.default_rng(seed)
    vectors = {"gripper": (length, 1), "environment_state": (length, 2)}
    return Episode(
        rng.uniform(-1, 1, (length, 1)).astype(np.float32),
        {"front": rng.integers(0, 256, (length, SIDE, SIDE, 3), dtype=np.uint8)},
        {key: rng.normal(size=shape).astype(np.float32) for key, shape in vectors.items()},
    )


@pytest.mark.integration
def test_single_numbers_and_the_environments_state_are_seen(tmp_path, monkeypatch):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.policies.factory import make_pre_post_processors

    keys = "proprioception=[gripper,environment_state]"
    dataset = write_dataset(tmp_path / "narrow", [narrow_episode(seed) for seed in range(2)], keys)
    frames = LeRobotDataset("local/narrow", root=dataset, video_backend="pyav")
    assert frames[0]["action"].shape == frames[0]["observation.state"].shape == ()  # LeRobot's own way
    settings = {"policy.network": "bc", "policy.network_settings": '{"hidden": [8]}', "steps": 2, "save_freq": 2}
    train(monkeypatch, small(dataset, tmp_path / "out", **settings))

    from lerobot_policy_s2robot import S2RobotPolicy

    folder = tmp_path / "out" / "checkpoints" / "last" / "pretrained_model"
    policy = S2RobotPolicy.from_pretrained(folder, strict=True)
    assert policy.network.observation.proprioception.mean.shape == (3,)
    preprocess, postprocess = make_pre_post_processors(policy.config, pretrained_path=str(folder))

    def act(frame):
        policy.reset()
        return postprocess(policy.select_action(preprocess(dict(frame))))

    action = act(frames[5])
    assert action.shape == (1, 1)
    for key in ("observation.state", "observation.environment_state"):
        assert not torch.equal(act({**frames[5], key: frames[5][key] + 1}), action), key
    key = "observation.environment_state"
    stats = frames.meta.stats[key]
    standardised = (frames[5][key] - stats["mean"]) / stats["std"]
    np.testing.assert_allclose(preprocess(dict(frames[5]))[key][0], standardised, rtol=1e-3)


@pytest.mark.integration
def test_lerobots_own_policy_trains_on_a_converted_dataset(dataset, tmp_path, monkeypatch):
    arguments = {
        "dataset.repo_id": "local/squares",
        "dataset.root": dataset,
        "output_dir": tmp_path / "out",
        "policy.type": "act",
        "policy.pretrained_backbone_weights": "null",
        "policy.chunk_size": 4,
        "policy.n_action_steps": 4,
        "policy.push_to_hub": "false",
        "policy.device": "cpu",
        "batch_size": 4,
        "num_workers": 0,
        "steps": 4,
        "log_freq": 2,
    }
    train(monkeypatch, [f"--{name}={value}" for name, value in arguments.items()])
    config = (tmp_path / "out" / "checkpoints" / "last" / "pretrained_model" / "config.json").read_text()
    assert json.loads(config)["input_features"]["observation.state"]["shape"] == [2]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "bcc"}, "did you mean 'bc'"),
        ({"network": "bc", "network_settings": {"hiden": [8]}}, "did you mean 'hidden'"),
        (
            {"network": "bc", "network_settings": {"action_normalization": "none"}},
            "LeRobot, which normalises",
        ),
        ({"network": "flow_matching", "network_settings": {"network": "transformer"}}, 'must contain "causal"'),
        ({"chunk_size": 4}, "policy.execute_steps"),
        ({"normalization_mapping": {"ACTION": "MEAN_STD"}}, r"ACTION=MEAN_STD .* choices: MIN_MAX, QUANTILES"),
        ({"normalization_mapping": {"STATE": "MEAN_STD"}}, "ACTION=IDENTITY"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    from lerobot_policy_s2robot import S2RobotConfig

    with pytest.raises(ConfigError, match=message):
        S2RobotConfig(device="cpu", **settings)


@pytest.mark.integration
def test_a_dataset_without_images_is_refused():
    from lerobot_policy_s2robot import S2RobotConfig, S2RobotPolicy

    with pytest.raises(ConfigError, match="needs images and 'action', but the dataset has nothing"):
        S2RobotPolicy(S2RobotConfig(device="cpu"))
