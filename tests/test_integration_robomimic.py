"""The encoder inside robomimic's own scripts; `make test-robomimic` runs this where robomimic is installed."""

import importlib
import json
import subprocess
import sys

import pytest
import torch
from snippets import snippet
from torch import nn

from s2robot.config import EncoderConfig
from s2robot.interfaces import CheckpointError, ConfigError
from s2robot.system.extras import MissingLibraryError

MODULE = "s2robot.integrations.robomimic"
SCALES = [64, 128]
EPOCHS = 3


def test_a_missing_robomimic_is_one_clear_error(monkeypatch):
    for name in ("robomimic", "robomimic.models.obs_core"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(MissingLibraryError, match="robomimic is not installed.*test-robomimic"):
        importlib.import_module(MODULE)


@pytest.fixture(scope="module")
def core_module():
    return importlib.import_module(MODULE)


@pytest.fixture(scope="module")
def shared():
    """The encoder that every core of these tests finds in use: it was made first and is kept."""
    from s2robot.integrations.vision import shared_encoder

    return shared_encoder(EncoderConfig("efficientnet_lite0", SCALES))


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "lift.hdf5"
    arguments = ["task=Lift", "num=5", "size=128", "render_profile=full", "workers=2", f"out={path}"]
    subprocess.run([sys.executable, "-m", "s2robot.cli", "collect", *arguments], check=True)
    return path


def rgb_settings():
    """What docs/integrations.md tells a reader to write, at this test's image size."""
    settings = json.loads(snippet("integrations.md", "json", "S2Core"))
    settings["core_kwargs"]["encoder"]["scales"] = SCALES
    return settings


def configuration(algorithm, demonstrations, output):
    config = {
        "algo_name": algorithm,
        "experiment": {
            "name": algorithm,
            "epoch_every_n_steps": 10,
            "validate": False,
            "logging": {"log_tb": False, "terminal_output_to_txt": False},
            "save": {"every_n_epochs": EPOCHS},
            "rollout": {"enabled": True, "n": 1, "horizon": 10, "rate": EPOCHS, "warmstart": 0},
            "render_video": False,
        },
        "train": {
            "data": str(demonstrations),
            "output_dir": str(output),
            "hdf5_cache_mode": "all",
            "hdf5_filter_key": "train",
            "num_data_workers": 0,
            "batch_size": 8,
            "num_epochs": EPOCHS,
            "cuda": False,
        },
        "observation": {
            "modalities": {"obs": {"rgb": ["agentview_image"], "low_dim": ["robot0_eef_pos", "robot0_gripper_qpos"]}},
            "encoder": {"rgb": rgb_settings()},
        },
    }
    rate = {"initial": 1e-3, "warmup_steps": 0}
    if algorithm == "bc":  # BC-RNN-GMM
        config["train"]["seq_length"] = 10
        config["algo"] = {"rnn": {"enabled": True, "hidden_dim": 100}, "gmm": {"enabled": True}, "actor_layer_dims": []}
        del rate["warmup_steps"]
    else:
        config["algo"] = {"unet": {"down_dims": [64, 128, 256]}, "ddpm": {"num_inference_timesteps": 10}}
    config["algo"]["optim_params"] = {"policy": {"learning_rate": rate}}
    return config


def losses(printed):
    return [float(line.split(":")[1].strip(" ,")) for line in printed.splitlines() if line.strip().startswith('"Loss"')]


@pytest.mark.integration
@pytest.mark.parametrize("algorithm", ["bc", "diffusion_policy"])
def test_trains_restores_and_rolls_out_through_robomimics_scripts(
    algorithm, core_module, shared, demonstrations, tmp_path, capsys
):
    import robomimic
    import robomimic.utils.file_utils as file_utils

    before = shared.encoder.tensors_hash()
    file = tmp_path / "config.json"
    file.write_text(json.dumps(configuration(algorithm, demonstrations, tmp_path / "out")))
    core_module.main(["train", "--config", str(file)])
    printed = capsys.readouterr().out
    trained = list((tmp_path / "out").rglob(f"models/model_epoch_{EPOCHS}*.pth"))
    assert len(trained) == 1, printed[-3000:]  # the script ends with 0 whatever happened
    curve = losses(printed)
    with capsys.disabled():
        print(f"robomimic {robomimic.__version__} {algorithm}: loss of each epoch of 10 steps: {curve}")
    assert len(curve) == EPOCHS
    assert min(curve[1:]) < curve[0]  # each is of other samples and noise
    # The cores used this very encoder; nothing has moved, replaced or switched any of it.
    assert shared.encoder.tensors_hash() == before
    assert not any(module.training or isinstance(module, nn.GroupNorm) for module in shared.encoder.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in shared.encoder.modules())

    (checkpoint,) = trained
    policy, saved = file_utils.policy_from_checkpoint(ckpt_path=str(checkpoint), device=torch.device("cpu"))
    kept = [key for nets in (saved["model"]["nets"], saved["model"].get("ema") or {}) for key in nets]
    assert [key for key in kept if "backbone" in key] == []
    assert any(key.endswith("vision.frozen.fingerprint") for key in kept)
    restored = policy.policy.nets.state_dict()
    assert all(torch.equal(restored[key], value) for key, value in saved["model"]["nets"].items())

    core_module.main(
        ["run_trained_agent", "--agent", str(checkpoint), "--n_rollouts", "1", "--horizon", "10", "--seed", "0"]
    )
    assert '"Num_Success"' in capsys.readouterr().out

    changed = json.loads(saved["config"])
    changed["observation"]["encoder"]["rgb"]["core_kwargs"]["encoder"]["scales"] = SCALES[:1]
    saved["config"] = json.dumps(changed)
    with pytest.raises(CheckpointError, match="trained on features of the encoder"):
        file_utils.policy_from_checkpoint(ckpt_dict=saved, device=torch.device("cpu"))


@pytest.mark.integration
def test_the_relu_behind_the_core_takes_nothing_away(core_module, shared):
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.models.obs_nets import obs_encoder_factory

    cameras = ["agentview_image", "robot0_eye_in_hand_image"]
    obs_utils.initialize_obs_modality_mapping_from_dict({"rgb": cameras})
    settings = {**rgb_settings(), "obs_randomizer_kwargs": {}}
    encoder = obs_encoder_factory(dict.fromkeys(cameras, (3, 128, 128)), encoder_kwargs={"rgb": settings})
    images = {camera: torch.rand(2, 3, 128, 128) for camera in cameras}
    seen = encoder(images)
    width = settings["core_kwargs"]["readout"]["width"]
    assert list(seen.shape) == [2, *encoder.output_shape()] == [2, 4 * width]
    assert (seen >= 0).all()
    assert ((seen == 0).sum() >= seen.numel() // 2).item()  # the ReLU is there
    for camera, part in zip(cameras, seen.split(2 * width, dim=1), strict=True):
        core = encoder.obs_nets[camera]
        torch.testing.assert_close(part[:, :width] - part[:, width:], core.vision({"image": images[camera]}))
        assert core.vision.encoder is shared.encoder  # one for all cameras
        assert all(parameter.requires_grad for parameter in core.parameters())


@pytest.mark.integration
@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ([3, 128, 128], {"encodr": {}}, "lack 'encoder'"),
        ([3, 128, 128], {"encoder": {"backbon": "efficientnet_lite0"}}, "did you mean 'backbone'"),
        ([3, 128, 128], {"encoder": {}, "readout": {"widht": 64}}, "did you mean 'width'"),
        ([1, 128, 128], {"encoder": {}}, r"RGB images \[3, H, W\], but the observations have shape \[1, 128, 128\]"),
    ],
)
def test_wrong_settings_are_named(core_module, shape, settings, message):
    from robomimic.utils.python_utils import extract_class_init_kwargs_from_dict

    settings = extract_class_init_kwargs_from_dict(core_module.S2Core, {"input_shape": shape, **settings})
    with pytest.raises(ConfigError, match=message):
        core_module.S2Core(**settings)


@pytest.mark.integration
def test_an_unknown_script_is_named(core_module):
    with pytest.raises(ConfigError, match="no script 'trian'"):
        core_module.main(["trian"])
