"""A benchmark killed anywhere ends, once resumed, in the results of an uninterrupted one."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import needs_films
from safetensors.torch import load_file
from toy_benchmark import empty_report, run_toys, toy_config

from s2robot import report
from s2robot.interfaces import ConfigError, S2RobotError

parquet = pytest.importorskip("pyarrow.parquet", reason="results.parquet needs pyarrow")


def rows(output: Path) -> list[dict]:
    """The rows of `results.parquet` without the latency, which is a measurement of the machine."""
    return parquet.read_table(output / "results.parquet").drop_columns(["latency_ms"]).to_pylist()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("s2robot.benchmark.runner.write_report", empty_report)


@pytest.fixture
def reporting(quick, monkeypatch):
    monkeypatch.setattr("s2robot.benchmark.runner.write_report", report.write_report)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    needs_films()
    folder = tmp_path_factory.mktemp("faults")
    script = Path(__file__).with_name("toy_faults.py")
    done = subprocess.run([sys.executable, script, folder], check=True, stdout=subprocess.PIPE, text=True)
    return folder, json.loads(done.stdout.splitlines()[-1])


def weights(output: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of every policy that was trained."""
    return {path.parts[-3]: load_file(path) for path in output.glob("training/*/checkpoint/policy.safetensors")}


def test_five_kills_at_any_moment_change_no_row(runs):
    folder, ends = runs
    assert ends["killed"] == [-signal.SIGKILL] * 5, ends
    assert (ends["straight"], ends["resumed"]) == (0, 0), ends
    straight, resumed = rows(folder / "straight"), rows(folder / "killed")
    assert len(straight) == 4 * 6  # cells × episodes
    assert {row["success"] for row in straight} == {True, False}  # by the toy's construction
    assert resumed == straight, ends


def test_five_kills_at_any_moment_change_no_policy(runs):
    folder, ends = runs
    straight, resumed = weights(folder / "straight"), weights(folder / "killed")
    assert len(straight) == 4
    # An optimizer or a generator that is not restored moves some weight by a thousandth and more.
    torch.testing.assert_close(resumed, straight, rtol=1e-5, atol=1e-5, msg=lambda text: f"{text}\n{ends}")


def test_every_episode_is_counted_once(runs):
    keys = [(row["cell"], row["initial_state"]) for row in rows(runs[0] / "killed")]
    assert len(set(keys)) == len(keys)


def test_a_finished_benchmark_is_not_run_again(runs, capsys):
    output = runs[0] / "straight"
    stamps = {path: path.stat().st_mtime_ns for path in output.glob("rollouts/*/*/results.json")}
    run_toys(toy_config(output))
    assert capsys.readouterr().out.count("already done, 6 episodes") == 4
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_another_benchmark_finds_what_the_store_holds(runs, tmp_path):
    store = runs[0] / "straight"
    stamps = {path: path.stat().st_mtime_ns for path in store.glob("training/*/checkpoint/config.json")}
    assert len(stamps) == 4
    run_toys(toy_config(tmp_path, store=str(store), scale_sets=[[32]], training_seeds=[0], episodes=8))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps  # nothing was trained again
    assert sorted(path.name for path in store.glob("rollouts/*/*-100007")) == ["100006-100007"]  # only what was missing
    (cell,) = (tmp_path / "cells").iterdir()
    straight = json.loads((store / "cells" / cell.name / "results.json").read_text())
    extended = json.loads((cell / "results.json").read_text())
    assert extended["episode_results"][:6] == straight["episode_results"]
    assert extended["episodes"] == 8
    assert all((cell / video["path"]).is_file() for video in extended["videos"])


def test_fewer_episodes_than_the_store_holds_are_taken_from_it(runs, tmp_path):
    store = runs[0] / "straight"
    before = sorted(store.glob("rollouts/*/*"))
    config = toy_config(tmp_path, store=str(store), scale_sets=[[32]], training_seeds=[0], episodes=4, videos=0)
    run_toys(config)
    assert sorted(store.glob("rollouts/*/*")) == before
    (cell,) = (tmp_path / "cells").iterdir()
    whole = json.loads((store / "cells" / cell.name / "results.json").read_text())["episode_results"]
    part = json.loads((cell / "results.json").read_text())
    assert part["episode_results"] == whole[:4]
    assert (part["episodes"], part["successes"]) == (4, sum(row["success"] for row in whole[:4]))


def test_a_failing_cell_is_recorded_and_the_rest_go_on(runs, reporting, tmp_path):
    few = {"store": str(runs[0] / "straight"), "scale_sets": [[32]], "training_seeds": [0]}
    config = toy_config(tmp_path, backbones=["test_efficientnet", "nonsense"], **few)
    with pytest.raises(
        S2RobotError, match="1 of 2 cells failed; the rest is reported in .*report; the first error is of "
    ):
        run_toys(config)
    document = json.loads((tmp_path / "benchmark.json").read_text())
    (failed,) = document["failed"]
    assert "unknown backbone 'nonsense'" in failed["error"]
    assert len(rows(tmp_path)) == 6
    assert "nonsense" in (tmp_path / "report" / "report.md").read_text()


def test_all_cells_failing_is_an_error(tmp_path):
    with pytest.raises(
        S2RobotError, match="every cell of the benchmark failed; the first error: unknown backbone 'none'"
    ):
        run_toys(toy_config(tmp_path, backbones=["none"], scale_sets=[[32]], training_seeds=[0]))


def test_a_changed_plan_is_refused_without_a_reason_and_recorded_with_one(runs, reporting, tmp_path):
    store = str(runs[0] / "straight")
    few = {"store": store, "scale_sets": [[32]], "training_seeds": [0]}
    run_toys(toy_config(tmp_path, episodes=3, **few))
    with pytest.raises(ConfigError, match="holds a plan .* that differs in episodes, .*amend="):
        run_toys(toy_config(tmp_path, episodes=6, **few))
    with pytest.raises(ConfigError, match="that differs in cells, .*amend="):
        longer = replace(toy_config(tmp_path).training, epochs=5)
        run_toys(toy_config(tmp_path, episodes=3, training=longer, **few))
    run_toys(toy_config(tmp_path, episodes=6, amend="the machine is free tonight", **few))
    (amendment,) = json.loads((tmp_path / "benchmark.json").read_text())["amendments"]
    assert amendment["reason"] == "the machine is free tonight"
    assert amendment["before"]["episodes"] == 3
    assert "the machine is free tonight" in (tmp_path / "report" / "report.md").read_text()


def test_cells_can_be_run_by_number_and_joined_afterwards(runs, tmp_path):
    for number in range(4):
        assert run_toys(toy_config(tmp_path, store=str(runs[0] / "straight"), cells=number)) is None
    assert not (tmp_path / "results.parquet").exists()
    run_toys(toy_config(tmp_path, store=str(runs[0] / "straight")))
    assert rows(tmp_path) == rows(runs[0] / "straight")
    with pytest.raises(ConfigError, match=r"cells=9 is not possible; valid: numbers from 0 to 3"):
        run_toys(toy_config(tmp_path, cells=9))


def test_a_failing_cell_asked_for_by_its_number_fails_the_run_that_it_is_after_the_others(runs, tmp_path):
    few = {"store": str(runs[0] / "straight"), "scale_sets": [[32]], "cells": [0, 2]}
    config = toy_config(tmp_path, backbones=["nonsense", "test_efficientnet"], **few)
    with pytest.raises(
        S2RobotError, match="1 of 2 cells failed; the first error is of Lift-nonsense.*: unknown backbone 'nonsense'"
    ):
        run_toys(config)
    assert len(list(tmp_path.glob("cells/*/results.json"))) == 1


def test_contrasts_within_the_cells_asked_for_are_filmed(runs, tmp_path):
    run_toys(toy_config(tmp_path, store=str(runs[0] / "straight"), cells=[0, 2]))
    base, treatment = (json.loads(path.read_text())["videos"] for path in tmp_path.glob("cells/*/results.json"))
    assert base  # every third initial state is failed by both and so worth a film, if nothing divides them
    assert [video["seed"] for video in base] == [video["seed"] for video in treatment]
