"""How far arms get from where they were recorded, when recorded actions are replayed in the rebuilt environment.

    python benchmarks/recordings.py [FILE.hdf5 …]

Without files, robosuite's own recorder makes one demonstration per line: task, robot, controller and control frequency
of `tests/robosuite_recordings.py`. Files are raw recordings by people (robosuite's `demo.hdf5`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from robosuite_recordings import CASES, farthest, replayed

from s2robot.cli import main as s2robot
from s2robot.data import open_dataset
from s2robot_envs import make_env


def own_line(name: str) -> str:
    """Record one case and replay it."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        *_, apart, moved = replayed(Path(folder), case)
    settings = f"{case.controller}, {name}" if case.settings else case.controller
    return (
        f"| `{case.task}` | {case.robot} | {settings} | {case.control_freq} | {1000 * moved:.0f} | {1000 * apart:.2g} |"
    )


def lines_of(path: Path) -> list[str]:
    """Render a file of others and replay each of its demonstrations."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "new.hdf5"
        with contextlib.redirect_stdout(io.StringIO()):
            words = [f"dataset={path}", f"out={out}", "size=32", "cameras=[agentview]", "workers=1"]
            assert s2robot(["render", *words]) == 0
        with open_dataset(out) as dataset:
            env = make_env(**dataset.env_args["s2robot"])
            lines = []
            for index, demo in enumerate(dataset.demos):
                episode = dataset.episode(index, cameras=[], proprioception=[])
                apart, moved = farthest(env, episode)
                version, steps = dataset.env_args["env_version"], len(episode)
                lines.append(f"| {version} | {demo} | {steps} | {1000 * moved:.0f} | {1000 * apart:.2g} |")
            env.close()
    return lines


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    files = parser.parse_args().files
    last = "farthest the hand was recorded to move [mm] | largest distance in the replay [mm]"
    if files:
        print(f"| robosuite | demonstration | steps | {last} |\n|---|---|---|---|---|")
        for path in files:
            print("\n".join(lines_of(path)), flush=True)
        return
    print(f"| task | robot | controller | actions/s | {last} |\n|---|---|---|---|---|---|")
    for name in CASES:
        print(own_line(name), flush=True)


if __name__ == "__main__":
    main()
