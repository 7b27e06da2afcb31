"""Time and memory of a report over 200 cells of 500 episodes.

Run: python benchmarks/report.py [--policies 2] [--episodes 500]
Cells: 2 tasks × policies × 6 backbones × 3 scale sets × 3 training seeds, synthetic outcomes.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from report_results import write_benchmark

from s2robot.report import write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=500)
    arguments = parser.parse_args()
    backbones = {f"backbone{index}": (0.4 * 2**index, 5e6 * (index + 1)) for index in range(6)}
    policies = tuple(f"policy{index}" for index in range(arguments.policies))
    with tempfile.TemporaryDirectory() as folder:
        write_benchmark(Path(folder), policies=policies, backbones=backbones, episodes=arguments.episodes)
        cells = len(list(Path(folder).rglob("results.json")))
        start, cpu = time.perf_counter(), time.process_time()
        write_report([folder], Path(folder) / "out")
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("| cells | episodes each | seconds | processor seconds | peak memory |\n|---|---|---|---|---|")
    print(f"| {cells} | {arguments.episodes} | {seconds:.1f} | {cpu:.1f} | {megabytes:.0f} MB |")


if __name__ == "__main__":
    main()
