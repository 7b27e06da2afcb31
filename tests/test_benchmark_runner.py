"""What a benchmark's output holds after its plan was amended, cells failed, or two processes ran it."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from threading import Barrier

import pytest
from toy_benchmark import collect_toys, empty_report, make_cells, make_toys, planned_contrasts, run_toys, toy_config

from s2robot.backbones import BACKBONES
from s2robot.benchmark import make_grid, run_benchmark
from s2robot.benchmark.output import count_episodes, read_results, write_error, write_results
from s2robot.benchmark.plan import store_plan
from s2robot.benchmark.selection import select_cells
from s2robot.benchmark.sequential import make_races, next_episodes
from s2robot.benchmark.stages import Stages, outcome_settings, rollouts_key, training_key
from s2robot.cli.words import compose
from s2robot.config import ReadoutConfig, SequentialConfig, TrainingConfig
from s2robot.interfaces import ConfigError, S2RobotError
from s2robot.policies import POLICIES
from s2robot.policies.bc import BCConfig
from s2robot.policies.diffusion_unet import DiffusionUNetConfig
from s2robot.report.plan_document import PlannedContrast
from s2robot.system.registry import OUTSIDE_EXPERTS, OUTSIDE_TASKS

FREE = {"save_every_steps": 7, "checkpoint_every": 3, "keep_checkpoints": 2, "loggers": ["tensorboard"]}


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s2robot.benchmark.runner.write_report", empty_report)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Trainings and rollouts of the toy's two arms with one training seed, for all tests."""
    folder = tmp_path_factory.mktemp("store")
    run_toys(toy_config(folder, training_seeds=[0], videos=0))
    return folder


@pytest.fixture
def amended(store, tmp_path):
    """Run the toy with changed settings, into one output."""

    def run(**changes):
        config = toy_config(tmp_path, store=str(store), training_seeds=[0], amend="a test", **changes)
        run_toys(config)
        return config

    return run


def seeds(output):
    """The evaluation seeds of every cell that has results."""
    documents = [json.loads(path.read_text()) for path in sorted(output.glob("cells/*/results.json"))]
    return [[row["seed"] for row in document["episode_results"]] for document in documents]


def videos(output):
    """The seeds filmed for every cell that has results."""
    documents = [json.loads(path.read_text()) for path in sorted(output.glob("cells/*/results.json"))]
    return [{video["seed"] for video in document["videos"]} for document in documents]


def document_of(output):
    return json.loads((output / "benchmark.json").read_text())


def test_another_first_seed_runs_those_initial_states_alone(amended, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    amended(episodes=3)
    assert all(videos(tmp_path))
    amended(episodes=3, first_seed=100_200)
    assert seeds(tmp_path) == [[100_200, 100_201, 100_202]] * 2
    rows = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["initial_state"] for row in rows] == [100_200, 100_201, 100_202] * 2
    assert not set().union(*videos(tmp_path)) - {100_200, 100_201, 100_202}  # those of before are not shown
    amended(episodes=4, first_seed=100_199)  # begins before the stored ones, and contains them
    assert seeds(tmp_path) == [[100_199, 100_200, 100_201, 100_202]] * 2


def test_fewer_and_again_more_episodes_are_the_first_ones(amended, store, tmp_path):
    amended(episodes=6, videos=0)
    before = sorted(store.glob("rollouts/*/*"))
    for episodes in (2, 6):
        amended(episodes=episodes, videos=0)
        assert seeds(tmp_path) == [list(range(100_000, 100_000 + episodes))] * 2
    assert sorted(store.glob("rollouts/*/*")) == before  # nothing was rolled out again


def test_results_of_states_planned_no_more_are_not_mixed_with_those_of_others(amended, tmp_path):
    amended(episodes=2, videos=0)
    amended(episodes=2, videos=0, first_seed=100_001, cells=0)
    assert seeds(tmp_path) == [[100_001, 100_002]]
    assert len(list(tmp_path.glob("cells/*/results.unplanned.json"))) == 2  # kept, where no report looks


def test_a_race_goes_on_where_the_planned_states_end(amended, tmp_path):
    amended(episodes=2, videos=0)
    config = toy_config(tmp_path, training_seeds=[0], episodes=6, sequential=SequentialConfig(batch=1))
    cells = make_cells(config)
    races = make_races(config, planned_contrasts(config), cells)
    assert list(next_episodes(config, tmp_path, races, cells).values()) == [3, 3]
    elsewhere = replace(config, first_seed=99_999 + 2)
    assert [count_episodes(tmp_path, cell, elsewhere.first_seed) for cell in cells] == [1, 1]
    assert list(next_episodes(elsewhere, tmp_path, races, cells).values()) == [2, 2]


def test_a_failure_made_good_is_forgotten(amended, tmp_path):
    amended(episodes=2, videos=0)

    def fail(self, cell, episodes):
        if episodes > 2:
            raise S2RobotError("the simulator is gone")
        return whole(self, cell, episodes)

    whole = Stages.rollouts
    with pytest.MonkeyPatch.context() as patch, pytest.raises(S2RobotError, match="2 of 2 cells failed"):
        patch.setattr(Stages, "rollouts", fail)
        amended(episodes=4, videos=1)
    # Films, for which two episodes are enough, do not hide that the cells lack two.
    assert [entry["error"] for entry in document_of(tmp_path)["failed"]] == ["the simulator is gone"] * 2
    assert amended(episodes=4, videos=0, cells=[0, 1])
    assert document_of(tmp_path)["failed"] == []
    assert not list(tmp_path.glob("cells/*/error.json"))


def test_a_cell_that_has_all_its_episodes_has_not_failed(amended, tmp_path):
    config = amended(episodes=2, videos=0)
    write_error(tmp_path, make_cells(config)[0], "as a run that was to add episodes, or a kill, leaves it")
    amended(episodes=2, videos=0)
    assert document_of(tmp_path)["failed"] == []
    assert not list(tmp_path.glob("cells/*/error.json"))


def test_processes_that_run_the_same_cell_write_it_in_turn(store, tmp_path):
    config = toy_config(tmp_path, store=str(store), training_seeds=[0])
    cell = make_cells(config)[0]
    stages = Stages(config, collect_toys, make_toys, 2)
    documents, films, together = stages.rollouts(cell, 6), stages.film(cell, [100_000]), Barrier(4)

    def write():
        for _ in range(20):
            together.wait(timeout=600)
            write_results(tmp_path, cell, documents, films, {"rollouts": 1.0})

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write) for _ in range(4)]:
            done.result()
    results = read_results(tmp_path, cell)
    filmed = {int(film.name.removeprefix("film")) for film in films}  # for other tests too, in the store they share
    planned = set(range(100_000, 100_006))
    assert 100_000 in filmed
    assert sorted(video["seed"] for video in results["videos"]) == sorted(filmed & planned)
    assert results["stage_seconds"]["rollouts"] == 80


def test_a_plan_changed_meanwhile_is_kept(amended, tmp_path, monkeypatch):
    def change(*arguments):
        document = document_of(tmp_path)
        (tmp_path / "benchmark.json").write_text(json.dumps(document | {"notes": "by another process"}))

    monkeypatch.setattr("s2robot.benchmark.runner._film", change)
    amended(episodes=2)
    assert document_of(tmp_path)["notes"] == "by another process"


def test_a_race_amended_away_leaves_no_record(amended, tmp_path):
    amended(episodes=4, videos=0, sequential=SequentialConfig(batch=2))
    assert document_of(tmp_path)["sequential"]["batch"] == 2
    amended(episodes=6, videos=0, cells=0)
    assert document_of(tmp_path)["sequential"]["batch"] == 2  # it decided how many episodes the other cell has
    amended(episodes=6, videos=0)
    assert "sequential" not in document_of(tmp_path)


def test_contrasts_of_one_name_are_races_of_their_own(tmp_path):
    config = toy_config(tmp_path, tasks=["Lift", "Can"], sequential=SequentialConfig(batch=2, contrasts=["Scales"]))
    cells = make_cells(config)
    sides = {"baseline": {"scales": (32,)}, "treatment": {"scales": (32, 64)}}
    contrasts = [
        PlannedContrast("Scales", **{side: {**selector, "task": task} for side, selector in sides.items()})
        for task in ("Lift", "Can")
    ]
    races = make_races(config, contrasts, cells)
    assert [race.baseline[0].task.task for race in races] == ["Lift", "Can"]


@pytest.mark.parametrize("numbers", [[0, 0, 0, 0], True, [False], [4], []])
def test_cells_are_numbers_each_once(numbers, tmp_path):
    config = toy_config(tmp_path, cells=numbers)
    with pytest.raises(ConfigError, match="is not possible; valid: numbers from 0 to 3, each once"):
        select_cells(config, make_cells(config))


def test_numbers_out_of_range_write_no_plan(tmp_path):
    with pytest.raises(ConfigError, match="each once"):
        run_toys(toy_config(tmp_path, cells=4))
    assert not (tmp_path / "benchmark.json").exists()


def test_a_plan_without_results_is_replaced(tmp_path, capsys):
    for config in (toy_config(tmp_path, episodes=3), toy_config(tmp_path)):
        document = store_plan(config, make_grid(config))
    assert (document.plan.episodes, document.amendments) == (6, ())
    assert "has no results yet and is replaced" in capsys.readouterr().out
    write_error(tmp_path, make_cells(config)[0], "not a result")
    config = toy_config(tmp_path, training_seeds=[0])
    assert list(store_plan(config, make_grid(config)).cells) == [cell.name for cell in make_cells(config)]


@pytest.mark.parametrize(
    ("seen", "kept"),
    [
        ("cells/a/results.json", True),
        ("cells/a/results.unplanned.json", True),
        ("rollouts/0123/100000-100005/episodes.jsonl", True),
        ("rollouts/0123/1000000-1000005/episodes.jsonl", False),  # of a calibration
    ],
)
def test_a_plan_is_kept_once_an_episode_of_it_may_have_been_seen(tmp_path, seen, kept):
    config, other = toy_config(tmp_path, episodes=3), toy_config(tmp_path)
    store_plan(config, make_grid(config))
    (path := tmp_path / seen).parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="holds a plan") if kept else nullcontext():
        store_plan(other, make_grid(other))


def test_an_error_of_the_simulator_is_told_without_a_traceback(tmp_path):
    def collect(config):
        raise KeyError("unknown camera")

    config = toy_config(tmp_path, scale_sets=[[32]], training_seeds=[0])
    with pytest.raises(S2RobotError, match="the first error: 'unknown camera'$"):
        run_benchmark(config, collect, make_toys, 2, (KeyError,))
    with pytest.raises(S2RobotError, match="the first error: Traceback"):
        run_benchmark(config, collect, make_toys, 2)


def keys(config):
    return [(cell.name, training_key(cell), rollouts_key(cell), outcome_settings(cell)) for cell in make_cells(config)]


def test_settings_that_change_no_outcome_are_in_no_name(tmp_path):
    config = toy_config(tmp_path)
    assert keys(replace(config, training=replace(config.training, **FREE))) == keys(config)
    twice = replace(config, policies=["bc", {"name": "bc", "label": "BC"}])
    assert keys(twice) == keys(config)


def test_names_are_those_of_the_published_results():
    cell = make_cells(compose("benchmark", ["+experiment=size_or_scales"]))[0]
    assert cell.name == "Lift-efficientnet_lite0-224-conv-bc-seed0-86aa4d35"
    assert (training_key(cell)[:8], rollouts_key(cell)[:8]) == ("9ca2c1dc", "d00d73ca")


def test_every_key_tells_the_versions_of_a_package_that_brings_the_policy_apart(tmp_path, monkeypatch):
    config = toy_config(tmp_path, scale_sets=[[32]], training_seeds=[0])
    found = [keys(config)[0]]
    for version in ("1.2", "1.3"):
        monkeypatch.setattr(POLICIES, "provider", lambda name, version=version: f"my-package {version}")
        found.append(keys(config)[0])
    for what in zip(*found, strict=True):
        assert len(set(what)) == 3


@pytest.mark.parametrize("brought", [OUTSIDE_TASKS, OUTSIDE_EXPERTS, BACKBONES], ids=["task", "expert", "backbone"])
def test_stores_tell_the_versions_of_a_package_that_brings_a_task_an_expert_or_a_backbone_apart(
    brought, tmp_path, monkeypatch
):
    config = toy_config(tmp_path, scale_sets=[[32]], training_seeds=[0])
    found = [keys(config)[0][:3]]
    for version in ("1.2", "1.3"):
        monkeypatch.setattr(brought, "provider", lambda name, version=version: f"my-package {version}")
        found.append(keys(config)[0][:3])
    for what in zip(*found, strict=True):
        assert len(set(what)) == 3


def test_a_cell_whose_results_are_elsewhere_is_an_error_and_not_run_for_ever(tmp_path, monkeypatch):
    config = toy_config(tmp_path, scale_sets=[[32]], training_seeds=[0], videos=0)
    ran = []
    monkeypatch.setattr("s2robot.benchmark.runner.Runner.run", lambda self, job: ran.append(job))
    with pytest.raises(S2RobotError, match="ended without an error, but has 0 of"):
        run_toys(config)
    assert len(ran) == 1


def test_results_say_by_which_settings_a_policy_came_about(amended, tmp_path):
    amended(episodes=2, videos=0)
    config = toy_config(tmp_path)
    ((_, *_, settings), *others) = keys(config)
    assert {other[-1] for other in others} == {settings}  # neither the encoder nor the training seed is part of them
    found = [json.loads(path.read_text())["settings"] for path in tmp_path.glob("cells/*/results.json")]
    assert found == [settings] * 2
    for changes in (
        {"training": TrainingConfig(epochs=5)},
        {"readout": ReadoutConfig(name="mean", width=9)},
        {"policy": DiffusionUNetConfig()},
        {"policy": BCConfig(hidden=[17], action_steps=4, execute_steps=4)},
    ):
        assert settings not in {other[-1] for other in keys(replace(config, **changes))}
