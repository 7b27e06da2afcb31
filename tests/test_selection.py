"""Which demonstrations are used: filter keys as robomimic's own scripts write them, positions, names, successes."""

import json
import re
import signal
from dataclasses import replace

import h5py
import numpy as np
import pytest
from dataset_examples import EXAMPLES
from helpers import PooledPixels, make_episode
from toy_benchmark import make_cells, run_toys, toy_config
from training_runs import make_config, make_encoder, train_in_processes

from s2robot.benchmark.stages import demonstrations_key, outcome_settings, training_key
from s2robot.checkpoint import load_checkpoint
from s2robot.cli import main
from s2robot.config import TrainConfig
from s2robot.config.selection import Selection
from s2robot.data import RobomimicWriter, open_dataset
from s2robot.data.conversion import convert_dataset
from s2robot.data.inspection import inspect_dataset
from s2robot.data.rerender import render_dataset
from s2robot.data.selection import select_episodes
from s2robot.feature_cache import BLOCK_FRAMES, cache_features, list_entries
from s2robot.interfaces import ConfigError, DatasetError, TrainingError
from s2robot.policies.bc import BCConfig
from s2robot.training import plan_training, train
from s2robot.training.state import identity

LENGTHS = (30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41)
SOLVED = (0, 1, 2, 5, 7, 8, 10, 11)
BETTER = ("demo_10", "demo_2", "demo_3", "demo_5", "demo_7")


def write_as_robomimic(file: h5py.File, key: str, demos: list[str]) -> None:
    """Store a filter key as `create_hdf5_filter_key` of robomimic's `file_utils.py` does."""
    name = f"mask/{key}"
    if name in file:
        del file[name]
    file[name] = np.array(demos, dtype="S")


def split_as_robomimic(file: h5py.File, ratio: float, filter_key: str | None = None) -> None:
    """Split as robomimic's `split_train_val.py` does: sorted as text, so demo_10 comes before demo_2."""
    listed = file["data"] if filter_key is None else [name.decode() for name in file[f"mask/{filter_key}"]]
    demos = sorted(listed)
    mask = np.zeros(len(demos))
    mask[: int(ratio * len(demos))] = 1.0
    np.random.RandomState(0).shuffle(mask)
    prefix = "" if filter_key is None else f"{filter_key}_"
    write_as_robomimic(file, f"{prefix}train", [demos[i] for i in (1 - mask).nonzero()[0]])
    write_as_robomimic(file, f"{prefix}valid", [demos[i] for i in mask.nonzero()[0]])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Twelve demonstrations of different lengths, with robomimic's filter keys."""
    folder = tmp_path_factory.mktemp("selection")
    environment = {"task": "Lift", "cameras": ["agentview", "wrist"], "image_size": 16}
    with RobomimicWriter(folder / "demos.hdf5", {"env_name": "Lift", "type": 1, "s2robot": environment}) as writer:
        for seed, length in enumerate(LENGTHS):
            episode = make_episode(length, seed)
            episode.attributes["success"] = episode.success = seed in SOLVED
            writer.add(episode)
    with h5py.File(folder / "demos.hdf5", "r+") as file:
        write_as_robomimic(file, "better", list(BETTER))
        split_as_robomimic(file, 0.25)
        split_as_robomimic(file, 0.25, "better")
    return folder


@pytest.fixture
def dataset(workspace):
    with open_dataset(workspace / "demos.hdf5") as opened:
        yield opened


def listed(dataset, key):
    return sorted(int(name.removeprefix("demo_")) for name in dataset.filter_keys()[key])


def plan_of(dataset, workspace, **changes):
    config = make_config(workspace, workspace / "none", **changes)
    plan = plan_training(dataset, config, PooledPixels())
    numbers = [int(name.removeprefix("demo_")) for name in plan.demonstrations.names]
    for number, actions in zip(numbers, plan.demonstrations.actions, strict=True):
        np.testing.assert_array_equal(actions, make_episode(LENGTHS[number], number).actions)
    return [numbers[i] for i in plan.training_episodes], [numbers[i] for i in plan.validation_episodes]


# Choosing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, range(12)),
        ({"episodes": [3, 0, "10-11"]}, (0, 3, 10, 11)),
        ({"episodes": ["demo_4", "demo_10", 2]}, (2, 4, 10)),
        ({"filter_key": "better"}, (2, 3, 5, 7, 10)),
        ({"successes_only": True}, SOLVED),
        ({"filter_key": "better", "successes_only": True}, (2, 5, 7, 10)),
        ({"filter_key": "better", "episodes": ["0-6"], "successes_only": True}, (2, 5)),
    ],
)
def test_every_setting_leaves_what_it_says_in_recorded_order(dataset, settings, expected):
    assert select_episodes(dataset, Selection(**settings)) == list(expected)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_format_is_chosen_from_by_position_and_by_name(name):
    with open_dataset(EXAMPLES[name].path) as dataset:
        assert select_episodes(dataset, Selection(episodes=["0-1"])) == [0, 1]
        assert select_episodes(dataset, Selection(episodes=[dataset.demos[1]])) == [1]
        with pytest.raises(DatasetError, match=re.escape(f"valid: positions 0 … {len(dataset) - 1}")):
            select_episodes(dataset, Selection(episodes=[len(dataset)]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filter_key": "bettter"}, "unknown filter key 'bettter'; did you mean 'better'? Choices: better, better_"),
        ({"episodes": ["10-12"]}, "'10-12' is not there; valid: positions 0 … 11"),
        ({"episodes": ["demo_12"]}, "'demo_12', which does not exist; it has demo_0, demo_1, demo_2, …, demo_11"),
        ({"episodes": [2, "0-3"]}, "episodes lists demo_2 2 times"),
        ({"episodes": [2, "demo_2"]}, "episodes lists demo_2 2 times"),
        ({"filter_key": "better", "episodes": [0]}, "episodes=[0], filter_key=better leaves none of its 12"),
        ({"episodes": [3], "successes_only": True}, "leaves none of its 12 demonstrations"),
    ],
)
def test_what_is_not_there_is_one_error_that_says_what_is(dataset, settings, message):
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        select_episodes(dataset, Selection(**settings))
    assert "demos.hdf5" in str(caught.value)


@pytest.mark.parametrize("episodes", [[], [-1], [True], [1.5], [None], ["5-3"]])
def test_episodes_that_say_nothing_are_an_error_of_the_setting(episodes):
    with pytest.raises(ConfigError, match="episodes="):
        Selection(episodes=episodes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["demo_1", "demo_99"], "filter key 'odd' lists 'demo_99', which does not exist"),
        (["demo_1", "demo_1"], "filter key 'odd' lists demo_1 2 times"),
        ([], "filter_key='odd' lists no demonstrations"),
    ],
)
def test_a_faulty_filter_key_is_an_error_only_for_who_asks_for_it(workspace, tmp_path, names, message):
    path = tmp_path / "odd.hdf5"
    path.write_bytes((workspace / "demos.hdf5").read_bytes())
    with h5py.File(path, "r+") as file:
        write_as_robomimic(file, "odd", names)
    with open_dataset(path) as dataset:
        assert select_episodes(dataset, Selection(filter_key="better")) == [2, 3, 5, 7, 10]
        with pytest.raises(DatasetError, match=re.escape(message)):
            select_episodes(dataset, Selection(filter_key="odd"))
    problems = inspect_dataset(path).problems
    assert any("odd" in problem for problem in problems) == bool(names)


def test_numbers_in_place_of_names_are_an_error_that_names_the_key(workspace, tmp_path):
    path = tmp_path / "odd.hdf5"
    path.write_bytes((workspace / "demos.hdf5").read_bytes())
    with h5py.File(path, "r+") as file:
        file["mask/odd"] = np.arange(3)
    with open_dataset(path) as dataset, pytest.raises(DatasetError, match=r"mask/odd is int64 \(3,\); valid: names"):
        dataset.filter_keys()


def test_success_that_is_not_recorded_cannot_be_chosen_by(tmp_path):
    with RobomimicWriter(tmp_path / "demos.hdf5", {}) as writer:
        writer.add(make_episode(5, 0))
    with (
        open_dataset(tmp_path / "demos.hdf5") as dataset,
        pytest.raises(DatasetError, match="demo_0: successes_only=true, but success is not recorded"),
    ):
        select_episodes(dataset, Selection(successes_only=True))


def test_splits_of_lerobot_are_filter_keys_and_one_of_everything_is_none(tmp_path):
    path = EXAMPLES["lerobot"].copy(tmp_path)
    info = path / "meta" / "info.json"
    with open_dataset(path) as dataset:
        count = len(dataset)
        assert json.loads(info.read_text())["splits"] == {"train": f"0:{count}"}  # as LeRobot wrote it
        assert dataset.filter_keys() == {}
    info.write_text(json.dumps({**json.loads(info.read_text()), "splits": {"train": f"1:{count}", "test": "0:1"}}))
    with open_dataset(path) as dataset:
        assert select_episodes(dataset, Selection(filter_key="train")) == list(range(1, count))
        assert select_episodes(dataset, Selection(filter_key="test")) == [0]


# Training --------------------------------------------------------------------------------------------------------


def test_num_demonstrations_takes_the_first_of_the_chosen(dataset, workspace):
    training, validation = plan_of(dataset, workspace, filter_key="better", num_demonstrations=4)
    assert sorted(training + validation) == [2, 3, 5, 7]
    with pytest.raises(DatasetError, match="has 12 demonstrations, of which the settings leave 5, but 6"):
        plan_of(dataset, workspace, filter_key="better", num_demonstrations=6)


def test_the_split_of_everything_chosen_is_that_of_no_choice(dataset, workspace):
    assert plan_of(dataset, workspace, episodes=["0-11"]) == plan_of(dataset, workspace)


def test_the_masks_of_robomimic_are_the_split_when_asked_for(dataset, workspace):
    train_key, valid = listed(dataset, "train"), listed(dataset, "valid")
    assert len(valid) == 3
    assert sorted(train_key + valid) == list(range(12))
    both = plan_of(dataset, workspace, filter_key="train", validation_filter_key="valid")
    assert both == (train_key, valid)
    assert plan_of(dataset, workspace, validation_filter_key="valid") == both
    few = plan_of(dataset, workspace, validation_filter_key="valid", num_demonstrations=2)
    assert few == (train_key[:2], valid)
    solved = plan_of(dataset, workspace, validation_filter_key="valid", successes_only=True)
    assert solved == ([n for n in train_key if n in SOLVED], [n for n in valid if n in SOLVED])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_filter_key": "vaild"}, "validation_filter_key: unknown filter key 'vaild'; did you mean 'valid'"),
        (
            {"filter_key": "better", "validation_filter_key": "better_valid"},
            "filter_key='better' and validation_filter_key='better_valid' both list demo_",
        ),
        (
            {"episodes": ["demo_2", "demo_10"], "validation_filter_key": "better"},
            "leave nothing to train on",
        ),
        ({"episodes": [0, 1], "validation_filter_key": "better"}, "leave nothing to validate on"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(dataset, workspace, settings, message):
    with pytest.raises(DatasetError, match=message):
        plan_of(dataset, workspace, **settings)


def test_a_choice_belongs_to_the_run_and_no_choice_leaves_its_identity_as_it_was():
    config = TrainConfig(dataset="a", output="b", policy=BCConfig())
    before = identity(config, "encoder", "data")
    new = {"episodes": [0, 1], "filter_key": "better", "successes_only": True, "validation_filter_key": "valid"}
    assert not set(new) & set(before)
    assert {"num_demonstrations", "cameras", "proprioception", "seed"} <= set(before)
    for name, value in new.items():
        assert identity(replace(config, **{name: value}), "encoder", "data") == {**before, name: value}


def test_a_choice_uses_the_same_cache_entry_and_encodes_only_its_blocks(dataset, tmp_path):
    chosen, everything = PooledPixels(), PooledPixels()
    part = cache_features(dataset, chosen, "wrist", tmp_path, episodes=[3, 10])
    ends = np.cumsum(LENGTHS)
    blocks = {row // BLOCK_FRAMES for i in (3, 10) for row in range(ends[i] - LENGTHS[i], ends[i])}
    assert chosen.frames == len(blocks) * BLOCK_FRAMES < sum(LENGTHS) / 2
    part_rows = {i: part.rows[ends[i] - LENGTHS[i] : ends[i]].copy() for i in (3, 10)}
    whole = cache_features(dataset, everything, "wrist", tmp_path)
    assert everything.frames == sum(LENGTHS) - chosen.frames
    assert len(list_entries(tmp_path)) == 1
    for i, rows in part_rows.items():
        assert rows.any()
        np.testing.assert_array_equal(whole.rows[ends[i] - LENGTHS[i] : ends[i]], rows)


def test_training_on_a_choice_is_training_on_a_file_of_only_these(workspace, tmp_path):
    """The copy of the chosen ones gives the same weights, so nothing of the others leaks in."""
    assert convert_dataset(
        workspace / "demos.hdf5", tmp_path / "demos.hdf5", selection=Selection(filter_key="better")
    ) == len(BETTER)
    encoder = make_encoder()
    training = {"epochs": 2}
    chosen = make_config(workspace, tmp_path / "chosen", training=training, filter_key="better")
    copied = make_config(tmp_path, tmp_path / "copied", training=training)
    (mine, states), (other, others) = (load_checkpoint(train(config, encoder)) for config in (chosen, copied))
    assert mine.demonstrations == other.demonstrations == len(BETTER)
    for name, tensor in states.items():  # blocks of 32 frames differ, and so the features' rounding
        np.testing.assert_allclose(tensor, others[name], rtol=0.05, atol=5e-3, err_msg=name)
    np.testing.assert_array_equal(states["actions.minimum"], others["actions.minimum"])
    assert mine.config.filter_key == "better"


def test_a_killed_run_on_a_choice_goes_on_and_refuses_another_choice(workspace, tmp_path):
    training = {"epochs": 4, "save_every_steps": 8}
    config = make_config(workspace, tmp_path, training=training, filter_key="better", num_demonstrations=4)
    assert train_in_processes(config, kill_at=12) == [-signal.SIGKILL]
    with pytest.raises(TrainingError, match=r"run with other settings \(filter_key differ\)"):
        train(replace(config, filter_key="train"), make_encoder())
    train(config, make_encoder())
    assert load_checkpoint(tmp_path / "checkpoint")[0].demonstrations == 4


# Other verbs -----------------------------------------------------------------------------------------------------


def test_copies_keep_the_filter_keys_of_what_they_hold(workspace, tmp_path, dataset):
    convert_dataset(workspace / "demos.hdf5", tmp_path / "all.hdf5")
    with open_dataset(tmp_path / "all.hdf5") as copy:
        assert {key: sorted(names) for key, names in copy.filter_keys().items()} == {
            key: sorted(names) for key, names in dataset.filter_keys().items()
        }
    convert_dataset(workspace / "demos.hdf5", tmp_path / "some.hdf5", selection=Selection(episodes=["2-5"]))
    with open_dataset(tmp_path / "some.hdf5") as copy:
        assert copy.filter_keys()["better"] == ["demo_0", "demo_1", "demo_3"]  # once demo_2, demo_3 and demo_5
        assert sorted(copy.filter_keys()["train"] + copy.filter_keys()["valid"]) == copy.demos
        np.testing.assert_array_equal(copy.episode(3).actions, dataset.episode(5).actions)


def test_a_copy_without_filter_keys_gets_our_split_as_before(tmp_path):
    path = EXAMPLES["robomimic"].copy(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["mask"]
        count = len(file["data"])
    convert_dataset(path, tmp_path / "copy.hdf5")
    with open_dataset(tmp_path / "copy.hdf5") as copy:
        assert {key: len(names) for key, names in copy.filter_keys().items()} == {"train": count, "valid": 0}


def test_what_a_lerobot_folder_cannot_keep_is_named(workspace, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    convert_dataset(workspace / "demos.hdf5", tmp_path / "folder", video=False, selection=Selection(episodes=[0, 5]))
    assert "not copied: filter key better (" in capsys.readouterr().err
    with open_dataset(tmp_path / "folder") as copy:
        assert copy.lengths == [LENGTHS[0], LENGTHS[5]]


def test_the_texts_that_a_lerobot_folder_cannot_keep_are_named(tmp_path, capsys):
    """A policy that is told its task would refuse the source, and learn the first text from the copy."""
    pytest.importorskip("pyarrow")
    with RobomimicWriter(tmp_path / "demos.hdf5", {}, fps=10) as writer:
        for seed, texts in enumerate((["one", "two"], ["three"])):
            writer.add(replace(make_episode(4, seed), attributes={"tasks": texts}))
    convert_dataset(tmp_path / "demos.hdf5", tmp_path / "folder", video=False)
    told = capsys.readouterr().err
    assert "not copied: tasks of demo_0 (a LeRobot folder gets the first of its 2 texts)" in told
    assert "demo_1" not in told


def test_an_interrupted_conversion_goes_on_only_with_the_same_choice(workspace, tmp_path, monkeypatch, capsys):
    out = tmp_path / "copy.hdf5"
    add = RobomimicWriter.add

    def dying(self, episode):
        if self.count == 2:
            raise KeyboardInterrupt
        add(self, episode)

    monkeypatch.setattr(RobomimicWriter, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        convert_dataset(workspace / "demos.hdf5", out, selection=Selection(episodes=["0-4"]))
    monkeypatch.undo()
    convert_dataset(workspace / "demos.hdf5", out, selection=Selection(episodes=["5-8"]))
    assert "2 demonstrations of an interrupted run are discarded" in capsys.readouterr().err
    with open_dataset(out) as copy:
        assert copy.lengths == list(LENGTHS[5:9])


def test_render_replays_only_what_is_chosen_and_keeps_its_filter_keys(workspace, tmp_path):
    path = tmp_path / "states.hdf5"
    with RobomimicWriter(path, {}) as writer:
        for seed in range(4):
            writer.add(replace(make_episode(5, seed), states=np.full((5, 2), seed, np.float64)))
    with h5py.File(path, "r+") as file:
        write_as_robomimic(file, "better", ["demo_3", "demo_1"])

    def replay(recordings):
        for _, states, _ in recordings:
            yield {"images": {"front": np.full((5, 16, 16, 3), states[0, 0], np.uint8)}, "proprioception": {}}

    with open_dataset(path) as source:
        chosen = select_episodes(source, Selection(filter_key="better"))
        render_dataset(source, tmp_path / "out.hdf5", {}, replay, episodes=chosen)
    with open_dataset(tmp_path / "out.hdf5") as made:
        assert [made.episode(i).images["front"].max() for i in range(len(made))] == [1, 3]
        assert made.filter_keys()["better"] == made.demos == ["demo_0", "demo_1"]


def test_inspect_lists_the_filter_keys_and_looks_at_the_chosen(workspace, capsys):
    path = str(workspace / "demos.hdf5")
    assert main(["inspect", path, "filter_key=better", "episodes=[0,2-6]"]) == 0
    text = capsys.readouterr().out
    assert "demonstrations  3, 100 steps" in text  # demo_2, demo_3 and demo_5
    for line in ("better: 5", "better_train: 4", "better_valid: 1", "train: 9", "valid: 3"):
        assert f"filter key      {line} demonstrations" in text
    assert main(["inspect", path, "filter_key=wrose"]) == 2
    assert "unknown filter key 'wrose'" in capsys.readouterr().err


# Benchmark -------------------------------------------------------------------------------------------------------

TASKS = [
    {"task": "toy", "horizon": 12},
    {"task": "toy", "horizon": 12, "episodes": ["0-2"]},
    {"task": "toy", "horizon": 12, "filter_key": "train"},
]


def test_tasks_of_a_benchmark_choose_from_the_same_demonstrations(tmp_path):
    config = toy_config(tmp_path, training_seeds=[0], videos=0, tasks=TASKS, scale_sets=[[32]], episodes=3)
    cells = make_cells(config)
    assert len({demonstrations_key(cell.task) for cell in cells}) == 1
    assert len({training_key(cell) for cell in cells}) == len({cell.name for cell in cells}) == 3
    assert len({outcome_settings(cell) for cell in cells}) == 3  # reports tell them apart, also under one name
    run_toys(config)
    documents = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("cells/*/results.json"))]
    chosen = {document["task"]: document.get("chosen_demonstrations") for document in documents}
    recorded = documents[0]["demonstrations"]
    assert chosen == {"toy": None, "toy (episodes ['0-2'])": 3, "toy (filter_key train)": round(0.9 * recorded)}
    assert "toy (filter_key train)" in (tmp_path / "report" / "report.md").read_text().replace("\\", "")
