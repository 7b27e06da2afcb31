"""Success of the policies: demonstrations, training and rollouts of each experiment, for the table of docs/results.md.

Run: python benchmarks/results.py [key=value …] [--experiments NAME …] [--episodes 200] [--output outputs/results]
     (key=value words come first and go to training, for example encoder.engine=openvino device=cpu)
All experiments take hours on two cores. An interrupted run continues with the same command; finished experiments are
only printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

# First word of an experiment's name -> task, demonstrations, pixels, first seed of the rollouts.
TASKS = {
    "lift": ("Lift", 120, 448, 100_000),
    "can": ("PickPlaceCan", 200, 224, 100_000),
    # Their `execute_steps` was chosen on the first seeds, so those are not evaluated again.
    "stack": ("Stack", 200, 224, 100_200),
    "square": ("NutAssemblySquare", 200, 224, 100_200),
}
EXPERIMENTS = sorted(
    path.stem
    for path in (Path(__file__).parents[1] / "configs/experiment").glob("*.yaml")
    if path.stem.partition("_")[0] in TASKS
)


def s2robot(*words: str) -> None:
    """Run one verb, with its own messages and progress shown."""
    subprocess.run([sys.executable, "-m", "s2robot.cli", *words], check=True)


def run(experiment: str, output: Path, episodes: int, words: list[str]) -> dict:
    """Run everything that one row needs and that does not exist yet; return the evaluation's results."""
    task, demonstrations, size, first_seed = TASKS[experiment.partition("_")[0]]
    dataset = output / f"{task}_{demonstrations}.hdf5"
    folder = output / experiment
    results = folder / "results.json"
    if results.exists() and json.loads(results.read_text())["episodes"] >= episodes:
        return json.loads(results.read_text())
    s2robot("collect", f"task={task}", f"num={demonstrations}", f"size={size}", f"out={dataset}")
    cache = f"cache_dir={output / 'feature_cache'}"
    s2robot("train", f"+experiment={experiment}", f"dataset={dataset}", f"output={folder}", cache, *words)
    rollouts = [
        f"episodes={episodes}",
        f"first_seed={first_seed}",
        *(word for word in words if word.startswith("device=")),
    ]
    s2robot("evaluate", f"checkpoint={folder / 'checkpoint'}", f"output={folder}", *rollouts)
    return json.loads(results.read_text())


def row(experiment: str, results: dict) -> str:
    """Return one line of the table."""
    low, high = results["interval"]
    scales = ", ".join(map(str, results["scales"]))
    cells = [
        experiment,
        results["task"],
        str(results["demonstrations"]),
        f"{results['backbone']} {{{scales}}}",
        f"{results['successes']}/{results['episodes']}",
        f"{100 * results['success_rate']:.1f}% ({100 * low:.1f} to {100 * high:.1f})",
        f"{results['seconds'] / 60:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS, choices=EXPERIMENTS, metavar="NAME")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("outputs/results"))
    options, words = parser.parse_known_args()
    rows = []
    for experiment in options.experiments:
        rows.append(row(experiment, run(experiment, options.output, options.episodes, words)))
        print("| experiment | task | demonstrations | encoder | solved | success (95% Wilson) | rollouts [min] |")
        print("|---|---|---:|---|---:|---|---:|")
        print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
