"""More epochs for a finished run, and a run that starts from the weights of another."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from helpers import make_episode
from training_runs import SMALL_DIFFUSION, make_config, make_encoder, make_workspace, train_in_processes

from s2robot.checkpoint import load_checkpoint, load_record
from s2robot.cli.words import compose
from s2robot.config import ReadoutConfig
from s2robot.data import RobomimicWriter
from s2robot.interfaces import CheckpointError, ConfigError, TrainingError
from s2robot.policies.bc import BCConfig
from s2robot.policies.knn import KNNConfig
from s2robot.training import train
from s2robot.training.state import identity

EPOCHS = {"epochs": 2, "validate_every": 1, "save_every_steps": 5, "keep_checkpoints": 0}  # of 8 steps each
LONGER = {**EPOCHS, "epochs": 3}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("continue"))


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


@pytest.fixture(scope="module")
def finished(workspace, encoder):
    """A finished run of the cosine schedule, which tests copy or start from."""
    return train(make_config(workspace, workspace / "finished", training=EPOCHS), encoder).parent


@pytest.fixture(scope="module")
def other_data(tmp_path_factory):
    """Demonstrations of other episodes, whose actions go twice as far."""
    path = tmp_path_factory.mktemp("other") / "demos.hdf5"
    with RobomimicWriter(path, {"env_name": "Lift", "type": 1, "env_kwargs": {}}) as writer:
        for seed in range(20, 25):
            episode = make_episode(30, seed)
            writer.add(replace(episode, actions=2 * episode.actions))
    return path


def weights(folder):
    return load_checkpoint(folder / "checkpoint")[1]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# More epochs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "changes"),
    [(BCConfig(hidden=[32], dropout=0.1), {}), (SMALL_DIFFUSION, {"warmup_steps": 20}), (None, {"precision": "fp16"})],
    ids=["bc with dropout", "diffusion_unet that ends in the warm-up", "fp16"],
)
def test_at_a_constant_rate_two_epochs_and_one_more_are_three_bit_for_bit(
    workspace, encoder, tmp_path, capsys, policy, changes
):
    constant = {**changes, "schedule": "constant"}
    config = make_config(workspace, tmp_path / "run", policy=policy, training={**EPOCHS, **constant})
    train(config, encoder)
    capsys.readouterr()
    longer = replace(config, training=replace(config.training, epochs=3))
    train(longer, encoder)
    said = capsys.readouterr().err
    assert "the finished run of 2 epochs continues to epoch 3: its learning rate stays constant" in said
    train(replace(longer, output=str(tmp_path / "straight")), encoder)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "straight"))
    assert (tmp_path / "run/log.csv").read_bytes() == (tmp_path / "straight/log.csv").read_bytes()
    records = [load_record(tmp_path / name / "checkpoint") for name in ("run", "straight")]
    assert [record.former_epochs for record in records] == [[2], []]
    assert [record.config.training.epochs for record in records] == [3, 3]


def test_the_cosine_is_that_of_the_longer_run_from_there_on_and_the_result_another(
    workspace, encoder, finished, tmp_path, capsys
):
    training = {"save_every_steps": 1000, "validate_every": 1, "keep_checkpoints": 0}
    config = make_config(workspace, tmp_path / "run", training={**training, "epochs": 2})
    train(config, encoder)
    assert same(weights(tmp_path / "run"), weights(finished))
    longer = replace(config, training=replace(config.training, epochs=3))
    train(longer, encoder)
    said = capsys.readouterr().err
    assert "now follows the cosine over 3 epochs" in said
    assert "this does not give what 3 epochs at once give" in said
    train(replace(longer, output=str(tmp_path / "straight")), encoder)
    assert not same(weights(tmp_path / "run"), weights(tmp_path / "straight"))
    continued, straight = (load_record(tmp_path / name / "checkpoint").loss_curve for name in ("run", "straight"))
    assert continued[1]["learning_rate"] == 0 < straight[1]["learning_rate"]


def test_the_first_step_of_the_longer_run_has_its_rate(workspace, encoder, tmp_path, capsys, monkeypatch):
    config = make_config(workspace, tmp_path, training=EPOCHS)
    train(config, encoder)
    rates = []
    step = torch.optim.AdamW.step

    def recording(self, *arguments, **options):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording)
    train(replace(config, training=replace(config.training, epochs=3)), encoder)
    train(make_config(workspace, tmp_path / "straight", training=LONGER), encoder)
    assert len(rates) == 8 + 24
    assert rates[:8] == rates[-8:]


def test_a_longer_run_that_is_killed_goes_on_to_the_same_result(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path / "killed", training=EPOCHS)
    for name in ("killed", "straight"):
        train(replace(config, output=str(tmp_path / name)), encoder)
    longer = replace(config, training=replace(config.training, epochs=4))
    assert train_in_processes(longer, kill_at=18) == [-signal.SIGKILL]  # before the first save of the longer run
    assert not (tmp_path / "killed/checkpoint").exists()
    assert load_record(tmp_path / "killed/checkpoint.old").config.training.epochs == 2
    assert train_in_processes(longer, kill_at=27) == [-signal.SIGKILL]
    assert torch.load(tmp_path / "killed/training_state.pt", weights_only=True)["step"] == 25
    train(longer, encoder)
    train(replace(longer, output=str(tmp_path / "straight")), encoder)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "straight"))
    assert load_record(tmp_path / "killed/checkpoint").former_epochs == [2]
    longest = replace(config, training=replace(config.training, epochs=5))
    train(longest, encoder)
    assert load_record(tmp_path / "killed/checkpoint").former_epochs == [2, 4]


def test_only_a_finished_run_gets_other_epochs_and_only_more(workspace, encoder, tmp_path):
    config = make_config(workspace, tmp_path, training={**EPOCHS, "epochs": 3})
    assert train_in_processes(config, kill_at=12) == [-signal.SIGKILL]
    refusal = r"\(training.epochs differ; only a finished run can get other epochs, and only more\).*resume=false"
    for epochs in (2, 4):
        with pytest.raises(TrainingError, match=refusal):
            train(replace(config, training=replace(config.training, epochs=epochs)), encoder)
    train(config, encoder)
    with pytest.raises(TrainingError, match=refusal):
        train(replace(config, training=replace(config.training, epochs=2)), encoder)
    with pytest.raises(TrainingError, match=r"\(seed, training.epochs differ\)"):
        train(replace(config, seed=1, training=replace(config.training, epochs=4)), encoder)


# From the weights of another run -----------------------------------------------------------------------------------


def make_fine_tuning(workspace, finished, other_data, output, **changes):
    config = make_config(workspace, output, training=EPOCHS, dataset=str(other_data))
    return replace(config, init_from=str(finished / "checkpoint"), **changes)


def start_of(monkeypatch, config, encoder):
    """The state of a policy before its first step."""
    seen = {}

    def stop(self):
        seen.update({name: tensor.clone() for name, tensor in self.policy.state_dict().items()})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("s2robot.training.loop.TrainingLoop.run", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, encoder)
    return seen


def test_it_starts_as_the_checkpoint_with_its_statistics(
    workspace, encoder, finished, other_data, tmp_path, monkeypatch, caplog
):
    config = make_fine_tuning(workspace, finished, other_data, tmp_path)
    assert same(start_of(monkeypatch, config, encoder), weights(finished))
    assert "numbers 0, 1, 2, 3 of the new actions" in caplog.text
    assert "init_normalization=refit" in caplog.text


def test_statistics_that_are_refitted_are_those_of_the_new_data_and_everything_else_the_checkpoints(
    workspace, encoder, finished, other_data, tmp_path, monkeypatch, caplog
):
    config = make_fine_tuning(workspace, finished, other_data, tmp_path, init_normalization="refit")
    started, former = start_of(monkeypatch, config, encoder), weights(finished)
    fresh = start_of(monkeypatch, replace(config, init_from=None), encoder)
    statistics = {name for name in former if name.startswith("actions.") or ".mean" in name or ".std" in name}
    assert {"actions.minimum", "actions.maximum"} < statistics
    for name, tensor in started.items():
        assert torch.equal(tensor, (fresh if name in statistics else former)[name]), name
    assert not torch.equal(started["actions.maximum"], former["actions.maximum"])
    assert "will be clipped" not in caplog.text


def test_the_new_checkpoint_names_the_weights_that_it_started_from(workspace, encoder, finished, other_data, tmp_path):
    config = make_fine_tuning(workspace, finished, other_data, tmp_path)
    record = load_record(train(config, encoder))
    source = json.loads((finished / "checkpoint/config.json").read_text())
    assert record.initial == {
        "weights": source["sha256"],
        "data": source["fingerprints"]["data"],
        "normalization": "keep",
    }
    assert record.fingerprints["data"] != record.initial["data"]
    assert load_record(finished / "checkpoint").initial == {}
    assert not same(weights(tmp_path), weights(finished))


def test_a_killed_fine_tuning_goes_on_to_the_same_result(workspace, encoder, finished, other_data, tmp_path):
    config = make_fine_tuning(workspace, finished, other_data, tmp_path / "killed")
    assert train_in_processes(config, kill_at=12) == [-signal.SIGKILL]
    train(config, encoder)
    train(replace(config, output=str(tmp_path / "straight")), encoder)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "straight"))


def test_what_a_run_started_from_is_part_of_its_identity(workspace, encoder, finished, other_data, tmp_path):
    config = make_fine_tuning(workspace, finished, other_data, tmp_path / "run")
    train(config, encoder)
    for changes in ({"init_from": None}, {"init_normalization": "refit"}):
        with pytest.raises(TrainingError, match=r"other settings \(initial(\.\w+)? differ\)"):
            train(replace(config, **changes), encoder)
    moved = tmp_path / "moved"  # the same weights at another path are the same start
    (finished / "checkpoint").rename(moved)
    try:
        train(replace(config, init_from=str(moved)), encoder)
    finally:
        moved.rename(finished / "checkpoint")


def test_a_run_without_a_start_has_the_identity_of_before(workspace):
    run = identity(make_config(workspace, workspace), "encoder", "data")
    assert not {name for name in run if name.startswith("init")}


def test_every_difference_to_the_checkpoint_is_named(workspace, encoder, finished, other_data, tmp_path):
    config = make_fine_tuning(workspace, finished, other_data, tmp_path)
    other = replace(
        config,
        policy=BCConfig(hidden=[8], action_steps=4),
        readout=ReadoutConfig(name="mean", width=4),
        cameras=["wrist"],
        proprioception=["position"],
    )
    with pytest.raises(CheckpointError) as error:
        train(other, encoder)
    for part in (
        "policy.hidden is [32] there and [8] here",
        "policy.action_steps is 8 there and 4 here",
        "readout.width is 8 there and 4 here",
        "cameras is ['agentview', 'wrist'] there and ['wrist'] here",
        "spec.proprioception_width is 5 there and 3 here",
        "proprioception is ['extra', 'position'] there and ['position'] here",
    ):
        assert part in str(error.value)


def test_another_encoder_is_refused(workspace, finished, other_data, tmp_path):
    config = make_fine_tuning(workspace, finished, other_data, tmp_path)
    with pytest.raises(CheckpointError, match="was trained on features of encoder"):
        train(replace(config, encoder=replace(config.encoder, scales=[32])))


def test_knn_has_nothing_to_start_from(workspace, encoder, finished, other_data, tmp_path):
    config = make_fine_tuning(workspace, finished, other_data, tmp_path)
    with pytest.raises(ConfigError, match="valid: null, because policy knn keeps its demonstrations"):
        train(replace(config, policy=KNNConfig()), encoder)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("init_normalization=some", "init_normalization='some' is not possible; valid: keep, refit"),
        ("init_normalisation=keep", "did you mean 'init_normalization'"),
    ],
)
def test_an_impossible_start_names_the_choices(word, message):
    with pytest.raises(ConfigError, match=message):
        compose("train_policy", ["dataset=d", word])


def test_a_path_with_spaces_needs_no_quotes():
    assert compose("train_policy", ["dataset=d", "init_from=~/my runs/a (1)"]).init_from.endswith("/my runs/a (1)")
