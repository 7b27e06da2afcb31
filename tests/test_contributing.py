"""CONTRIBUTING.md, followed to the letter: its files are written into a copy of the package, which then runs them."""

import re
import shutil
from collections import defaultdict

import h5py
import numpy as np
import pytest
from contributed import PAGE, ROOT, SECTIONS, blocks_of, entry_of
from installed import run_python
from moving_square import frames, numbers


def changed(source, diff):
    """`source` after a diff whose hunks are found by their lines, not by numbers."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        assert source.count(old) == 1, f"CONTRIBUTING.md changes what is not there, or is there twice:\n{old}"
        source = source.replace(old, new)
    return source


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package with all that CONTRIBUTING.md adds."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("s2robot", "envs", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for section in SECTIONS:
        for language, path, content in blocks_of(section):
            file = folder / path
            if language == "python":
                assert not file.exists()
                file.write_text(content, encoding="utf-8")
            else:
                file.write_text(changed(file.read_text(encoding="utf-8"), content), encoding="utf-8")
    return folder


def run(package, *words):
    """`s2robot` of the copy, which must succeed."""
    done = run_python([package, package / "envs"], "-m", "s2robot.cli", *words, cwd=package)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """A dataset of the format that CONTRIBUTING.md adds, written by NumPy."""
    path = tmp_path_factory.mktemp("demos") / "squares.npz"
    arrays = {}
    for seed, length in enumerate((6, 9)):
        arrays |= {
            f"episode_{seed}/actions": numbers(length, 2, 10 + seed),
            f"episode_{seed}/position": numbers(length, 3, seed),
            f"episode_{seed}/front_image": frames(length, seed),
        }
    np.savez(path, **arrays)
    return path


def test_each_kind_takes_as_many_files_and_lines_as_the_table_says():
    table = PAGE.read_text(encoding="utf-8").split("## Adding a choice")[1].split("### ")[0]
    rows = {
        cells[0]: cells[1:3]
        for cells in (re.split(r" *\| *", row.strip("| ")) for row in table.splitlines())
        if len(cells) == 4
    }
    for section, kind in SECTIONS.items():
        files, lines = 0, defaultdict(int)
        for language, path, content in blocks_of(section):
            files += language == "python"
            if language == "diff":
                lines[path] += sum(line.startswith("+") for line in content.splitlines())
        assert len(lines) == 1, section
        suffix = ", of one file" if kind == "task variant" else ""
        assert rows[kind] == [str(files), f"{sum(lines.values())}{suffix}"]


def test_policy_readout_format_and_backbone_of_the_page_train_together(package, demonstrations, tmp_path):
    policy, readout = entry_of("A policy")[0], entry_of("A readout")[0]
    assert "NumPy" in run(package, "inspect", str(demonstrations))
    output = run(
        package,
        "train",
        f"dataset={demonstrations}",
        f"policy={policy}",
        f"readout={readout}",
        "encoder=test_resnet",
        "encoder.weights=none",
        "encoder.scales=[32,64]",
        "training.epochs=1",
        "device=cpu",
        f"output={tmp_path / 'run'}",
        f"cache_dir={tmp_path / 'cache'}",
    )
    assert (tmp_path / "run" / "checkpoint" / "policy.safetensors").is_file(), output
    document = (tmp_path / "run" / "checkpoint" / "config.json").read_text()
    assert all(f'"name": "{name}"' in document for name in (policy, readout))


def test_the_page_says_what_a_damaged_file_of_its_format_ends_in(package, demonstrations, tmp_path):
    damaged = tmp_path / "damaged.npz"
    content = demonstrations.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    done = run_python([package, package / "envs"], "-m", "s2robot.cli", "inspect", str(damaged), cwd=package)
    assert done.returncode == 2
    assert "damaged.npz" in done.stderr
    assert "cannot be read" in done.stderr


@pytest.mark.sim
def test_task_expert_and_variant_of_the_page_collect(package, tmp_path):
    out = tmp_path / "milk.hdf5"
    words = ["task=PickPlaceMilk", "num=1", "size=16", "noise=0", "workers=1", "variant.darkness=0.5"]
    run(package, "collect", *words, "cameras=[agentview]", f"out={out}")
    with h5py.File(out) as file:
        assert len(file["data"]) == 1
        assert '"darkness": 0.5' in file["data"].attrs["env_args"]
