"""Several datasets in one run: compared, joined, weighed; each number is that of its own file."""

import json
import re
import signal
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from helpers import PooledPixels, make_episode
from training_runs import make_config, make_encoder, train_in_processes

from s2robot.checkpoint import load_checkpoint
from s2robot.cli.overrides import quote_paths
from s2robot.cli.words import compose
from s2robot.config import TrainConfig
from s2robot.data import RobomimicWriter, open_dataset
from s2robot.feature_cache import list_entries
from s2robot.interfaces import ConfigError, DatasetError, TrainingError
from s2robot.policies.bc import BCConfig
from s2robot.policies.knn import KNNConfig
from s2robot.training import prepare, train
from s2robot.training.data import Batches, shares_of
from s2robot.training.processes import make_processes
from s2robot.training.several import cached, opened, plan_all
from s2robot.training.state import identity

ENVIRONMENT = {"task": "Lift", "cameras": ["agentview", "wrist"], "image_size": 16, "horizon": 20}
FILES = {"a.hdf5": (9, 30, 12, 11, 8), "b.hdf5": (40, 7, 10)}
FIRST_SEED = {"a.hdf5": 0, "b.hdf5": 100}


def write(path, lengths, first_seed=0, change=lambda episode: episode, **env_args):
    described = {"env_name": "Lift", "type": 1, "env_kwargs": {}, "s2robot": ENVIRONMENT, **env_args}
    with RobomimicWriter(path, described) as writer:
        for seed, length in enumerate(lengths, first_seed):
            writer.add(change(make_episode(length, seed)))
    return str(path)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    for name, lengths in FILES.items():
        write(folder / name, lengths, FIRST_SEED[name], collection={"seed": FIRST_SEED[name]})
        with h5py.File(folder / name, "r+") as file:
            file["mask/better"] = np.array(["demo_0", "demo_2"], dtype="S")
    return folder


def config_of(workspace, output="none", **changes):
    return make_config(
        workspace, workspace / output, **{"dataset": [str(workspace / name) for name in FILES], **changes}
    )


def plan_of(workspace, **changes):
    config = config_of(workspace, **changes)
    with opened(config) as datasets:
        return plan_all(datasets, config, PooledPixels())


def data_of(workspace, cache, **changes):
    config = config_of(workspace, cache_dir=str(cache), **changes)
    with opened(config) as datasets:
        return cached(datasets, plan_all(datasets, config, PooledPixels()), config, PooledPixels())


def test_every_window_holds_the_actions_and_the_frames_of_its_own_file(workspace, tmp_path):
    data = data_of(workspace, tmp_path)
    everything = list(range(sum(map(len, FILES.values()))))
    windows = data.windows(everything, BCConfig(observation_steps=2, action_steps=3, execute_steps=1))
    assert len(windows) == sum(map(sum, FILES.values()))
    place = 0
    for name, lengths in FILES.items():
        for seed, length in enumerate(lengths, FIRST_SEED[name]):
            episode = make_episode(length, seed)
            for step in (0, length - 1):
                batch = windows[place + step]
                np.testing.assert_array_equal(batch.actions[0, 0], episode.actions[step])
                frame = torch.from_numpy(episode.images["wrist"][step][None])
                shape, encoder = PooledPixels().feature_shape(16, 16), PooledPixels()
                np.testing.assert_array_equal(batch.observation.features["wrist"][0, -1], shape.pack(encoder(frame))[0])
            place += length


def test_the_cache_has_the_entries_that_each_file_has_alone(workspace, tmp_path):
    for name in FILES:
        alone = config_of(workspace, dataset=str(workspace / name), cache_dir=str(tmp_path))
        prepare(alone, PooledPixels())
    before = {entry.folder for entry in list_entries(tmp_path)}
    encoder = PooledPixels()
    prepare(config_of(workspace, cache_dir=str(tmp_path)), encoder)
    assert encoder.frames == 0
    assert {entry.folder for entry in list_entries(tmp_path)} == before


def test_each_dataset_is_split_and_chosen_from_as_if_alone(workspace):
    settings = {"training": {"validation_fraction": 0.34}}
    joined = plan_of(workspace, **settings)
    names = [f"{name} demo_{i}" for name, lengths in FILES.items() for i in range(len(lengths))]
    assert joined.demonstrations.names == names
    expected_training, expected_validation = [], []
    for name in FILES:
        alone = plan_of(workspace, dataset=str(workspace / name), **settings)
        expected_training += [f"{name} {alone.demonstrations.names[i]}" for i in alone.training_episodes]
        expected_validation += [f"{name} {alone.demonstrations.names[i]}" for i in alone.validation_episodes]
    assert [names[i] for i in joined.training_episodes] == expected_training
    assert [names[i] for i in joined.validation_episodes] == expected_validation
    assert len(expected_validation) == 3
    chosen = plan_of(workspace, filter_key="better", training={"validation_fraction": 0.0})
    assert chosen.demonstrations.names == [f"{name} demo_{i}" for name in FILES for i in (0, 2)]
    few = plan_of(workspace, num_demonstrations=2)
    assert few.demonstrations.names == [f"{name} demo_{i}" for name in FILES for i in (0, 1)]
    assert list(few.sources) == [0, 0, 1, 1]


def test_a_choice_that_one_of_the_files_lacks_names_that_file(workspace, tmp_path):
    other = write(tmp_path / "other.hdf5", (5, 6))
    with pytest.raises(DatasetError, match=r"other\.hdf5.*unknown filter key 'better'"):
        plan_of(workspace, dataset=[str(workspace / "a.hdf5"), other], filter_key="better")


def without_wrist(episode):
    return replace(episode, images={"agentview": episode.images["agentview"]})


def smaller(episode):
    return replace(episode, images={name: images[:, :8, :8] for name, images in episode.images.items()})


def wider(episode):
    position = np.concatenate([episode.proprioception["position"]] * 2, axis=1)
    return replace(episode, proprioception={**episode.proprioception, "position": position})


def longer_actions(episode):
    return replace(episode, actions=np.concatenate([episode.actions] * 2, axis=1))


@pytest.mark.parametrize(
    ("change", "env_args", "message"),
    [
        (without_wrist, {}, "cameras (height, width).wrist: (16, 16) there, None here"),
        (smaller, {}, "cameras (height, width).agentview: (16, 16) there, (8, 8) here"),
        (wider, {}, "proprioception (width).position: 3 there, 6 here"),
        (longer_actions, {}, "action width: 4 there, 8 here"),
        (replace, {"env_kwargs": {"control_freq": 10}}, "steps per second: None there, 10 here"),
        (replace, {"env_kwargs": {"robots": "IIWA"}}, "env_args.env_kwargs.robots: None there, 'IIWA' here"),
        (replace, {"env_name": "Stack", "s2robot": {**ENVIRONMENT, "task": "Stack"}}, "environment.task: 'Lift' there"),
    ],
)
def test_files_that_do_not_agree_are_refused_with_every_difference(workspace, tmp_path, change, env_args, message):
    other = write(tmp_path / "other.hdf5", (5, 16), change=change, **env_args)
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        plan_of(workspace, dataset=[str(workspace / "a.hdf5"), other])
    assert "a.hdf5' (there)" in str(caught.value)
    assert "other.hdf5' (here)" in str(caught.value)


def test_files_whose_episodes_may_take_longer_are_trained_together(workspace, tmp_path):
    """`render` writes the horizon of each file into `env_kwargs`, because it follows the longest demonstration."""
    horizons = {"first.hdf5": 600, "second.hdf5": 1200}
    paths = [
        write(tmp_path / name, (5, 16), env_kwargs={"horizon": steps}, s2robot={**ENVIRONMENT, "horizon": steps})
        for name, steps in horizons.items()
    ]
    assert plan_of(workspace, dataset=paths).environment["horizon"] == 1200


# Weights ---------------------------------------------------------------------------------------------------------


def drawn(workspace, cache, weights, epoch, seed=0):
    data = data_of(workspace, cache, training={"validation_fraction": 0.0})
    windows = data.windows(data.plan.training_episodes, BCConfig())
    sources = data.plan.sources[windows.demonstration]
    config = config_of(workspace)
    batches = Batches(windows, config.training, seed, make_processes("cpu"), shares_of(sources, weights))
    order = np.concatenate([indices for indices, _ in batches.of_epoch(epoch)])
    return order, sources


def test_weights_are_the_shares_of_every_epoch_and_no_window_comes_twice_more_than_another(workspace, tmp_path):
    order, sources = drawn(workspace, tmp_path, [1, 3], 0)
    assert len(order) == len(sources)
    times = np.bincount(order, minlength=len(sources))
    total = len(sources)
    assert [times[sources == k].sum() for k in (0, 1)] == [round(total / 4), total - round(total / 4)]
    for k in (0, 1):
        assert np.ptp(times[sources == k]) <= 1
    again, _ = drawn(workspace, tmp_path, [1, 3], 0)
    other, _ = drawn(workspace, tmp_path, [1, 3], 1)
    np.testing.assert_array_equal(order, again)
    assert (order != other).any()


def test_without_weights_every_window_is_drawn_once(workspace, tmp_path):
    order, sources = drawn(workspace, tmp_path, None, 0)
    assert sorted(order) == list(range(len(sources)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": []}, "dataset="),
        ({"dataset": ["a", "a"]}, "each dataset once"),
        ({"dataset": ["a", 3]}, "a file or folder, or a list of them"),
        ({"dataset": "a", "dataset_weights": [1.0]}, "dataset has 1"),
        ({"dataset": ["a", "b"], "dataset_weights": [1.0]}, "dataset has 2"),
        ({"dataset": ["a", "b"], "dataset_weights": [1.0, 0.0]}, "a positive number for each"),
        ({"dataset": ["a", "b"], "dataset_weights": [1.0, float("nan")]}, "a positive number for each"),
    ],
)
def test_impossible_datasets_and_weights_are_errors_of_the_setting(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(output="", policy=BCConfig(), **settings)


def test_a_weight_that_leaves_a_dataset_no_window_is_refused_before_encoding(workspace):
    with pytest.raises(ConfigError, match=r"gives a dataset no windows: .* would get \[0, \d+\]"):
        plan_of(workspace, dataset_weights=[1.0, 1000.0])


def test_tasks_of_several_files_without_conditioning_are_told_as_those_of_one(tmp_path, caplog):
    for name in ("a", "b"):
        said = {"attributes": {"tasks": [name]}}
        write(tmp_path / f"{name}.hdf5", (9, 10), change=lambda episode, said=said: replace(episode, **said))
    plan_of(tmp_path, dataset=[str(tmp_path / "a.hdf5")])
    assert "not told which" not in caplog.text
    plan_of(tmp_path, dataset=[str(tmp_path / name) for name in ("a.hdf5", "b.hdf5")])
    assert "the datasets are of 2 tasks, and the policy is not told which" in caplog.text


def test_a_policy_that_sees_every_window_once_refuses_weights(workspace, tmp_path):
    config = config_of(workspace, output=tmp_path, policy=KNNConfig(k=2), dataset_weights=[1.0, 2.0])
    with pytest.raises(ConfigError, match="policy knn sees each training window once"):
        train(config, make_encoder())


# Runs ------------------------------------------------------------------------------------------------------------


def test_one_dataset_in_a_list_is_that_dataset(workspace, tmp_path):
    one = config_of(workspace, dataset=str(workspace / "a.hdf5"), training={"epochs": 1})
    states = []
    for name, dataset in (("plain", one.dataset), ("listed", [one.dataset])):
        checkpoint, state = load_checkpoint(
            train(replace(one, dataset=dataset, output=str(tmp_path / name)), make_encoder())
        )
        states.append(state)
        assert set(checkpoint.fingerprints) == {"encoder", "backbone", "data"}
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert "dataset_weights" not in identity(one, "encoder", "data")


def test_the_checkpoint_records_all_fingerprints_and_normalises_over_all(workspace, tmp_path):
    config = config_of(workspace, output=tmp_path, training={"epochs": 1}, dataset_weights=[1.0, 2.0])
    checkpoint, state = load_checkpoint(train(config, make_encoder()))
    for place, name in enumerate(FILES, 1):
        with open_dataset(workspace / name) as dataset:
            assert checkpoint.fingerprints[f"data {place}"] == dataset.fingerprint()
    assert len({value for name, value in checkpoint.fingerprints.items() if name.startswith("data")}) == 3
    assert checkpoint.demonstrations == 8
    assert checkpoint.config.datasets == config.dataset
    assert checkpoint.environment["task"] == "Lift"
    plan = plan_of(workspace)
    actions = np.concatenate([plan.demonstrations.actions[i] for i in plan.training_episodes])
    np.testing.assert_array_equal(state["actions.minimum"], actions.min(0))
    np.testing.assert_array_equal(state["actions.maximum"], actions.max(0))


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]], ids=["by size", "weighed"])
def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(workspace, tmp_path, weights):
    torch.set_num_threads(1)
    training = {"epochs": 4, "save_every_steps": 10}
    config = config_of(workspace, output=tmp_path / "killed", training=training, dataset_weights=weights)
    assert train_in_processes(config, kill_at=13) == [-signal.SIGKILL]
    with pytest.raises(TrainingError, match="dataset_weights differ"):
        train(replace(config, dataset_weights=[2.0, 1.0]), make_encoder())
    with pytest.raises(TrainingError, match="data differ"):
        train(replace(config, dataset=config.dataset[::-1]), make_encoder())
    resumed = load_checkpoint(train(config, make_encoder()))[1]
    straight = load_checkpoint(train(replace(config, output=str(tmp_path / "straight")), make_encoder()))[1]
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_the_command_line_takes_a_list_of_paths():
    words = ["dataset=[demos/a b.hdf5, ~/c=d.hdf5]", "dataset_weights=[1,2]", "output=x"]
    config = compose("train_policy", words)
    first, second = config.datasets
    assert first == "demos/a b.hdf5"
    assert second.endswith("/c=d.hdf5")
    assert not second.startswith("~")
    assert config.dataset_weights == [1.0, 2.0]
    assert quote_paths(["dataset=demos/[1].hdf5"]) == ["dataset='demos/[1].hdf5'"]
    assert compose("train_policy", ["dataset=demos/a.hdf5", "output=x"]).datasets == ["demos/a.hdf5"]


def test_renamed_cameras_keep_the_filter_keys(workspace):
    with open_dataset(workspace / "a.hdf5", cameras={"front": "agentview"}) as dataset:
        assert dataset.filter_keys()["better"] == ["demo_0", "demo_2"]
    assert json.dumps(plan_of(workspace, cameras={"front": "agentview"}, filter_key="better").episodes) == "[0, 2]"
