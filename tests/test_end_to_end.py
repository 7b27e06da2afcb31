"""The main job at a size for tests, through the commands: demonstrations → features → policy → rollouts → report."""

import json
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import pytest

from s2robot.cli import main

pytestmark = pytest.mark.sim

TINY = ["encoder.backbone=test_efficientnet", "encoder.weights=none", "training.epochs=2", "readout=mean"]
CPU = "device=cpu"  # the features and the policy of a GPU have tests of their own


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "lift.hdf5"
    assert main(["collect", "task=Lift", "num=3", "size=64", "workers=2", f"out={path}"]) == 0
    return path


@pytest.fixture(scope="module")
def checkpoint(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    places = [f"dataset={dataset}", f"output={folder}", f"cache_dir={folder}/cache"]
    words = [*places, "encoder.scales=[32,64]", *TINY, CPU]
    script = Path(__file__).parents[1] / "train_policy.py"
    subprocess.run([sys.executable, script, *words], check=True, cwd=folder)
    return folder / "checkpoint"


def test_collecting_again_keeps_the_file_and_other_settings_are_refused(dataset, capsys):
    before = dataset.stat().st_mtime_ns
    assert main(["collect", "task=Lift", "num=3", "size=64", "workers=2", f"out={dataset}"]) == 0
    assert dataset.stat().st_mtime_ns == before
    assert main(["collect", "task=Lift", "num=4", "size=64", "workers=2", f"out={dataset}"]) == 2
    assert "demonstrations recorded with other settings" in capsys.readouterr().err


def test_evaluation_leaves_results_a_plot_and_a_playable_video(checkpoint, tmp_path, capsys):
    words = [f"checkpoint={checkpoint}", "episodes=3", "horizon=8", "videos=1", f"output={tmp_path}", CPU]
    assert main(["evaluate", *words]) == 0
    assert "95% Wilson interval" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert [episode["seed"] for episode in results["episode_results"]] == [100_000, 100_001, 100_002]
    assert results["episodes"] == 3
    assert results["success_rate"] == results["successes"] / 3
    assert results["interval"][0] <= results["success_rate"] <= results["interval"][1]
    assert all(episode["steps"] <= 8 for episode in results["episode_results"])
    assert results["seconds"] > 0
    assert results["gmacs"] > 0
    assert results["task"] == "Lift"
    assert (results["errors"], results["warnings"]) == (0, [])
    assert all(episode["latency_ms"] > 0 for episode in results["episode_results"])
    assert results["latency_ms"] == results["latency"]["median_ms"] <= results["latency"]["p95_ms"]
    shares = [results["latency"][f"{part}_share"] for part in ("encode", "policy", "simulate")]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().split("\n") if line]
    times = [line["times"] for line in lines if "times" in line]  # the shares are rounded
    assert all(sum(sum(spent[part]) for spent in times) > 0 for part in ("encode", "policy"))
    assert sum(spent["simulate"] for spent in times) > 0
    (video,) = results["videos"]
    frames = iio.imread(tmp_path / video["path"])
    assert frames.shape[0] == 1 + results["episode_results"][0]["steps"]
    assert frames.std() > 10
    assert iio.imread(tmp_path / "results.png").std() > 5


def test_benchmark_runs_its_cells_reports_and_resumes(dataset, tmp_path, capsys):
    words = [
        f"output={tmp_path}",
        "backbones=[test_efficientnet,nonsense]",
        "scale_sets=[[32],[32,64]]",
        "encoder.weights=none",
        "readout=mean",
        "training.epochs=1",
        "demonstrations=3",
        "size=64",
        "episodes=2",
        "tasks=[{task:Lift,horizon:60}]",
        "num_envs=1",
        "videos=0",
        CPU,
    ]
    assert main(["benchmark", *words]) == 2
    printed = capsys.readouterr()
    first = printed.out
    assert "error: 2 of 4 cells failed; the rest is reported in" in printed.err
    document = json.loads((tmp_path / "benchmark.json").read_text())
    assert len(document["cells"]) == 4
    assert len(document["failed"]) == 2  # the rest went on
    assert "unknown backbone 'nonsense'" in document["failed"][0]["error"]
    assert len(list(tmp_path.glob("cells/*/results.json"))) == 2
    assert "The one planned contrast" in first  # the report in words
    assert (tmp_path / "report" / "report.md").read_text() in first
    assert (tmp_path / "report" / "success_vs_gmacs.png").exists()

    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/results.json")}
    assert main(["benchmark", *words]) == 2
    assert capsys.readouterr().out.count("already done") == 2
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_dry_run_prints_the_cells_and_runs_nothing(tmp_path, capsys):
    words = [f"output={tmp_path / 'none'}", "dry_run=true", "backbones=[test_efficientnet]", "encoder.weights=none"]
    assert main(["benchmark", *words, "scale_sets=[[32],[32,64]]"]) == 0
    assert "test_efficientnet-32_64-conv-bc-seed0" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
