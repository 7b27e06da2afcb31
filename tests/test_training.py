import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_episode
from trained_toys import RUN_FALLS, Toy, falls, train_one_step
from training_runs import SMALL_DIFFUSION, make_config, make_encoder, make_workspace

from s2robot import S2Encoder
from s2robot.checkpoint import load_checkpoint, load_policy
from s2robot.config import EncoderConfig, ReadoutConfig, TrainingConfig
from s2robot.data import open_dataset
from s2robot.interfaces import ConfigError, DatasetError, S2RobotError, TrainingError
from s2robot.policies.bc import BCConfig, BCPolicy
from s2robot.training import plan_training, train
from s2robot.training.loop import TrainingLoop
from s2robot.training.optimization import require_precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with a dataset and a feature cache that the tests share."""
    return make_workspace(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


@pytest.fixture(scope="module")
def trained(workspace):
    return train_one_step(workspace)


def test_training_lowers_the_loss_and_the_held_out_action_error(trained):
    Toy(lambda seed: falls(trained), RUN_FALLS).check()


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


def test_seeds_differ_and_repeat(workspace, encoder, tmp_path):
    def state(seed, name):
        config = make_config(workspace, tmp_path / name, seed=seed, training={"epochs": 1})
        return load_checkpoint(train(config, encoder))[1]["head.0.weight"]

    assert torch.equal(state(0, "a"), state(0, "b"))
    assert not torch.equal(state(0, "c"), state(1, "d"))


def losses_in(precision, workspace, encoder):
    config = make_config(workspace, workspace / precision, training={"epochs": 20, "precision": precision})
    checkpoint, state = load_checkpoint(train(config, encoder))
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    return np.array([row["train_loss"] for row in checkpoint.loss_curve])


@pytest.fixture(scope="module")
def full_losses(workspace, encoder):
    return losses_in("fp32", workspace, encoder)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_like_float32_and_keeps_float32_weights(workspace, encoder, full_losses, precision):
    half = losses_in(precision, workspace, encoder)
    assert not np.array_equal(full_losses, half)
    # Rounding adds up over the epochs, and differs between processors.
    np.testing.assert_allclose(half[:3], full_losses[:3], rtol=0.05)
    assert half[-5:].mean() == pytest.approx(full_losses[-5:].mean(), rel=0.2)
    assert half[-1] < 0.8 * half[0]


def test_an_lstm_in_a_precision_that_the_cpu_lacks_is_refused_before_any_work(monkeypatch):
    def lacking(*_):
        raise RuntimeError("could not create a primitive descriptor")

    monkeypatch.setattr(torch.nn.LSTM, "forward", lacking)
    with pytest.raises(ConfigError, match=r"training.precision='fp16' is not possible for policy bc_rnn on this CPU"):
        require_precision("fp16", "bc_rnn", torch.device("cpu"))
    require_precision("fp16", "bc", torch.device("cpu"))


def test_fp16_steps_that_overflow_are_skipped_and_scaled_down(workspace, encoder, tmp_path, monkeypatch):
    def scaler(device, enabled):
        return torch.amp.grad_scaler.GradScaler(device, init_scale=2.0**32, enabled=enabled)

    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    config = make_config(workspace, tmp_path, training={"epochs": 20, "precision": "fp16"})
    rows = load_checkpoint(train(config, encoder))[0].loss_curve
    state = torch.load(tmp_path / "training_state.pt", weights_only=True)
    assert state["scaler"]["scale"] < 2.0**32
    assert state["schedule"]["last_epoch"] < state["step"] == 160  # skipped batches take no optimizer step
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_constant_schedule_keeps_the_learning_rate_after_the_warm_up(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, training={"epochs": 3, "schedule": "constant"})
    rows = load_checkpoint(train(config, encoder))[0].loss_curve
    assert [row["learning_rate"] for row in rows] == pytest.approx([3e-3] * 3)


def test_without_averaging_the_checkpoint_holds_the_weights_themselves(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, training={"epochs": 1, "ema_max_decay": 0.0})
    final = load_checkpoint(train(config, encoder))[1]
    raw = torch.load(tmp_path / "training_state.pt", weights_only=True)["policy"]
    assert all(torch.equal(raw[name], tensor) for name, tensor in final.items())


def test_shifted_copies_are_another_training_and_leave_validation_alone(workspace, encoder, tmp_path):
    def row(name, **settings):
        training = {"epochs": 1, "learning_rate": 1e-30, "warmup_steps": 0, **settings}
        checkpoint, _ = load_checkpoint(train(make_config(workspace, tmp_path / name, training=training), encoder))
        return checkpoint.loss_curve[-1]

    shifts = {"num_shifts": 2, "shift_pixels": 6}
    plain, shifted, again = row("plain"), row("a", **shifts), row("b", **shifts)
    assert shifted == again
    assert shifted["train_loss"] != plain["train_loss"]
    assert shifted["validation_loss"] == plain["validation_loss"]  # the weights have not moved


def test_fewer_demonstrations_train_on_fewer(workspace, encoder, tmp_path):
    training = {"epochs": 1, "validation_fraction": 0.0}
    config = make_config(workspace, tmp_path, num_demonstrations=2, training=training)
    assert load_checkpoint(train(config, encoder))[0].demonstrations == 2


def test_chosen_cameras_and_proprioception_are_the_policys_whole_input(workspace, encoder, tmp_path):
    chosen = {"cameras": ["wrist"], "proprioception": ["position"]}
    checkpoint = load_checkpoint(train(make_config(workspace, tmp_path, training={"epochs": 1}, **chosen), encoder))[0]
    assert list(checkpoint.spec.features) == ["wrist"]
    assert checkpoint.spec.proprioception_width == 3
    assert checkpoint.environment["cameras"] == ["wrist"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "nowhere.hdf5"}, "does not exist"),
        ({"cameras": ["front"]}, "unknown camera 'front'.*agentview, wrist"),
        ({"proprioception": ["velocity"]}, "unknown proprioception key 'velocity'"),
        ({"num_demonstrations": 6}, "has 5 demonstrations, but 6 were requested"),
        ({"num_demonstrations": 2, "training": {"validation_fraction": 0.9}}, "holds out all 2 demonstrations"),
        (
            {"policy": BCConfig(action_steps=31, execute_steps=1)},
            r"policy.action_steps=31 is longer than every demonstration \(30 to 30 steps\); choose at most 30",
        ),
    ],
)
def test_what_the_dataset_does_not_hold_is_refused_before_encoding(workspace, encoder, tmp_path, changes, message):
    config = make_config(workspace, tmp_path, **changes)
    with pytest.raises(DatasetError, match=message):
        train(replace(config, cache_dir=str(tmp_path / "cache")), encoder)
    assert not (tmp_path / "cache").exists()


def test_a_readout_that_cannot_read_the_features_is_refused_before_encoding(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, cache_dir=str(tmp_path / "cache"))
    config.readout.name = "cls"
    with pytest.raises(ConfigError, match="readout 'cls' needs a backbone with a CLS token"):
        train(config, encoder)
    assert not (tmp_path / "cache").exists()


def test_an_output_that_cannot_be_written_is_refused_before_encoding(workspace, encoder, tmp_path):
    (tmp_path / "file").touch()
    config = make_config(workspace, tmp_path / "file" / "run", cache_dir=str(tmp_path / "cache"))
    with pytest.raises(TrainingError, match="run' cannot be written: "):
        train(config, encoder)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("setting", "value", "valid"),
    [
        ("epochs", 0, "an integer of 1 or more"),
        ("save_every_steps", 0, "an integer of 1 or more"),
        ("learning_rate", 0.0, "a positive number"),
        ("gradient_clip", -1.0, "a positive number"),
        ("betas", [0.9], "two numbers in"),
        ("ema_max_decay", 1.0, r"a number in \[0, 1\)"),
        ("precision", "fp8", "fp32, bf16, fp16"),
        ("schedule", "linear", "cosine, constant"),
        ("loggers", ["mlflow"], "a list of tensorboard, wandb"),
        ("num_shifts", -1, "0 or more"),
    ],
)
def test_impossible_training_settings_name_the_valid_ones(setting, value, valid):
    with pytest.raises(ConfigError, match=rf"training\.{setting}=.* is not possible; valid: {valid}"):
        TrainingConfig(**{setting: value})


def test_unavailable_device_is_refused(workspace, tmp_path):
    with pytest.raises(S2RobotError, match="unknown device 'gpu'"):
        train(make_config(workspace, tmp_path, device="gpu"))


# Losses that are not finite -----------------------------------------------------------------------------------


def poisoned(monkeypatch, poison):
    """Add `poison(windows, parameter)` to the loss: [B] booleans of windows to poison, and a parameter."""
    target = torch.from_numpy(make_episode(30, seed=1).actions[17])  # demo_1 step 17
    loss = BCPolicy.loss

    def changed(self, batch):
        hit = (batch.actions[:, 0] == target).all(-1)
        return loss(self, batch) + poison(hit, next(self.parameters()))

    monkeypatch.setattr(BCPolicy, "loss", changed)


def test_nan_loss_names_the_epoch_the_batch_and_the_demonstration(workspace, encoder, tmp_path, monkeypatch):
    poisoned(monkeypatch, lambda hit, parameter: torch.where(hit.any(), torch.nan, 0.0))
    message = r"loss is nan at epoch 1, batch \d \(step \d\); 1 of its 16 windows cause this on their own: "
    with pytest.raises(TrainingError, match=message + r"demo_1 step 17\. Lower training.learning_rate"):
        train(make_config(workspace, tmp_path, training={"validation_fraction": 0.0}), encoder)


def test_gradients_that_are_not_finite_stop_training_before_they_reach_the_weights(
    workspace, encoder, tmp_path, monkeypatch
):
    poisoned(monkeypatch, lambda hit, parameter: hit.any() * (parameter.sum() * 0).sqrt())  # 0, its slope infinite
    seen = {}
    refuse = TrainingLoop._refuse_step

    def watch(self, *arguments):
        seen.update(self.policy.state_dict())
        refuse(self, *arguments)

    monkeypatch.setattr(TrainingLoop, "_refuse_step", watch)
    message = (
        r"gradients are not finite at epoch 1, batch \d .*no window causes this on its own, only all 16 together: demo"
    )
    with pytest.raises(TrainingError, match=message):
        train(make_config(workspace, tmp_path, training={"validation_fraction": 0.0}), encoder)
    assert all(torch.isfinite(tensor).all() for tensor in seen.values())


def test_diverging_weights_are_told_from_bad_windows(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, training={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(TrainingError, match=r"(loss is (nan|inf)|gradients are not finite) at epoch \d+, batch \d+"):
        train(config, encoder)


def test_infinite_gradients_at_every_loss_scale_stop_half_precision(workspace, encoder, tmp_path, monkeypatch):
    poisoned(monkeypatch, lambda hit, parameter: (parameter.sum() * 0).sqrt())
    with pytest.raises(TrainingError, match="gradients are not finite at epoch"):
        train(make_config(workspace, tmp_path, training={"precision": "fp16"}), encoder)


# The policy and the backbone ----------------------------------------------------------------------------------


def test_policy_loads_from_the_checkpoint_alone_with_the_averaged_weights(trained):
    policy, encoder, checkpoint = load_policy(trained, CPU)
    assert encoder.fingerprint() == checkpoint.fingerprints["encoder"]
    assert not policy.training
    stored = load_checkpoint(trained)[1]
    assert all(torch.equal(tensor, stored[name]) for name, tensor in policy.state_dict().items())
    saved = torch.load(trained.parent / "training_state.pt", weights_only=True)
    for (name, _), average in zip(policy.named_parameters(), saved["average"]["shadow_params"], strict=True):
        assert torch.equal(stored[name], average)
        assert not torch.equal(stored[name], saved["policy"][name])


def test_backbone_is_bit_identical_after_training(workspace, tmp_path):
    encoder = S2Encoder("test_efficientnet", scales=(32, 64), weights="none")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    train(make_config(workspace, tmp_path, cache_dir=str(tmp_path / "cache")), encoder)
    after = encoder.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_backbone_that_changed_is_not_passed_on(workspace, encoder, tmp_path, monkeypatch):
    finish = TrainingLoop.run

    def tamper(self):
        finish(self)
        weight = next(parameter for parameter in encoder.parameters() if parameter.dim() > 1)
        monkeypatch.setattr(weight, "data", weight + 1)

    monkeypatch.setattr(TrainingLoop, "run", tamper)
    with pytest.raises(TrainingError, match="changed during training; it must stay frozen"):
        train(make_config(workspace, tmp_path, training={"epochs": 1}), encoder)
    assert not (tmp_path / "checkpoint").exists()


def test_diffusion_noise_differs_from_step_to_step(workspace, encoder, tmp_path, monkeypatch):
    drawn = []
    randn = torch.randn_like
    monkeypatch.setattr(torch, "randn_like", lambda *a, **k: drawn.append(randn(*a, **k)) or drawn[-1])
    train(make_config(workspace, tmp_path, policy=SMALL_DIFFUSION, training={"epochs": 1}), encoder)
    assert len({tuple(noise.flatten()[:4].tolist()) for noise in drawn[:7]}) == 7


def test_a_short_demonstration_among_longer_ones_is_padded(tmp_path, encoder):
    workspace = make_workspace(tmp_path, (30, 3, 30))
    config = make_config(workspace, tmp_path / "run", training={"epochs": 1, "validation_fraction": 0.0})
    assert load_checkpoint(train(config, encoder))[0].demonstrations == 3


def test_training_seed_does_not_touch_numpy_or_the_order_of_the_dataset(workspace, encoder, tmp_path):
    state = np.random.get_state()[1].copy()
    train(make_config(workspace, tmp_path, training={"epochs": 1}), encoder)
    assert np.array_equal(np.random.get_state()[1], state)


def test_every_training_seed_holds_out_the_same_demonstrations(workspace, encoder, tmp_path):
    with open_dataset(workspace / "demos.hdf5") as dataset:
        plans = [plan_training(dataset, make_config(workspace, tmp_path, seed=seed), encoder) for seed in range(5)]
    assert len(plans[0].validation_episodes) == 1
    assert all(plan.validation_episodes == plans[0].validation_episodes for plan in plans)
    assert all(plan.training_episodes == plans[0].training_episodes for plan in plans)


def test_from_scratch_arm_trains_and_loads_from_its_checkpoint_alone(workspace, tmp_path):
    config = make_config(
        workspace,
        tmp_path,
        encoder=EncoderConfig(backbone="pixels", scales=[32]),
        readout=ReadoutConfig(name="resnet18", width=8),
        cameras=["agentview"],
        num_demonstrations=2,
        training={"epochs": 1, "batch_size": 8},
    )
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
