import json
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest
import yaml

import s2robot
from s2robot.cli import VERBS, main
from s2robot.cli.words import compose, parse
from s2robot.config import CONFIG_DIR, BenchmarkConfig, CollectConfig, EvaluateConfig, TrainConfig
from s2robot.interfaces import ConfigError
from s2robot.policies.bc import BCConfig
from s2robot.policies.diffusion_unet import DiffusionUNetConfig


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What a command writes in spite of wrong words does not lie in the checkout."""
    monkeypatch.chdir(tmp_path)


def fails(capsys, *words):
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in (*VERBS, "train_policy.py", "--json", "exit status"):
        assert verb in text


def test_help_needs_nothing_heavy():
    script = (
        "import sys; before = set(sys.modules)\n"  # a site package may import anything at the start of every Python
        "from s2robot.cli import main; main(['-h'])\n"
        "print('imported', *sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("imported ")]
    assert "s2robot.cli" in line.split()
    assert not {"torch", "numpy", "omegaconf", "hydra", "mujoco", "s2robot_envs"} & set(line.split())


def test_a_reader_who_leaves_early_is_no_bug():
    script = "import sys; from s2robot.cli import main; sys.exit(main(['-h']))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    told = process.stderr.read().decode()
    assert "Traceback" not in told
    assert "BrokenPipe" not in told
    assert "internal error" not in told
    assert process.wait() == 0


@pytest.mark.parametrize("words", [["--version"], ["doctor", "--version"]])
def test_version_is_that_of_the_package(words, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out == f"s2robot {s2robot.__version__}\n"
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": s2robot.__version__}


def test_the_citation_names_the_version():
    citation = yaml.safe_load((CONFIG_DIR.parent / "CITATION.cff").read_text())
    assert citation["version"] == s2robot.__version__


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_of_every_command_works(verb, capsys):
    assert main([verb, "-h"]) == 0
    assert VERBS[verb].summary in capsys.readouterr().out


def test_help_shows_the_defaults_of_the_configuration_files(capsys):
    assert main(["benchmark", "-h"]) == 0
    shown = capsys.readouterr().out.partition("(??? is required):")[2]
    document, composed = yaml.safe_load(shown), compose("benchmark", [])
    for key in ("demonstrations", "cameras", "output", "episodes"):
        assert document[key] == getattr(composed, key)
    assert document["training"] == json.loads(json.dumps(asdict(composed.training)))
    assert document["policy"] == json.loads(json.dumps(asdict(composed.policy)))


@pytest.mark.parametrize("words", [["encoders", "--json"], ["--json", "encoders"]])
def test_json_is_one_document_on_stdout(words, capsys):
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)["encoders"]
    assert {"name", "size", "licence", "offline"} <= set(rows[0])


def test_a_bug_is_one_line_and_a_traceback_with_debug(capsys, monkeypatch):
    def broken(words):
        raise KeyError("left")

    monkeypatch.setattr("s2robot.cli.verbs.encoders", broken)
    assert main(["encoders"]) == 1
    assert capsys.readouterr().err.startswith("internal error: KeyError: 'left'")
    with pytest.raises(KeyError):
        main(["encoders", "--debug"])


@pytest.mark.parametrize(
    ("line", "expected"), [("s2robot ren", {"render"}), ("s2robot collect nu", {"num="}), ("s2robot zzz", set())]
)
def test_bash_completes_verbs_and_settings(line, expected, capsys):
    assert main(["completion", "bash"]) == 0
    words = line.split()
    script = (
        f"{capsys.readouterr().out}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; cd /nonexistent 2>/dev/null\n"
        '_s2robot 2>/dev/null; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("bash is not installed")
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_completion_names_the_shells(capsys):
    assert "Choices: bash, fish, zsh" in fails(capsys, "completion", "tcsh")
    for shell in ("zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "num=" in capsys.readouterr().out


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
        (["collect", "num=many", "out=x"], "num=many is not possible; valid: integer"),
        (["collect", "num=0", "out=x"], "num=0 is not possible; valid: 1 or more"),
        (["collect"], "a required setting is missing: .*out"),
        (["evaluate", "checkpoint=nowhere"], "has no config.json"),
        (["report"], "needs at least one folder"),
        (["report", "nowhere", "to=x"], "unknown setting 'to'"),
        (["benchmark", "output=x", "policy=bcc"], "unknown policy 'bcc'; did you mean 'bc'.* flow_matching"),
        (["benchmark", "output=x", "+experiment=lift"], "unknown experiment 'lift'"),
        (["benchmark", "output=x", "episode=3"], "unknown setting 'episode'; did you mean 'episodes'"),
        (["train", "encoder.scalez=[1]"], "unknown setting 'encoder.scalez'; did you mean 'encoder.scales'"),
        (
            ["train", "dataset=x", "+encoder.scalez=[1]"],
            "unknown setting 'encoder.scalez'; did you mean 'encoder.scales'",
        ),
        (["train", "dataset=x", "++polcy=bc"], "unknown setting 'polcy'; did you mean 'policy'"),
        (["train", "policy.hiden=3", "training.epoch=3"], "unknown setting '(policy.hiden|training.epoch)'; did you"),
        (["train", "encoder=3"], "must be a string or a list"),
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
