import pytest

from s2robot.cli import main
from s2robot.cli.words import compose, parse
from s2robot.config import BCConfig, BenchmarkConfig, CollectConfig, DiffusionUNetConfig, EvaluateConfig, TrainConfig
from s2robot.interfaces import ConfigError


def fails(capsys, *words):
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("collect", "evaluate", "benchmark", "report", "train_policy.py"):
        assert verb in text


def test_help_of_a_command_lists_its_settings(capsys):
    assert main(["collect", "--help"]) == 0
    text = capsys.readouterr().out
    assert "num: 120" in text
    assert "out: ???" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["colect"], "unknown command 'colect'; did you mean 'collect'"),
        (["collect", "Lift"], "'Lift' is not of the form key=value"),
        (["collect", "tsk=Lift", "out=x"], "unknown setting 'tsk'; did you mean 'task'"),
        (["collect", "num=many", "out=x"], "could not be converted to Integer"),
        (["collect", "num=0", "out=x"], "num=0 is not possible; valid: 1 or more"),
        (["collect"], "a required setting is missing: .*out"),
        (["evaluate", "checkpoint=nowhere"], "has no config.json"),
        (["report"], "needs at least one folder"),
        (["report", "nowhere", "to=x"], "unknown setting 'to'"),
        (["benchmark", "output=x", "policy=bcc"], "policy/bcc"),
        (["benchmark", "output=x", "episode=3"], "episode"),
        (["benchmark", "output=x", "backbones=[]"], "a list with at least one entry"),
    ],
)
def test_wrong_words_are_one_clear_error(capsys, words, message):
    import re

    assert re.search(message, fails(capsys, *words))


@pytest.mark.sim
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=Lfit"], "unknown task 'Lfit'; did you mean 'Lift'"),
        (["cameras=[front]"], "front"),
        (["render_profile=slow"], "slow"),
    ],
)
def test_what_the_simulator_does_not_have_is_one_clear_error(capsys, tmp_path, words, message):
    assert message in fails(capsys, "collect", f"out={tmp_path}/demos.hdf5", *words)
    assert list(tmp_path.iterdir()) == []


def test_words_become_typed_settings():
    config = parse(CollectConfig, ["out=demos/a.hdf5", "num=7", "cameras=[agentview]", "noise=0"])
    assert config == CollectConfig(out="demos/a.hdf5", num=7, cameras=["agentview"], noise=0.0)
    assert parse(EvaluateConfig, ["checkpoint=c"]).first_seed == 100_000


def test_groups_choose_policy_readout_and_encoder():
    config = compose(
        "train_policy", ["dataset=d", "policy=diffusion_unet", "readout=mean", "encoder=efficientnet_lite2"]
    )
    assert isinstance(config, TrainConfig)
    assert isinstance(config.policy, DiffusionUNetConfig)
    assert config.readout.name == "mean"
    assert config.encoder.backbone == "efficientnet_lite2"
    assert config.encoder.scales == [224, 448]


def test_default_run_is_the_documented_one():
    config = compose("train_policy", ["dataset=demos/lift.hdf5", "encoder.scales=[224,448]", "seed=3"])
    assert isinstance(config.policy, BCConfig)
    assert config.encoder.backbone == "efficientnet_lite0"
    assert config.seed == 3


@pytest.mark.parametrize("experiment", ["lift_bc", "lift_diffusion_unet"])
def test_experiments_compose(experiment):
    config = compose("train_policy", ["dataset=d", f"+experiment={experiment}"])
    assert config.policy.name in experiment


def test_benchmark_defaults_are_two_backbones_by_two_scale_sets():
    config = compose("benchmark", ["output=x"])
    assert isinstance(config, BenchmarkConfig)
    assert len(config.backbones) == 2
    assert config.scale_sets == [[224], [224, 448]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoder=efficientnet_lite9"], "efficientnet_lite9"),
        (["policy.widht=3"], "widht"),
        (["encoder.scale=[224]"], "scale"),
        (["training.epochs=0"], "training.epochs=0 is not possible"),
        ([], "dataset"),
    ],
)
def test_wrong_training_overrides_are_config_errors(words, message):
    required = [] if not words else ["dataset=d"]
    with pytest.raises(ConfigError, match=message):
        compose("train_policy", required + words)
