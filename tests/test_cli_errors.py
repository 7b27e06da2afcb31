"""What the machine refuses (paths, disk, memory) is said in one line with exit status 2; it is no bug."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import write_dataset

from s2robot.cli import main
from s2robot.config import CONFIG_DIR


def fails(capsys, *words):
    status, told = main(list(words)), capsys.readouterr().err
    assert status == 2, told
    return told.splitlines()[-1]


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "demos.hdf5", (3,))


@pytest.mark.parametrize("name", ["copy.hdf5", "lerobot/demos"])
def test_an_output_below_a_file_names_the_file(dataset, tmp_path, capsys, name):
    (tmp_path / "file").touch()
    told = fails(capsys, "convert", f"dataset={dataset}", f"out={tmp_path}/file/{name}")
    assert told.startswith(f"error: '{tmp_path}/file")
    reason = os.strerror(errno.ENOTDIR)
    assert told.endswith(
        ("is a file, but a folder is needed; give another path", f"cannot be read or written: {reason}")
    )


def test_an_output_where_nothing_can_be_written_names_it(dataset, tmp_path, capsys, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        told = fails(capsys, "convert", f"dataset={dataset}", f"out={tmp_path}/nowhere/copy.hdf5")
    assert told.startswith(f"error: '{tmp_path}/nowhere")
    assert told.endswith(f"' cannot be read or written: {os.strerror(errno.EROFS)}")


def test_a_folder_in_place_of_a_file_is_named(dataset, tmp_path, capsys):
    told = fails(capsys, "inspect", str(dataset), f"sheet={tmp_path}")
    assert told == f"error: '{tmp_path}' cannot be read or written: {os.strerror(errno.EISDIR)}"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "file write failed\n, filename = 'x'"), "cannot be written: No space left on device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "cannot be written: Disk quota exceeded"),
        (PermissionError(errno.EACCES, "denied", "/root/x"), "'/root/x' cannot be read or written: Permission denied"),
        (MemoryError(), "not enough memory: MemoryError; reduce training.batch_size, .*max_tiles .* encoder.scales"),
        (
            RuntimeError("[x] DefaultCPUAllocator: can't allocate memory: you tried"),
            "not enough memory: can't allocate memory: you tried",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough memory: CUDA"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
    ],
)
def test_what_the_machine_lacks_is_no_bug(capsys, monkeypatch, error, message):
    def broken(words):
        raise error

    monkeypatch.setattr("s2robot.cli.verbs.encoders", broken)
    assert re.search(f"^error: .*{message}", fails(capsys, "encoders"))


@pytest.mark.parametrize("error", [OSError("libEGL.so: cannot open"), RuntimeError("sizes differ")])
def test_other_errors_from_outside_stay_bugs(capsys, monkeypatch, error):
    def broken(words):
        raise error

    monkeypatch.setattr("s2robot.cli.verbs.encoders", broken)
    assert main(["encoders"]) == 1
    assert "internal error" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["collect", "render"])
@pytest.mark.parametrize("name", ["demos.txt", "demos", "demos.HDF5"])
def test_demonstrations_are_not_recorded_into_a_file_that_nothing_opens(capsys, tmp_path, verb, name):
    words = ["dataset=nowhere.hdf5"] if verb == "render" else ["task=nowhere"]
    told = fails(capsys, verb, *words, f"out={tmp_path}/{name}")
    assert told == f"error: out='{tmp_path}/{name}' is not possible; valid: a file name that ends in .hdf5 or .h5"


COMMANDS = {  # each with a part of its answer
    "train dataset=missing.hdf5": "dataset 'missing.hdf5' does not exist",
    "train dataset=missing.hdf5 policy=knn readout=attention": "dataset 'missing.hdf5' does not exist",
    "train dataset=missing.hdf5 policy=nope": "unknown policy 'nope'",
    "train dataset=missing.hdf5 readout=nope": "unknown readout 'nope'",
    "train dataset=missing.hdf5 encoder=nope": "unknown encoder 'nope'",
    "train dataset=missing.hdf5 policy.hiden=[3]": "did you mean 'policy.hidden'",
    "train dataset=broken.hdf5": "broken.hdf5': cannot be read",
    "train -h": None,
    "encode dataset=missing.hdf5": "dataset 'missing.hdf5' does not exist",
    "evaluate checkpoint=missing": "checkpoint 'missing' has no config.json",
    "evaluate checkpoint=missing episodes=0": "episodes=0 is not possible",
    "export checkpoint=missing out=policy.onnx": "checkpoint 'missing' has no config.json",
    "serve checkpoint=missing": "checkpoint 'missing' has no config.json",
    "benchmark output=o dry_run=true policy=nope": "unknown policy 'nope'",
    "benchmark output=o dry_run=true controls=[nope]": "unknown control 'nope'",
    "inspect missing.hdf5": "dataset 'missing.hdf5' does not exist",
    "train_policy.py dataset=missing.hdf5": "dataset 'missing.hdf5' does not exist",
}
LOOK = """
import contextlib, io, json, runpy, sys
from s2robot.cli import main
for command in json.loads(sys.argv[1]):
    words, told = command.split(), io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        if words[0] == "train_policy.py":
            sys.argv = words
            try:
                runpy.run_path(SCRIPT, run_name="__main__")
            except SystemExit as error:
                print(error.code, file=told)
        else:
            main(words)
    loaded = [name for name in ("timm", "diffusers", "scipy", "openvino") if name in sys.modules]
    print(json.dumps([told.getvalue(), loaded]))
"""


def test_mistakes_are_answered_before_the_slow_packages_are_imported(tmp_path):
    """They take five seconds. torch takes two, which a policy's settings, beside their class, need anyway."""
    (tmp_path / "broken.hdf5").write_bytes(b"no HDF5")
    code = LOOK.replace("SCRIPT", repr(str(CONFIG_DIR.parent / "train_policy.py")))
    command = [sys.executable, "-c", code, json.dumps(list(COMMANDS))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (command, part), (told, loaded) in zip(COMMANDS.items(), answers, strict=True):
        assert (part in told) if part else not told, (command, told)
        assert loaded == [], command
