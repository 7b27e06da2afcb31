import json
import pickle
import signal
import sys
from dataclasses import replace

import pytest
import torch
from training_runs import SMALL_DIFFUSION, make_config, make_encoder, make_workspace, train_in_processes, visible

from s2robot.checkpoint import load_checkpoint
from s2robot.interfaces import ConfigError, TrainingError, differences
from s2robot.policies.bc import BCConfig
from s2robot.system.files import claimed
from s2robot.system.machine import processor_name
from s2robot.training import TrainingLoop, train
from s2robot.training.state import identity, load_state, save_state

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


def assert_equal_checkpoints(first, second):
    (mine, my_state), (other, other_state) = load_checkpoint(first), load_checkpoint(second)
    assert my_state.keys() == other_state.keys()
    for name, tensor in my_state.items():
        assert torch.equal(other_state[name], tensor), name
    assert mine.loss_curve == other.loss_curve


# 40 steps, 8 an epoch: step 20, of which the state is saved, lies in the middle of the third epoch
STEPS = {"epochs": 5, "save_every_steps": 20, "validate_every": 2}


@pytest.mark.parametrize(
    ("policy", "changes"),
    [
        (BCConfig(hidden=[32], dropout=0.1), {}),
        (SMALL_DIFFUSION, {"num_shifts": 1}),
        (BCConfig(hidden=[32]), {"precision": "fp16"}),
    ],
    ids=["bc with dropout", "diffusion_unet on shifted frames", "fp16"],
)
def test_40_steps_are_20_then_kill_9_between_saves_then_20_bit_for_bit(workspace, encoder, tmp_path, policy, changes):
    config = make_config(workspace, tmp_path / "killed", policy=policy, training={**STEPS, **changes})
    assert train_in_processes(config, kill_at=27) == [-signal.SIGKILL]
    assert not (tmp_path / "killed" / "checkpoint").exists()
    state = torch.load(tmp_path / "killed" / "training_state.pt", weights_only=True)
    assert (state["step"], len(state["losses"]), len(state["rows"])) == (20, 4, 2)
    resumed = train(config, encoder)
    straight = train(replace(config, output=str(tmp_path / "straight")), encoder)
    assert load_checkpoint(straight)[0].loss_curve[-1]["step"] == 40
    assert_equal_checkpoints(resumed, straight)
    assert (tmp_path / "killed" / "log.csv").read_bytes() == (tmp_path / "straight" / "log.csv").read_bytes()


def test_a_finished_run_started_again_does_nothing_and_ends_the_same(workspace, encoder, tmp_path, monkeypatch):
    config = make_config(workspace, tmp_path, training={"epochs": 1})
    first = load_checkpoint(train(config, encoder))[1]
    monkeypatch.setattr(TrainingLoop, "_train_step", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(encoder, "forward", lambda *_: pytest.fail("encoded again"))
    again = load_checkpoint(train(config, encoder))[1]
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_a_finished_run_started_again_still_says_what_made_it(workspace, encoder, tmp_path, monkeypatch):
    config = make_config(workspace, tmp_path, training={"epochs": 1})
    document = train(config, encoder) / "config.json"
    made = document.read_bytes()
    monkeypatch.setattr(sys, "argv", ["another", "command"])
    train(config, encoder)
    assert document.read_bytes() == made
    document.write_bytes(made[:-20])  # truncated: then it is written again
    train(config, encoder)
    assert load_checkpoint(tmp_path / "checkpoint")[0].command == "another command"


def test_a_run_that_goes_on_elsewhere_says_so_and_names_both_machines(
    workspace, encoder, tmp_path, monkeypatch, capsys
):
    config = make_config(workspace, tmp_path, training={"epochs": 4, "save_every_steps": 8})
    assert train_in_processes(config, kill_at=20) == [-signal.SIGKILL]
    monkeypatch.setattr("s2robot.training.loop.machine_facts", lambda device: {"processor": "B"})
    checkpoint, _ = load_checkpoint(train(config, encoder))
    assert [machine["processor"] for machine in checkpoint.machines] == [processor_name(), "B"]
    said = f"training continues from step 16 on another kind of machine (processor B, was {processor_name()})"
    assert capsys.readouterr().err.count(said) == 1
    monkeypatch.setattr("s2robot.training.loop.machine_facts", lambda device: {"processor": "C"})
    train(config, encoder)  # nothing is left to do
    assert "kind of machine" not in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "checkpoint")[0].machines == checkpoint.machines


def test_a_state_that_names_no_machine_is_resumed(workspace, encoder, tmp_path, capsys):
    config = make_config(workspace, tmp_path, training={"epochs": 4, "save_every_steps": 8})
    train_in_processes(config, kill_at=20)
    state = torch.load(tmp_path / "training_state.pt", weights_only=True)
    del state["machines"]
    save_state(tmp_path / "training_state.pt", state)
    checkpoint, _ = load_checkpoint(train(config, encoder))
    assert [machine["processor"] for machine in checkpoint.machines] == [processor_name()]
    assert "kind of machine" not in capsys.readouterr().err


def test_a_run_started_anew_and_killed_leaves_nothing_that_passes_for_its_result(workspace, encoder, tmp_path):
    first = make_config(workspace, tmp_path, training={"epochs": 1})
    train(first, encoder)
    anew = replace(first, resume=False)
    assert train_in_processes(anew, kill_at=3) == [-signal.SIGKILL]
    assert visible(tmp_path) == ["checkpoint.old"]
    former, _ = load_checkpoint(tmp_path / "checkpoint.old")
    again, _ = load_checkpoint(train(first, encoder))
    assert len(again.loss_curve) == len(former.loss_curve) == 1
    assert visible(tmp_path) == ["checkpoint", "log.csv", "training_state.pt"]


def test_two_runs_do_not_share_an_output(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, training={"epochs": 1})
    with (
        claimed(tmp_path / ".training", AssertionError()),
        pytest.raises(TrainingError, match=r"output .* is in use by another run; choose another output"),
    ):
        train(config, encoder)
    train(config, encoder)


def test_how_often_the_state_is_saved_changes_nothing(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path / "often", training={"save_every_steps": 1})
    rare = replace(config, output=str(tmp_path / "rare"), training=replace(config.training, save_every_steps=1000))
    assert_equal_checkpoints(train(config, encoder), train(rare, encoder))


def test_other_settings_in_the_same_folder_are_refused_before_anything_is_encoded(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, training={"epochs": 1})
    train(config, encoder)
    other = replace(config, seed=1, policy=BCConfig(hidden=[8]), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(TrainingError, match=r"other settings \(policy.hidden, seed differ\).*resume=false"):
        train(other, encoder)
    assert not (tmp_path / "cache").exists()
    train(replace(other, resume=False), encoder)


def test_settings_that_change_no_weight_may_differ_on_resuming(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, training={"epochs": 1})
    train(config, encoder)
    train(replace(config, training=replace(config.training, save_every_steps=3, keep_checkpoints=0)), encoder)


def test_a_finished_run_does_not_pass_for_one_of_another_environment(workspace, encoder, tmp_path):
    """Its checkpoint is kept, and names the environment in which the policy is evaluated."""
    config = make_config(workspace, tmp_path, training={"epochs": 1}, task="Lift")
    train(config, encoder, {"task": "Lift"})
    for changes in ({"task": "Stack"}, {"task": None}, {"control_freq": 10.0}, {"gym": {"actions": "own"}}):
        (name,) = changes
        with pytest.raises(TrainingError, match=f"the finished run, but for another environment .{name}: "):
            train(replace(config, **changes), encoder, {"task": "Stack"})
    train(config, encoder, {"task": "Lift"})
    longer = replace(config, training=replace(config.training, epochs=2), task="Stack")
    assert load_checkpoint(train(longer, encoder, {"task": "Stack"}))[0].environment["task"] == "Stack"


def test_a_task_is_not_ignored_where_python_trains_without_its_environment(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, training={"epochs": 1}, task="Lift")
    with pytest.raises(ConfigError, match=r"task='Lift' needs train\(…, environment=…\)"):
        train(config, encoder)
    recorded = train(replace(config, task=None, output=str(tmp_path / "recorded")), encoder)
    assert "task" in load_checkpoint(recorded)[0].environment
    assert "task" not in load_checkpoint(train(replace(config, task="none"), encoder))[0].environment


def test_cameras_in_another_order_are_another_run(workspace, tmp_path):
    """A policy reads them in that order, so the same weights would mean other cameras."""
    cameras = {"one": "agentview", "two": "wrist"}
    first, second = (
        identity(make_config(workspace, tmp_path, cameras=dict(order)), "encoder", "data")
        for order in (cameras.items(), reversed(cameras.items()))
    )
    assert [name for name, _, _ in differences(first, second)] == ["cameras"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a state", r"training_state\.pt.*truncated or another kind of file\); delete it or give resume=false"),
        ({"step": 3}, r"training_state\.pt.*was not written by this version; delete it or give resume=false"),
        ([1], "was not written by this version"),
    ],
)
def test_damaged_training_state_is_one_clear_error(workspace, encoder, tmp_path, content, message):
    path = tmp_path / "training_state.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(TrainingError, match=message):
        train(make_config(workspace, tmp_path), encoder)


def test_truncated_training_state_is_one_clear_error(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, training={"epochs": 1})
    train(config, encoder)
    path = tmp_path / "training_state.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="truncated or another kind of file"):
        train(config, encoder)


def test_a_save_that_fails_leaves_the_state_before_it(tmp_path):
    path, run = tmp_path / "training_state.pt", {"seed": 0}
    save_state(path, {"run": run, "step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_state(path, {"run": run, "step": 2, "bad": lambda: None})
    assert load_state(path, run)["step"] == 1


def test_a_state_of_other_data_or_other_encoder_weights_is_refused(tmp_path):
    path = tmp_path / "training_state.pt"
    save_state(path, {"run": {"data": "a", "encoder weights": "x", "training": {"epochs": 1}}})
    with pytest.raises(TrainingError, match=r"\(data, training.epochs differ\)"):
        load_state(path, {"data": "b", "encoder weights": "x", "training": {"epochs": 2}})


def test_intermediate_checkpoints_are_whole_and_only_the_last_are_kept(workspace, encoder, tmp_path):
    training = {"epochs": 7, "checkpoint_every": 2, "keep_checkpoints": 2}
    final = train(make_config(workspace, tmp_path, training=training), encoder)
    kept = sorted(path.name for path in tmp_path.glob("epoch_*"))
    assert kept == ["epoch_00004", "epoch_00006"]
    checkpoint, state = load_checkpoint(tmp_path / "epoch_00006" / "checkpoint")
    assert [row["epoch"] for row in checkpoint.loss_curve] == [1, 2, 3, 4, 5, 6]
    assert not torch.equal(state["head.0.weight"], load_checkpoint(final)[1]["head.0.weight"])


def test_pruning_keeps_what_else_lies_beside_an_intermediate_checkpoint(workspace, encoder, tmp_path):
    training = {"epochs": 3, "checkpoint_every": 1, "keep_checkpoints": 1}
    (tmp_path / "epoch_00001").mkdir()
    (tmp_path / "epoch_00001" / "results.json").write_text(json.dumps({}))
    train(make_config(workspace, tmp_path, training=training), encoder)
    assert (tmp_path / "epoch_00001" / "results.json").exists()
    assert not (tmp_path / "epoch_00001" / "checkpoint").exists()
    assert (tmp_path / "epoch_00002" / "checkpoint").exists()


def test_keeping_none_writes_the_final_checkpoint_alone(workspace, encoder, tmp_path):
    train(
        make_config(workspace, tmp_path, training={"epochs": 2, "checkpoint_every": 1, "keep_checkpoints": 0}), encoder
    )
    assert visible(tmp_path) == ["checkpoint", "log.csv", "training_state.pt"]
