import json
import re
import shlex
import shutil

import pytest
import torch
from helpers import ENVIRONMENT

from s2robot import S2Encoder
from s2robot.checkpoint import (
    Checkpoint,
    _seal,
    load_checkpoint,
    load_policy,
    require_task,
    save_checkpoint,
)
from s2robot.cli import main
from s2robot.cli.closing import describe_checkpoint
from s2robot.config import EncoderConfig, ReadoutConfig, TrainConfig
from s2robot.interfaces import CheckpointError, PolicySpec
from s2robot.policies import make_policy
from s2robot.policies.bc import BCConfig
from s2robot.system.files import write_durably

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    dataset="demos.hdf5",
    output="run",
    encoder=EncoderConfig(backbone="test_efficientnet", scales=[32, 64], weights="none"),
    readout=ReadoutConfig(name="mean", width=8),
    policy=BCConfig(hidden=[16]),
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "checkpoint"
    encoder = S2Encoder("test_efficientnet", scales=(32, 64), weights="none")
    spec = PolicySpec({"agentview": encoder.feature_shape(64, 64)}, proprioception_width=3, action_width=4)
    checkpoint = Checkpoint(
        config=CONFIG,
        spec=spec,
        environment=ENVIRONMENT,
        proprioception=["position"],
        fingerprints={"encoder": encoder.fingerprint(), "backbone": encoder.backbone.weights_hash(), "data": "0"},
        demonstrations=3,
        loss_curve=[{"epoch": 1, "train_loss": 0.5}],
        command="train_policy.py",
    )
    save_checkpoint(folder, make_policy(CONFIG.policy, CONFIG.readout, spec).state_dict(), checkpoint)
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "checkpoint")


def edit(folder, change):
    """Change `config.json` as an older version of this package, which seals it afterwards, would have written it."""
    document = json.loads((folder / "config.json").read_text())
    change(document)
    document["document_sha256"] = _seal(document)
    (folder / "config.json").write_text(json.dumps(document))


def tamper(folder, change):
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))


def test_what_was_saved_is_what_is_loaded(folder):
    checkpoint, state = load_checkpoint(folder)
    assert checkpoint.config == CONFIG
    assert checkpoint.environment == ENVIRONMENT
    assert checkpoint.spec.action_width == 4
    policy, encoder, _ = load_policy(folder, CPU)
    assert state.keys() == policy.state_dict().keys()
    assert encoder.scales == (32, 64)


def test_checkpoint_holds_safetensors_and_json_only(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "policy.safetensors"]


def test_saving_again_replaces_the_folder_as_a_whole(folder):
    checkpoint, state = load_checkpoint(folder)
    (folder / "stale").touch()
    save_checkpoint(folder, {name: tensor + 1 for name, tensor in state.items()}, checkpoint)
    assert not (folder / "stale").exists()
    assert torch.equal(load_checkpoint(folder)[1]["head.0.bias"], state["head.0.bias"] + 1)
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_failed_write_leaves_the_old_file(tmp_path):
    write_durably(tmp_path / "file", b"old")
    with pytest.raises(TypeError):
        write_durably(tmp_path / "file", "not bytes")
    assert (tmp_path / "file").read_bytes() == b"old"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "policy.safetensors").unlink(), "has no policy.safetensors"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: truncate(f / "policy.safetensors"), "does not match its sha256: truncated or altered"),
        (lambda f: flip(f / "policy.safetensors"), "does not match its sha256: truncated or altered"),
        (lambda f: truncate(f / "config.json"), "is not valid JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "is not valid JSON"),
        (
            lambda f: edit(f, lambda d: d.update(layout=99)),
            "has layout 99, which this version cannot read; valid: 1, 2",
        ),
        (lambda f: (f / "config.json").write_text("[]"), "has layout None, which this version cannot read"),
        (
            lambda f: tamper(f, lambda d: d.update(proprioception=["speed"])),
            "config.json' does not match its own sha256",
        ),
        (
            lambda f: tamper(f, lambda d: d["environment"].update(task="Stack")),
            "does not match its own sha256: it was altered",
        ),
        (lambda f: tamper(f, lambda d: d.pop("document_sha256")), "does not match its own sha256: it was altered"),
        (lambda f: edit(f, lambda d: d.pop("spec")), "is damaged: KeyError\\('spec'\\)"),
        (lambda f: edit(f, lambda d: d["config"]["policy"].update(name="gpt")), "unknown policy 'gpt'"),
        (lambda f: edit(f, lambda d: d["config"]["readout"].update(height=3)), "unknown readout setting 'height'"),
    ],
)
def test_damaged_checkpoint_is_one_clear_error(folder, damage, message):
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_folder_that_does_not_exist_is_one_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere.*has no config\.json"):
        load_checkpoint(tmp_path / "nowhere")


def test_the_output_of_a_training_run_leads_to_its_checkpoint(folder):
    with pytest.raises(CheckpointError, match=re.escape(f"did you mean '{folder}'?")):
        load_checkpoint(folder.parent)


def test_the_next_command_can_run_and_survives_a_shell(folder):
    assert describe_checkpoint(folder).endswith(f"next: s2robot evaluate checkpoint={shlex.quote(str(folder))}")
    spaced = folder.rename(folder.with_name("my checkpoint"))
    assert describe_checkpoint(spaced).endswith(f"next: s2robot evaluate checkpoint={shlex.quote(str(spaced))}")
    edit(spaced, lambda d: d.update(environment={}))
    quoted = shlex.quote(str(spaced))
    assert quoted != str(spaced)
    assert f"next: s2robot serve checkpoint={quoted}, or s2robot export checkpoint=" in describe_checkpoint(spaced)


def test_a_checkpoint_without_a_task_is_not_rolled_out_but_served(folder, capsys):
    edit(folder, lambda d: d.update(environment={}))
    assert main(["evaluate", f"checkpoint={folder}", "device=cpu"]) == 2
    assert (
        "records no environment, because its dataset had no task; to run it on a robot, use `s2robot serve`"
        in capsys.readouterr().err
    )


def test_another_encoder_than_the_trained_one_is_refused(folder):
    edit(folder, lambda d: d["config"]["encoder"].update(scales=[32, 96]))
    with pytest.raises(CheckpointError, match="was trained on features of encoder"):
        load_policy(folder, CPU)


def test_weights_that_do_not_fit_the_configuration_are_refused(folder):
    edit(folder, lambda d: d["config"]["policy"].update(hidden=[24]))
    with pytest.raises(CheckpointError, match="does not fit its own configuration"):
        load_policy(folder, CPU)


def test_white_space_and_order_of_the_document_are_not_what_is_sealed(folder):
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(reversed(document.items())), indent=7))
    assert load_checkpoint(folder)[0].config == CONFIG


def test_a_checkpoint_of_the_layout_before_this_one_is_still_read(folder):
    document = json.loads((folder / "config.json").read_text())
    del document["document_sha256"]
    document["layout"] = 1
    document["config"]["training"] = {"epochs": 40, "save_every": 10}
    (folder / "config.json").write_text(json.dumps(document))
    assert load_policy(folder, CPU)[2].config.training.epochs == 40


def test_a_policy_that_reads_cameras_its_environment_lacks_is_refused(folder):
    edit(folder, lambda d: d["environment"].update(cameras=["wrist", "front"]))
    with pytest.raises(CheckpointError, match="agentview, but its environment has wrist, front; missing: agentview"):
        load_policy(folder, CPU)


def test_another_task_than_the_trained_one_is_refused(folder):
    checkpoint, _ = load_checkpoint(folder)
    require_task(checkpoint, "Lift")
    require_task(checkpoint, None)
    with pytest.raises(CheckpointError, match="was trained on task 'Lift', not on 'Stack'"):
        require_task(checkpoint, "Stack")


def test_a_checkpoint_that_does_not_say_what_made_it_gets_nothing_of_the_loader(folder):
    for name in ("versions", "machines", "renderers"):
        edit(folder, lambda document, name=name: document.pop(name))
    checkpoint = load_checkpoint(folder)[0]
    assert (checkpoint.versions, checkpoint.machines, checkpoint.renderers) == ({}, [], [])
