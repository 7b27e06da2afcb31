"""The policy and the readout of outside_package/, installed: trained with, recorded, and told apart by version."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import make_workspace

SOURCES = Path(__file__).parent / "outside_package"
POINTS = (("policies", "my_policy", "MyPolicy"), ("readouts", "my_readout", "MyReadout"))
RUN = """
import json, sys
sys.path[:0] = [{site!r}, {tests!r}]
from s2robot.cli import main
sys.exit(main({words!r}))
"""
CHOICES = ["policy=my_policy", "policy.power=1", "readout=my_readout", "readout.values=2"]
TOY = [
    "encoder.backbone=test_efficientnet",
    "encoder.weights=none",
    "encoder.scales=[64]",
    "training.epochs=2",
    "training.validation_fraction=0.2",
    "device=cpu",
]


def install(site: Path, version: str) -> None:
    """What `pip install` leaves behind of a package with a policy, a readout and their entry points."""
    package = site / "my_package"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    for name in ("my_policy", "my_readout"):
        shutil.copy(SOURCES / f"{name}.py", package)
    for old in site.glob("*.dist-info"):
        old.rename(site / f"my_package-{version}.dist-info")
    info = site / f"my_package-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: my-package\nVersion: {version}\n")
    points = (f"[s2robot.{group}]\n{name} = my_package.{name}:{cls}\n" for group, name, cls in POINTS)
    (info / "entry_points.txt").write_text("\n".join(points))


def run(site: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    code = RUN.format(site=str(site), tests=str(Path(__file__).parent), words=words)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of the packages, words of the command, and what it left."""
    folder = tmp_path_factory.mktemp("outside")
    make_workspace(folder)
    install(folder / "site", "1.2")
    words = ["train", f"dataset={folder / 'demos.hdf5'}", f"cache_dir={folder / 'cache'}", f"output={folder / 'run'}"]
    words += [*TOY, *CHOICES]
    done = run(folder / "site", words)
    assert done.returncode == 0, done.stderr
    return folder, words


def test_it_trains_and_the_checkpoint_names_the_package_and_the_settings_of_its_own(trained):
    document = json.loads((trained[0] / "run/checkpoint/config.json").read_text())
    assert document["packages"] == {"policy my_policy": "my-package 1.2", "readout my_readout": "my-package 1.2"}
    assert document["config"]["policy"]["power"] == 1
    assert document["config"]["readout"]["values"] == 2


def test_the_checkpoint_loads_where_the_package_is_and_says_what_is_missing_where_it_is_not(trained, tmp_path):
    export = [
        "export",
        f"checkpoint={trained[0] / 'run/checkpoint'}",
        f"out={tmp_path / 'policy.pt2'}",
        "format=torch_export",
        "image_size=[64,64]",
    ]
    done = run(tmp_path / "nothing", export)
    assert done.returncode == 2
    assert "unknown policy 'my_policy'" in done.stderr
    done = run(trained[0] / "site", export)
    assert done.returncode == 0, done.stderr


def test_another_version_does_not_go_on_with_the_run(trained):
    folder, words = trained
    install(folder / "site", "1.3")
    try:
        done = run(folder / "site", words)
    finally:
        install(folder / "site", "1.2")
    assert done.returncode == 2
    assert "holds a run with other settings (packages" in done.stderr


@pytest.mark.parametrize(
    ("source", "reason"),
    [("boom: np.ndarray = None", "ValidationError"), ("boom: int = field(default_factory=lambda: 1 // 0)", "ZeroDiv")],
)
def test_impossible_settings_are_an_error_only_for_who_asks_for_them(trained, tmp_path, source, reason):
    words = trained[1]
    install(tmp_path, "2.0")
    module = tmp_path / "my_package/my_policy.py"
    module.write_text(f"""
from dataclasses import dataclass, field
import numpy as np
from s2robot.config import PolicyConfig

@dataclass
class Settings(PolicyConfig):
    {source}

class MyPolicy:
    settings = Settings
""")
    done = run(tmp_path, words)
    assert done.returncode == 2, done.stderr
    assert "policy 'my_policy' of my-package 2.0 has no valid default settings" in done.stderr.splitlines()[-1]
    assert reason in done.stderr.splitlines()[-1]
    others = [word for word in words if not word.startswith(("policy", "dataset"))]
    done = run(tmp_path, [*others, "dataset=nowhere", "policy=bc"])
    assert "error: dataset 'nowhere' does not exist" in done.stderr.splitlines()[-1]


def test_unknown_name_offers_those_of_the_package_too(trained):
    folder, words = trained
    done = run(folder / "site", [*words, "policy=my_polici"])
    assert done.returncode == 2
    assert "did you mean 'my_policy'" in done.stderr


def test_a_broken_package_is_an_error_only_for_who_asks_for_it(trained, tmp_path):
    words = trained[1]
    install(tmp_path, "2.0")
    (tmp_path / "my_package/my_policy.py").write_text("import no_such_library")
    done = run(tmp_path, words)
    assert done.returncode == 2
    assert "policy 'my_policy' of my-package 2.0 cannot be imported" in done.stderr.splitlines()[-1]
    others = [word for word in words if not word.startswith("policy")]
    done = run(tmp_path, [*others, f"output={tmp_path / 'run'}", "policy=bc"])
    assert done.returncode == 0, done.stderr
    assert "my-package 2.0" in done.stderr
    document = json.loads((tmp_path / "run/checkpoint/config.json").read_text())
    assert document["packages"] == {"readout my_readout": "my-package 2.0"}
