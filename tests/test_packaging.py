"""The wheel and the sdist hold everything: each is installed away from the checkout and used there."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SMOKE_TEST = """
import sys
from pathlib import Path

import torch

import s2robot
import s2robot_envs
from s2robot import S2Encoder
from s2robot.config import CONFIG_DIR

prefix = Path(sys.prefix).resolve()
for installed in (s2robot.__file__, s2robot_envs.__file__, CONFIG_DIR):
    assert prefix in Path(installed).resolve().parents, f"{installed} is not inside {prefix}"
assert (CONFIG_DIR / "train_policy.yaml").is_file(), f"no train_policy.yaml in {CONFIG_DIR}"

encoder = S2Encoder("test_efficientnet", scales=(64, 128), weights="none")
features = encoder(torch.randint(0, 256, (1, 128, 128, 3), dtype=torch.uint8))
assert features.map.shape[0] == 1 and torch.isfinite(features.map).all()
"""


PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it prints; a failure shows both of its streams."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, Path]:
    """The wheel and the sdist of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--directory", folder, cwd=ROOT)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def install(archive: Path, folder: Path) -> Path:
    """Install a wheel into a new environment that sees the dependencies, but not this checkout.

    The dependencies come from this interpreter's site-packages as plain search paths: `.pth` files in there, such as
    the one of an editable s2robot, are not followed.

    Returns:
        The environment's folder of executables.
    """
    venv.EnvBuilder(symlinks=True).create(folder)  # a copied interpreter may not find its library
    python = folder / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", archive, cwd=folder)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    dependencies = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return folder / "bin"


def test_installed_wheel_works_away_from_the_checkout(archives, tmp_path):
    executables = install(archives["wheel"], tmp_path / "environment")
    run(executables / "python", "-I", "-c", SMOKE_TEST, cwd=tmp_path)
    assert "usage: s2robot" in run(executables / "s2robot", "--help", cwd=tmp_path)


def test_the_wheel_that_the_sdist_alone_builds_is_the_same(archives, tmp_path):
    # The backend is here already: no download.
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, archives["sdist"], cwd=tmp_path)
    (built,) = tmp_path.glob("*.whl")
    contents = [
        {entry.filename: entry.CRC for entry in zipfile.ZipFile(wheel).infolist()}
        for wheel in (built, archives["wheel"])
    ]
    assert contents[0] == contents[1]


def test_wheel_holds_two_packages_and_no_generic_top_level_name(archives):
    names = zipfile.ZipFile(archives["wheel"]).namelist()
    top_level = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top_level == {"s2robot", "s2robot_envs"}
    assert {"s2robot/py.typed", "s2robot_envs/py.typed", "s2robot/configs/train_policy.yaml"} <= set(names)


def test_wheel_holds_every_source_and_configuration_file(archives):
    sources = [*ROOT.glob("s2robot/**/*.py"), *ROOT.glob("configs/**/*.yaml"), *ROOT.glob("envs/**/*.py")]
    expected = {str(path.relative_to(ROOT)).removeprefix("envs/") for path in sources}
    expected = {f"s2robot/{name}" if name.startswith("configs/") else name for name in expected}
    assert expected <= set(zipfile.ZipFile(archives["wheel"]).namelist())


def test_both_archives_carry_the_licence(archives):
    wheel_names = zipfile.ZipFile(archives["wheel"]).namelist()
    with tarfile.open(archives["sdist"]) as sdist:
        sdist_names = sdist.getnames()
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)
    assert any(name.endswith("/LICENSE") for name in sdist_names)
