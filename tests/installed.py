"""Packages as `pip install` leaves them behind: a module, and a dist-info with entry points."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def install(site: Path, package: str, module: str, entries: dict[str, dict[str, str]], version: str = "1.2") -> None:
    """Write an installed package with one module into a folder.

    Args:
        site: the folder, which tests put on the path.
        package: name of the distribution and of its module.
        module: source of the module.
        entries: entry-point group -> name -> "module:attribute".
        version: version of the distribution.
    """
    (site / f"{package}.py").write_text(module)
    info = site / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = []
    for group, points in entries.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))


def run_with(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments, with the packages of a folder installed in addition to this checkout's."""
    root = Path(__file__).parents[1]
    return run_python([site, root, root / "envs"], *arguments)


def run_verbs(site: Path, *commands: Sequence[str]) -> str:
    """Run several commands of `s2robot`, which must succeed, in one process: each process imports torch for seconds."""
    done = run_with(site, "-c", _VERBS, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    return done.stdout


_VERBS = """
import json, sys
from s2robot.cli import main
for words in json.loads(sys.argv[1]):
    if main(words):
        sys.exit(f"failed: {words}")
"""


def run_python(folders: Sequence[Path], *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments, with these folders first on its path."""
    path = os.pathsep.join(map(str, [*folders, *filter(None, [os.environ.get("PYTHONPATH")])]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=cwd)
