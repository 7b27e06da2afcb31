"""The encoder inside diffusion_policy's own training; `make test-diffusion-policy` runs the marked tests with it."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from snippets import snippet
from torch import nn

from s2robot.config import EncoderConfig
from s2robot.integrations.diffusion_policy import S2ObsEncoder
from s2robot.interfaces import CheckpointError, ConfigError, EncoderError

SCALES = [64, 128]
SIDE = 96  # pixels
EPOCHS = 3
META = {
    "action": {"shape": [2]},
    "obs": {"image": {"shape": [3, SIDE, SIDE], "type": "rgb"}, "agent_pos": {"shape": [2], "type": "low_dim"}},
}
ENCODER = {"backbone": "efficientnet_lite0", "scales": SCALES}


def observations(batch):
    return {"image": torch.rand(batch, 3, SIDE, SIDE) * 2 - 1, "agent_pos": torch.rand(batch, 2)}


def test_output_is_the_readouts_beside_the_vectors():
    encoder = S2ObsEncoder(META, ENCODER, {"width": 8})
    seen = observations(3)
    output = encoder(seen)
    assert output.shape == (3, *encoder.output_shape()) == (3, 10)
    torch.testing.assert_close(output[:, 8:], seen["agent_pos"])
    torch.testing.assert_close(output[:, :8], encoder.vision({"image": (seen["image"] + 1) / 2}))
    assert (encoder.device, encoder.dtype) == (torch.device("cpu"), torch.float32)


def test_the_encoder_is_out_of_reach():
    encoder = S2ObsEncoder(META, ENCODER, {"width": 8})
    copied = copy.deepcopy(encoder)
    assert copied.vision.encoder is encoder.vision.encoder
    assert copied.vision.readouts is not encoder.vision.readouts
    assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    assert sum(tensor.numel() for tensor in encoder.state_dict().values()) < 100_000
    encoder.train()
    assert not encoder.vision.encoder.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": {"scale": [64]}}, "did you mean 'scales'"),
        ({"readout": {"name": "meen"}}, "did you mean 'mean'"),
        ({"image_range": (1, 0)}, "image_range"),
        ({"shape_meta": {"obs": {"image": {"shape": [1, 96, 96], "type": "rgb"}}}}, r"rgb: \[3, H, W\]"),
        ({"shape_meta": {"obs": {"image": {"shape": [3, 96, 96], "type": "depth"}}}}, "Choices: low_dim, rgb"),
        ({"shape_meta": {"obs": {"agent_pos": {"shape": [2]}}}}, "no observation of type rgb"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        S2ObsEncoder(**{"shape_meta": META, "encoder": ENCODER, **change})


def test_images_of_another_range_are_refused():
    with pytest.raises(EncoderError, match=r"must lie in \[0, 1\]"):
        S2ObsEncoder(META, ENCODER, {"width": 8}, image_range=(0, 1))(observations(1))


def test_weights_of_another_encoder_are_refused():
    saved = S2ObsEncoder(META, ENCODER, {"width": 8, "name": "mean"}).state_dict()
    other = S2ObsEncoder(META, {**ENCODER, "scales": [64, 96], "cover": "overlap"}, {"width": 8, "name": "mean"})
    with pytest.raises(CheckpointError, match="trained on features of the encoder"):
        other.load_state_dict(saved)


class Rollouts:
    """Stands in for a simulator: diffusion_policy's runners need gym 0.21 and a robosuite fork."""

    def __new__(cls, output_dir):
        from diffusion_policy.env_runner.base_image_runner import BaseImageRunner

        class Runner(BaseImageRunner):
            def run(self, policy):
                seen = {"image": torch.rand(1, 2, 3, SIDE, SIDE), "agent_pos": torch.rand(1, 2, 2)}
                action = policy.predict_action(seen)["action"]
                return {"test/mean_score": float(action.isfinite().all() and action.shape == (1, 8, 2))}

        return Runner(output_dir)


def write_replay_buffer(path):
    """Episodes in which the action is where a bright square is, in the layout of diffusion_policy's PushT images."""
    from diffusion_policy.common.replay_buffer import ReplayBuffer

    rng = np.random.default_rng(0)
    buffer = ReplayBuffer.create_empty_zarr()
    for _ in range(6):
        track = np.linspace(rng.uniform(0, 1, 2), rng.uniform(0, 1, 2), 20)
        images = rng.integers(0, 60, (20, SIDE, SIDE, 3)).astype(np.float32)
        for image, (x, y) in zip(images, (track * (SIDE - 16)).astype(int), strict=True):
            image[y : y + 16, x : x + 16] = 255
        state = rng.uniform(0, 1, (20, 5)).astype(np.float32)
        buffer.add_episode({"img": images, "state": state, "action": track.astype(np.float32)})
    buffer.save_to_path(str(path))


def configuration(data):
    """diffusion_policy's own configuration, with the encoder as docs/integrations.md says and everything small."""
    import diffusion_policy.workspace.train_diffusion_unet_image_workspace
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    # The configurations are files of the checkout; the package's modules know where it is.
    root = Path(diffusion_policy.workspace.train_diffusion_unet_image_workspace.__file__).parents[1]
    overrides = [
        "task=pusht_image",
        f"task.dataset.zarr_path={data}",
        "task.dataset.val_ratio=0.2",
        "training.device=cpu",
        f"training.num_epochs={EPOCHS}",
        "training.max_train_steps=10",
        "training.max_val_steps=2",
        "training.rollout_every=1",
        "training.sample_every=1",
        "training.checkpoint_every=1",
        "training.lr_warmup_steps=0",
        "training.resume=false",
        "optimizer.lr=1e-3",
        "policy.num_inference_steps=5",
        "policy.down_dims=[32,64,128]",
        "logging.mode=disabled",
        *(f"{loader}.{setting}" for loader in ("dataloader", "val_dataloader") for setting in SMALL_LOADER),
    ]
    with initialize_config_dir(str(root / "config"), version_base=None):
        config = compose("train_diffusion_unet_image_workspace", overrides)
    OmegaConf.set_struct(config, False)
    config.task.env_runner = {"_target_": f"{__name__}.Rollouts"}
    config.task.image_shape = [3, SIDE, SIDE]
    written = OmegaConf.create(snippet("integrations.md", "yaml", "S2ObsEncoder"))
    written.policy.obs_encoder.encoder.scales = SCALES
    config.policy.obs_encoder = written.policy.obs_encoder
    return config


SMALL_LOADER = ("num_workers=0", "batch_size=8", "pin_memory=false")


@pytest.mark.integration
def test_trains_in_diffusion_policys_own_workspace(tmp_path):
    from diffusion_policy.workspace.train_diffusion_unet_image_workspace import TrainDiffusionUnetImageWorkspace

    from s2robot.integrations.vision import shared_encoder

    write_replay_buffer(tmp_path / "replay.zarr")
    config = configuration(tmp_path / "replay.zarr")
    shared = shared_encoder(EncoderConfig(**ENCODER))
    before = shared.encoder.tensors_hash()
    workspace = TrainDiffusionUnetImageWorkspace(config, output_dir=str(tmp_path))
    workspace.run()
    workspace._saving_thread.join()

    lines = [json.loads(line) for line in (tmp_path / "logs.json.txt").read_text().splitlines()]
    curves = {
        name: [line[name] for line in lines if "val_loss" in line]
        for name in ("train_loss", "val_loss", "train_action_mse_error", "test/mean_score")
    }
    print(f"diffusion_policy: after each epoch of 9 steps: {curves}")
    assert len(curves["train_loss"]) == EPOCHS
    assert min(curves["train_loss"][1:]) < curves["train_loss"][0]  # each is of other noise
    assert curves["test/mean_score"] == [1.0] * EPOCHS
    encoders = [workspace.model.obs_encoder, workspace.ema_model.obs_encoder]
    assert [encoder.vision.encoder is shared.encoder for encoder in encoders] == [True, True]
    assert shared.encoder.tensors_hash() == before
    # The readout trains, and its average follows it.
    first, average = (encoder.vision.readouts.state_dict()["image.compress.0.weight"] for encoder in encoders)
    assert not torch.equal(first, average)
    assert torch.allclose(first, average, atol=0.1)

    again = TrainDiffusionUnetImageWorkspace(config, output_dir=str(tmp_path))
    # Its own call without the last argument fails since PyTorch 2.6: its checkpoints hold a configuration, pickled.
    payload = again.load_checkpoint(weights_only=False)
    assert [key for key in payload["state_dicts"]["model"] if "backbone" in key] == []
    seen = {"image": torch.rand(1, 2, 3, SIDE, SIDE), "agent_pos": torch.rand(1, 2, 2)}
    actions = []
    for policy in (workspace.ema_model, again.ema_model):
        torch.manual_seed(0)
        actions.append(policy.eval().predict_action(seen)["action"])
    assert torch.equal(*actions)
