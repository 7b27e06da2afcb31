"""Training in two processes, as `accelerate launch --cpu` starts them."""

import csv
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import SMALL_DIFFUSION, make_config, make_encoder, make_workspace, train_in_processes, visible

from s2robot.checkpoint import load_checkpoint, load_policy
from s2robot.interfaces import ConfigError
from s2robot.training import make_processes, train

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 's2robot[accelerate]'")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("processes"))


# 120 windows in batches of 17: the last one is a single window, of which the second process has none
UNEVEN = {"batch_size": 17, "epochs": 1, "learning_rate": 1e-3, "warmup_steps": 0}


@pytest.fixture(scope="module")
def both(workspace):
    """The folders of one run in one process and of the same in two."""
    alone, together = workspace / "alone", workspace / "together"
    config = make_config(workspace, together, training=UNEVEN, cache_dir=str(workspace / "cache of both"))
    assert train_in_processes(config, count=2, report=workspace) == [0, 0]
    train(replace(config, output=str(alone)), make_encoder())
    return alone, together


def rows(folder):
    return load_checkpoint(folder / "checkpoint")[0].loss_curve


def test_two_processes_have_the_loss_curve_of_one_at_the_same_global_batch(both):
    for mine, theirs in zip(*map(rows, both), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    alone, together = (load_checkpoint(folder / "checkpoint")[1] for folder in both)
    assert together.keys() == alone.keys()
    differences = torch.cat([(together[name] - tensor).abs().flatten() for name, tensor in alone.items()])
    # Adam steps as far for a gradient of rounding errors as for any other, so single weights may part by a few steps.
    # Were a batch's two shares counted alike, or not at all, the mean would be 0.1 steps.
    assert differences.mean() < 0.01 * UNEVEN["learning_rate"]


def test_frames_are_encoded_once_by_the_main_process(both, workspace):
    counts = [int((workspace / f"frames_{rank}").read_text()) for rank in range(2)]
    assert counts == [300, 0]  # 5 demonstrations of 30 steps, 2 cameras


def test_a_run_of_two_processes_leaves_what_one_leaves(both):
    assert visible(both[0]) == visible(both[1]) == ["checkpoint", "log.csv", "training_state.pt"]
    policy, _, _ = load_policy(both[1] / "checkpoint", torch.device("cpu"))
    assert not policy.training


def assert_killed(codes):
    first, second = codes
    assert first == -signal.SIGKILL
    assert second != 0  # killed, or ended because the first was gone


def test_two_processes_resume_where_they_were_killed_bit_for_bit(workspace, tmp_path):
    training = {"epochs": 3, "save_every_steps": 5, "validate_every": 2}
    config = make_config(workspace, tmp_path / "killed", policy=SMALL_DIFFUSION, training=training)
    assert_killed(train_in_processes(config, count=2, kill_at=13))
    state = torch.load(tmp_path / "killed" / "training_state.pt", weights_only=True)
    assert (state["step"], len(state["losses"])) == (10, 2)
    assert train_in_processes(config, count=2) == [0, 0]
    assert train_in_processes(replace(config, output=str(tmp_path / "straight")), count=2) == [0, 0]
    (resumed, resumed_state), (straight, straight_state) = (
        load_checkpoint(tmp_path / name / "checkpoint") for name in ("killed", "straight")
    )
    assert resumed.loss_curve == straight.loss_curve
    assert all(torch.equal(resumed_state[name], tensor) for name, tensor in straight_state.items())


def test_a_run_begun_in_two_processes_goes_on_in_one(workspace, tmp_path):
    training = {"epochs": 2, "save_every_steps": 5, "learning_rate": 1e-3}
    config = make_config(workspace, tmp_path, training=training)
    assert_killed(train_in_processes(config, count=2, kill_at=11))
    train(config, make_encoder())
    whole = train(replace(config, output=str(tmp_path / "whole")), make_encoder())
    expected = load_checkpoint(whole)[0].loss_curve
    for mine, theirs in zip(rows(tmp_path), expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize(("device", "message"), [("cuda:1", "valid: auto, cpu, cuda"), ("cuda", "no usable CUDA")])
def test_a_device_that_several_processes_cannot_have_is_refused(device, message, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        make_processes(device)


def test_a_launcher_without_the_library_is_told_what_to_install(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"several processes need 'accelerate': pip install 's2robot\[accelerate\]'"):
        make_processes("cpu")


@pytest.mark.slow
def test_accelerate_launch_trains_like_one_process(workspace, tmp_path):
    script = Path(__file__).parents[1] / "train_policy.py"
    words = [
        f"dataset={workspace / 'demos.hdf5'}",
        f"cache_dir={tmp_path / 'cache'}",
        "device=cpu",
        "encoder.backbone=test_efficientnet",
        "encoder.weights=none",
        "encoder.scales=[32,64]",
        "readout=mean",
        "training.epochs=2",
        "training.batch_size=16",
    ]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--main_process_port", "0"]  # any free one
    quiet = {"capture_output": True, "text": True, "cwd": tmp_path}
    # Without `output=` it has the time in its name: both processes must agree on one.
    both = subprocess.run([*launch, script, *words], **quiet)
    assert both.returncode == 0, both.stderr
    (together,) = re.findall(r"checkpoint: (.*)/checkpoint", both.stdout)
    alone = subprocess.run([sys.executable, script, *words, "output=alone"], **quiet)
    assert alone.returncode == 0, alone.stderr

    def losses(folder):
        with (tmp_path / folder / "log.csv").open() as file:
            return [float(row["train_loss"]) for row in csv.DictReader(file)]

    assert losses(together) == pytest.approx(losses("alone"), rel=1e-3)

    failed = subprocess.run([*launch, script, *words, "policy.action_steps=31"], **quiet)
    assert failed.returncode != 0
    assert failed.stderr.count("error: dataset") == 1
    assert "policy.action_steps=31 is longer than every demonstration" in failed.stderr
