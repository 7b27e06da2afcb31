"""What is refused before a demonstration is recorded: no expert, no such camera or variant, no weights."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
from toy_benchmark import make_cells, toy_config

from s2robot.benchmark import check_runnable
from s2robot.benchmark.dry_run import Speeds
from s2robot.benchmark.output import cell_folder
from s2robot.benchmark.stages import demonstrations_path, rollouts_folder
from s2robot.cli import main
from s2robot.config import EncoderConfig
from s2robot.interfaces import ConfigError, WeightsError
from s2robot_envs import S2RobotEnvError


def accept(config):
    """In the place of `s2robot.cli.cells.check_collection`."""


def refuse(config):
    raise ConfigError(f"{config.task} cannot be recorded")


@pytest.fixture
def nothing_here(monkeypatch):
    """No weights are on this machine, but those of the smallest backbone."""
    monkeypatch.setattr("s2robot.benchmark.preflight.is_available", lambda spec: spec.name == "test_efficientnet")


@pytest.mark.parametrize("dry", [["dry_run=true"], []])
@pytest.mark.parametrize(
    ("word", "message"),
    [
        pytest.param("cameras=[foo]", "unknown camera of Lift 'foo'", marks=pytest.mark.sim),
        ("tasks=[ToolHang]", "unknown task with a scripted expert 'ToolHang'"),
        ("tasks=[{task: Lift, variant: {foo: 1}}]", "unknown variant option 'foo'"),
        ("tasks=[{task: Lift, variant: {object_scale: 5}}]", "variant.object_scale is 5"),
        ("tasks=[{task: Lift, render_profile: best}]", "best"),
        ("tasks=[{task: Lift, seed: 10}]", "collection seed is 10"),
        ("cells=[7]", "cells=[7] is not possible; valid: numbers from 0 to 0"),
        ("cells=foo", "cells='foo' is not possible"),
        ("policies=[bc,{name: knn, training: {num_shifts: 2}}]", "training.num_shifts=2 is not possible"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(word, message, dry, tmp_path, capsys, nothing_here):
    words = [f"output={tmp_path}/out", "backbones=[mvp_base]", "scale_sets=[[224]]", "encoder.weights=none"]
    assert main(["benchmark", *words, word, *dry]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_may_be_missing_in_a_dry_run_alone(tmp_path, capsys, nothing_here, monkeypatch):
    monkeypatch.setattr("s2robot.benchmark.dry_run._calibrate", lambda *_: Speeds(0.0, defaultdict(float)))
    words = [f"output={tmp_path}/out", "backbones=[mvp_base]", "scale_sets=[[224]]", "device=cpu"]
    missing = "this machine does not have the weights of mvp_base; run `s2robot encoders fetch mvp_base`"
    assert main(["benchmark", *words]) == 2
    assert missing in capsys.readouterr().err
    assert main(["benchmark", *words, "dry_run=true"]) == 0
    assert f"before the run: {missing}" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_calibration_is_checked_too(tmp_path, nothing_here):
    with pytest.raises(WeightsError, match="mvp_base"):
        check_runnable(lacking_weights(tmp_path, calibrate=True, scale_sets=[[32]]), accept)


def lacking_weights(output, **changes):
    """One backbone whose weights are here, and one whose are not: cells 0 and 1."""
    changes = {"scale_sets": [[64]], "training_seeds": [0], "encoder": EncoderConfig(), **changes}
    return toy_config(output, backbones=["mvp_base", "test_efficientnet"], **changes)


def test_only_what_is_to_be_run_is_checked(tmp_path, nothing_here):
    with pytest.raises(WeightsError):
        check_runnable(lacking_weights(tmp_path, cells=[0, 1]), accept)
    assert check_runnable(lacking_weights(tmp_path, cells=[1]), accept) == []
    rows = [{"seed": 100_000 + index} for index in range(6)]
    config = lacking_weights(tmp_path)
    (folder := cell_folder(tmp_path, make_cells(config)[0])).mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"episode_results": rows}))
    assert check_runnable(config, accept) == []


def test_what_the_store_holds_needs_neither_expert_nor_weights(tmp_path, nothing_here):
    config = lacking_weights(tmp_path)
    with pytest.raises(ConfigError, match="Lift cannot be recorded"):
        check_runnable(config, refuse)
    part = rollouts_folder(config, make_cells(config)[0]) / "100000-100005"
    for path in (part / "results.json", demonstrations_path(config, config.task_list[0])):
        path.parent.mkdir(parents=True)
        path.touch()
    assert check_runnable(config, refuse) == []


def test_weights_of_timms_hub_are_for_the_run_to_download(tmp_path, nothing_here, monkeypatch):
    config = toy_config(tmp_path, backbones=["vit_small"], scale_sets=[[64]], encoder=EncoderConfig())
    assert check_runnable(config, accept) == ["vit_small"]
    asked = []
    monkeypatch.setattr("s2robot.benchmark.preflight.load_backbone", lambda *words: asked.append(words))
    monkeypatch.setattr("s2robot.cli.cells.run_benchmark", lambda *arguments: asked.append(arguments))
    words = [f"output={tmp_path}/out", "backbones=[vit_small]", "scale_sets=[[64]]"]
    assert main(["benchmark", *words]) == 0
    assert asked[0] == ("vit_small", "hub")
    assert asked[1][-2] == (S2RobotEnvError,)


def test_weights_that_are_a_file_are_looked_for_there(tmp_path):
    folder = Path(tmp_path / "weights")
    folder.mkdir()
    config = lacking_weights(tmp_path, encoder=EncoderConfig(weights=str(folder)), cells=[0])
    with pytest.raises(WeightsError, match="has none of mvp_base"):
        check_runnable(config, accept)
