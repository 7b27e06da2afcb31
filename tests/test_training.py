import csv
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
from helpers import write_dataset

from s2robot import S2Encoder
from s2robot.checkpoint import load_checkpoint, load_policy
from s2robot.config import BCConfig, DiffusionUNetConfig, EncoderConfig, ReadoutConfig, TrainConfig, TrainingConfig
from s2robot.interfaces import ConfigError, DatasetError, S2RobotError, TrainingError
from s2robot.training import TrainingLoop, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with a dataset and a feature cache that the tests share."""
    folder = tmp_path_factory.mktemp("training")
    write_dataset(folder / "demos.hdf5", (30, 30, 30, 30, 30))
    return folder


def make_config(workspace, output, **changes) -> TrainConfig:
    config = TrainConfig(
        dataset=str(workspace / "demos.hdf5"),
        output=str(output),
        cache_dir=str(workspace / "cache"),
        device="cpu",
        encoder=EncoderConfig(backbone="test_efficientnet", scales=[32, 64], weights="none"),
        readout=ReadoutConfig(name="mean", width=8),
        policy=BCConfig(hidden=[32]),
        training=TrainingConfig(
            epochs=6, batch_size=16, learning_rate=3e-3, warmup_steps=5, validation_fraction=0.2, save_every=2
        ),
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return S2Encoder("test_efficientnet", scales=(32, 64), weights="none")


@pytest.fixture(scope="module")
def trained(workspace, encoder):
    one_step = BCConfig(hidden=[32], action_steps=1, execute_steps=1)  # the toy's next positions are noise
    config = make_config(workspace, workspace / "run", policy=one_step)
    config.training.epochs = 60
    return train(config, encoder)


def test_training_lowers_the_loss_and_the_held_out_action_error(trained):
    rows = load_checkpoint(trained)[0].loss_curve
    validated = [row for row in rows if "validation_loss" in row]
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    assert validated[-1]["validation_loss"] < 0.5 * rows[0]["train_loss"]
    assert validated[-1]["validation_action_error"] < 0.4  # actions are uniform in [-1, 1]: a constant scores 0.5


def test_log_has_one_row_per_epoch(trained):
    with (trained.parent / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 61))
    assert float(rows[-1]["learning_rate"]) < 1e-5


def test_checkpoint_records_what_it_takes_to_use_it(trained, encoder):
    checkpoint, state = load_checkpoint(trained)
    assert checkpoint.environment["task"] == "Lift"
    assert checkpoint.environment["image_size"] == {"agentview": 16, "wrist": 16}
    assert checkpoint.proprioception == ["extra", "position"]
    assert checkpoint.fingerprints["encoder"] == encoder.fingerprint()
    assert checkpoint.fingerprints["backbone"] == encoder.backbone.weights_hash()
    assert checkpoint.demonstrations == 5
    assert "torch" in checkpoint.versions
    assert not any("backbone" in name for name in state)  # the frozen model is named, not stored


def run_and_die(config, epochs):
    """Train, and be killed in the middle of a later epoch."""
    step = TrainingLoop._train_epoch

    def dying(self):
        if self._epoch == epochs:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self)

    TrainingLoop._train_epoch = dying
    torch.manual_seed(0)
    train(config, S2Encoder("test_efficientnet", scales=(32, 64), weights="none"))


@pytest.mark.parametrize("policy", ["bc", "diffusion_unet"])
def test_killed_training_resumes_to_the_same_weights_bit_for_bit(workspace, encoder, tmp_path, policy):
    torch.manual_seed(0)  # the weights of `encoder` are random but seeded: the child process makes the same ones
    config = make_config(workspace, tmp_path / "killed")
    if policy == "diffusion_unet":
        small = DiffusionUNetConfig(down_dims=[16], groups=4, train_timesteps=5, inference_steps=5)
        config = replace(config, policy=small, training=replace(config.training, epochs=4))
    process = multiprocessing.get_context("spawn").Process(target=run_and_die, args=(config, 3))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "checkpoint").exists()
    resumed = load_checkpoint(train(config, encoder))
    straight = load_checkpoint(train(replace(config, output=str(tmp_path / "straight")), encoder))
    assert resumed[1].keys() == straight[1].keys()
    for name, tensor in straight[1].items():
        assert torch.equal(resumed[1][name], tensor), name
    assert resumed[0].loss_curve == straight[0].loss_curve


def test_other_settings_in_the_same_folder_are_refused(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path)
    config.training.epochs = 1
    train(config, encoder)
    with pytest.raises(TrainingError, match="other settings \\(seed differ.*resume=false"):
        train(replace(config, seed=1), encoder)
    train(replace(config, seed=1, resume=False), encoder)


def test_damaged_training_state_is_one_clear_error(workspace, encoder, tmp_path):
    (tmp_path / "training_state.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match=r"training_state\.pt.*delete it or give resume=false"):
        train(make_config(workspace, tmp_path), encoder)


def test_seeds_differ_and_repeat(workspace, encoder, tmp_path):
    def state(seed, name):
        config = make_config(workspace, tmp_path / name, seed=seed)
        config.training.epochs = 1
        return load_checkpoint(train(config, encoder))[1]["head.0.weight"]

    assert torch.equal(state(0, "a"), state(0, "b"))
    assert not torch.equal(state(0, "c"), state(1, "d"))


def test_fewer_demonstrations_train_on_fewer(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, num_demonstrations=2)
    config.training.epochs = 1
    config.training.validation_fraction = 0.0
    assert load_checkpoint(train(config, encoder))[0].demonstrations == 2


def test_chosen_cameras_and_proprioception_are_the_policys_whole_input(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, cameras=["wrist"], proprioception=["position"])
    config.training.epochs = 1
    checkpoint = load_checkpoint(train(config, encoder))[0]
    assert list(checkpoint.spec.features) == ["wrist"]
    assert checkpoint.spec.proprioception_width == 3
    assert checkpoint.environment["cameras"] == ["wrist"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "nowhere.hdf5"}, "does not exist"),
        ({"cameras": ["front"]}, "unknown camera 'front'.*agentview, wrist"),
        ({"proprioception": ["velocity"]}, "unknown proprioception key 'velocity'"),
        ({"num_demonstrations": 6}, "has 5 demonstrations; 6 were asked for"),
    ],
)
def test_what_the_dataset_does_not_hold_is_refused(workspace, encoder, tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        train(make_config(workspace, tmp_path, **changes), encoder)


def test_diverging_loss_names_the_batch(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path)
    config.training.learning_rate = 1e30
    config.training.warmup_steps = 0
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at epoch \d+, batch \d+"):
        train(config, encoder)


def test_unavailable_device_is_refused(workspace, tmp_path):
    with pytest.raises(S2RobotError, match="unknown device 'gpu'"):
        train(make_config(workspace, tmp_path, device="gpu"))


def test_policy_loads_from_the_checkpoint_alone_with_the_averaged_weights(trained):
    policy, encoder, checkpoint = load_policy(trained, CPU)
    assert encoder.fingerprint() == checkpoint.fingerprints["encoder"]
    assert not policy.training
    stored = load_checkpoint(trained)[1]
    assert all(torch.equal(tensor, stored[name]) for name, tensor in policy.state_dict().items())


def test_backbone_is_bit_identical_after_training(workspace, tmp_path):
    encoder = S2Encoder("test_efficientnet", scales=(32, 64), weights="none")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    train(make_config(workspace, tmp_path, cache_dir=str(tmp_path / "cache")), encoder)
    after = encoder.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_shifted_copies_are_another_training_and_leave_validation_alone(workspace, encoder, tmp_path):
    def run(name, **settings):
        config = make_config(workspace, tmp_path / name)
        config.training = replace(config.training, epochs=1, learning_rate=1e-30, warmup_steps=0, **settings)
        return load_checkpoint(train(config, encoder))[0].loss_curve[-1]

    plain, shifted, again = run("plain"), run("a", num_shifts=2, shift_pixels=6), run("b", num_shifts=2, shift_pixels=6)
    assert shifted == again
    assert shifted["train_loss"] != plain["train_loss"]
    assert shifted["validation_loss"] == plain["validation_loss"]  # the weights have not moved


def test_from_scratch_arm_trains_and_loads_from_its_checkpoint_alone(workspace, tmp_path):
    config = make_config(
        workspace,
        tmp_path,
        encoder=EncoderConfig(backbone="pixels", scales=[32]),
        readout=ReadoutConfig(name="resnet18", width=8),
        cameras=["agentview"],
        num_demonstrations=2,
    )
    config.training = replace(config.training, epochs=1, batch_size=8)
    path = train(config)
    policy, encoder, checkpoint = load_policy(path, CPU)
    assert checkpoint.spec.features == {"agentview": encoder.feature_shape(16, 16)}
    stored = load_checkpoint(path)[1]
    assert any("trunk" in name for name in stored)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in policy.state_dict().items())


@pytest.mark.parametrize(("backbone", "readout"), [("pixels", "conv"), ("test_efficientnet", "resnet18")])
def test_pixels_and_the_network_that_reads_them_go_together(workspace, tmp_path, backbone, readout):
    with pytest.raises(
        ConfigError, match=f"readout.name='?{readout}'? is not possible; valid: resnet18 with encoder.b"
    ):
        make_config(workspace, tmp_path, encoder=EncoderConfig(backbone=backbone), readout=ReadoutConfig(name=readout))
