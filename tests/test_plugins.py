"""A package of somebody else's, built and installed by pip: all that it adds is chosen by name on the command line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from contributed import entry_of
from installed import run_verbs, run_with
from moving_square import frames, numbers

KINDS = {
    "A policy": "s2robot.policies",
    "A readout": "s2robot.readouts",
    "A dataset format": "s2robot.formats",
    "An expert": "s2robot.experts",
}
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "acme-robots"
version = "3.1"

[tool.hatch.build.targets.wheel]
packages = ["acme_robots"]
"""
TASK = """
from s2robot_envs.tasks import TASKS, TaskSpec

carton = TaskSpec("PickPlaceMilk", 400, ("agentview",), TASKS["PickPlaceCan"].proprioception)
"""
POLICY, READOUT = entry_of("A policy")[0], entry_of("A readout")[0]
TINY = [
    f"policy={POLICY}",
    f"readout={READOUT}",
    "encoder=test_vit",
    "encoder.weights=none",
    "encoder.scales=[32]",
    "training.epochs=1",
    "device=cpu",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder into which pip installed the package: CONTRIBUTING.md's own files, under other names."""
    pytest.importorskip("hatchling", reason="hatchling is not installed (pip install -e '.[dev]')")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "acme_robots").mkdir()
    (source / "acme_robots" / "__init__.py").touch()
    (source / "acme_robots" / "tasks.py").write_text(TASK)
    points = ['[project.entry-points."s2robot.tasks"]', 'PickPlaceMilk = "acme_robots.tasks:carton"']
    for section, group in KINDS.items():
        name, code, module, attribute = entry_of(section)
        (source / "acme_robots" / f"{module}.py").write_text(code)
        points += [f'[project.entry-points."{group}"]', f'{name} = "acme_robots.{module}:{attribute}"']
    (source / "pyproject.toml").write_text(PROJECT + "\n".join(points))
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([*command, "--target", str(target), str(source)], check=True, env=environment)
    return target


def test_policy_readout_and_format_train_and_the_checkpoint_names_their_package(site, tmp_path):
    arrays = {}
    for seed, length in enumerate((6, 9)):
        arrays[f"episode_{seed}/actions"] = numbers(length, 2, 10 + seed)
        arrays[f"episode_{seed}/position"] = numbers(length, 3, seed)
        arrays[f"episode_{seed}/front_image"] = frames(length, seed)
    np.savez(tmp_path / "squares.npz", **arrays)
    places = [f"dataset={tmp_path / 'squares.npz'}", f"output={tmp_path / 'run'}", f"cache_dir={tmp_path / 'cache'}"]
    run_verbs(site, ["train", *places, *TINY])
    document = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
    assert document["packages"] == {
        f"policy {POLICY}": "acme-robots 3.1",
        f"readout {READOUT}": "acme-robots 3.1",
        "dataset format npz": "acme-robots 3.1",
    }


@pytest.mark.sim
def test_task_and_expert_are_collected_trained_on_and_evaluated_and_every_file_names_their_package(site, tmp_path):
    demos, run = tmp_path / "milk.hdf5", tmp_path / "run"
    words = [f"checkpoint={run / 'checkpoint'}", "episodes=1", "horizon=4", "videos=0", "num_envs=1"]
    run_verbs(
        site,
        ["collect", "task=PickPlaceMilk", "num=2", "size=32", "noise=0", "workers=1", f"out={demos}"],
        ["train", f"dataset={demos}", f"output={run}", f"cache_dir={tmp_path / 'cache'}", *TINY],
        ["evaluate", *words, f"output={tmp_path / 'results'}", "device=cpu"],
    )
    packages = json.loads((run / "checkpoint" / "config.json").read_text())["packages"]
    names = [f"policy {POLICY}", f"readout {READOUT}", "task PickPlaceMilk", "expert PickPlaceMilk"]
    assert packages == dict.fromkeys(names, "acme-robots 3.1")
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert results["training_packages"] == packages
    assert results["packages"].items() >= {names[0]: "acme-robots 3.1", names[1]: "acme-robots 3.1"}.items()


def test_without_the_package_its_names_are_unknown(tmp_path):
    done = run_with(
        tmp_path, "-m", "s2robot.cli", "collect", "task=PickPlaceMilk", "num=1", f"out={tmp_path / 'a.hdf5'}"
    )
    assert done.returncode == 2
    assert "unknown task 'PickPlaceMilk'; did you mean 'PickPlaceCan'?" in done.stderr
