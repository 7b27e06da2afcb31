"""Slips in the words of a command line, and what the error says of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from s2robot.cli import main
from s2robot.cli.words import compose, parse, prepare_arguments, split
from s2robot.config import CONFIG_DIR, CollectConfig, EvaluateConfig, ReadoutConfig


def error_of(capsys, *words):
    assert main(list(words)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["collect", "cameras=agentview"], "valid: list of strings or null, such as 'cameras=[agentview]'"),
        (["collect", "cameras=[agentview"], "cameras=[agentview is not possible; valid: list of strings"),
        (["evaluate", "checkpoint=x", "episodes=abc"], "episodes=abc is not possible; valid: integer"),
        (["train", "encoder.scales=224"], "valid: list, such as 'encoder.scales=[224,448]'"),
        (["train", "training.epochs=abc"], "training.epochs=abc is not possible; valid: integer"),
        (["train", "training={epochs: abc}"], "training.epochs=abc is not possible; valid: integer"),
        (["train", "training=abc"], "set its fields one by one: training.epochs=…"),
        (["train", "policy.hidden=abc"], "valid: list of integers, such as 'policy.hidden=[512,512]'"),
        (["benchmark", "scale_sets=[224,448]"], "list of lists, such as 'scale_sets=[[224],[224,448]]'"),
        (["benchmark", "training_seeds=0"], "such as 'training_seeds=[0]'"),
    ],
)
def test_a_value_of_the_wrong_type_names_setting_and_type(capsys, words, message):
    assert message in error_of(capsys, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train", "experiment=lift_bc"],
            "because it adds to the configuration: +experiment=lift_bc",
        ),
        (["benchmark", "experiment=lift_cb"], "unknown experiment 'lift_cb'; did you mean 'lift_bc'"),
        (["train", "seed=0,1"], "to run each value: python train_policy.py -m seed=0,1"),
        (["train", "seed=range(0,2)"], "to run each value: python train_policy.py -m seed=range(0,2)"),
        (["benchmark", "training_seeds=0,1"], "a list is written 'training_seeds=[0,1]'"),
        (["train", "-m", "seed=0,1"], "Hydra's own options, run: python train_policy.py -m seed=0,1"),
        (
            ["train", "--dataset=x"],
            "'--dataset=x' is not of the form key=value (did you mean 'dataset=x'?); keys: ",
        ),
        (["train", "../x.hdf5"], "'../x.hdf5' is not of the form key=value; keys: dataset,"),
        (["train", "encoder.scales=[3"], "'encoder.scales=[3' cannot be parsed: close every bracket"),
        (["encoders", "fetch"], "encoders fetch needs a NAME"),
        (["doctor", "foo"], "doctor takes no words; got 'foo'"),
    ],
)
def test_slips_get_advice_and_not_a_grammar(capsys, words, message):
    assert message in error_of(capsys, *words)


@pytest.mark.parametrize("path", ["données/x.hdf5", "run (1)/x.hdf5", "a=b.hdf5", "it's, or not", "a: b", "[x", "007"])
def test_paths_are_read_as_they_are_written(path):
    assert compose("train_policy", [f"dataset={path}"]).dataset == path
    assert parse(EvaluateConfig, [f"checkpoint={path}"]).checkpoint == path


def test_paths_may_be_quoted_refer_to_settings_and_be_null():
    assert compose("train_policy", ["dataset='run (1)'", "seed=3", "output=é/${seed}"]).output == "é/3"
    assert compose("train_policy", ["dataset='run (1)'"]).dataset == "run (1)"
    assert parse(EvaluateConfig, ["checkpoint='a b'", "output=null"]) == EvaluateConfig(checkpoint="a b")
    assert compose("benchmark", ["store=null"]).store is None


def test_the_home_folder_is_found_where_the_shell_leaves_it():
    home = str(Path.home() / "x.hdf5")
    assert compose("train_policy", ["dataset=~/x.hdf5"]).dataset == home
    assert parse(CollectConfig, ["out=~/x.hdf5"]).out == home
    assert split(["~/x.hdf5", "sheet=~/x.hdf5"], ["sheet"]) == ([home], {"sheet": home})


def test_help_shows_the_settings_that_its_words_choose(capsys):
    assert main(["train", "policy=diffusion_unet", "-h"]) == 0
    text = capsys.readouterr().out
    assert "with policy=diffusion_unet" in text
    assert "down_dims:" in text
    assert main(["encode", "-h"]) == 0
    assert "cache_dir: outputs/feature_cache" in capsys.readouterr().out


def test_completion_knows_the_settings_of_encode(capsys):
    assert main(["completion", "bash"]) == 0
    assert any("encode)" in line and "dataset=" in line for line in capsys.readouterr().out.splitlines())


def test_the_training_script_names_the_valid_settings(tmp_path):
    words = [sys.executable, CONFIG_DIR.parent / "train_policy.py", "dataset=né (1).hdf5", "training.epoch=3"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    told = "error: unknown setting 'training.epoch'; did you mean 'training.epochs'"
    assert any(line.startswith(told) for line in done.stderr.splitlines()), done.stderr  # a library may warn before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "for_hydra"),
    [
        (["dataset=né (1).hdf5", "seed=1"], ["dataset='né (1).hdf5'", "seed=1"]),
        (["-m", "dataset=a,b"], ["-m", "dataset=a,b"]),
        (["hydra.mode=MULTIRUN", "seed=0,1"], ["hydra.mode=MULTIRUN", "seed=0,1"]),
        (["--config-name", "other", "mine=1"], ["--config-name", "other", "mine=1"]),
    ],
)
def test_scripts_quote_paths_and_leave_hydra_its_options_and_sweeps(monkeypatch, words, for_hydra):
    monkeypatch.setattr(sys, "argv", ["train_policy.py", *words])
    prepare_arguments("train_policy")
    assert sys.argv == ["train_policy.py", *for_hydra]


def test_every_setting_of_a_readout_can_be_given():
    config = compose("train_policy", ["dataset=d", "readout=attention", "readout.heads=8", "readout.queries=2"])
    assert config.readout == ReadoutConfig("attention", heads=8, queries=2)
