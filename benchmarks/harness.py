"""The time that the benchmark's harness adds to the cells' own time.

Run: python benchmarks/harness.py [key=value …]     (settings of `s2robot benchmark`; default: configs/benchmark.yaml)

A cell's own time is the time of `collect`, `train` and `evaluate`: collecting, loading the encoder, encoding, training
and rollouts. The rest is the harness: keys, locks, the plan, joining results, `results.parquet`. The report is written
once, and its time is printed separately.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from s2robot.benchmark import make_grid, run_benchmark, runner
from s2robot.benchmark.output import read_results
from s2robot.cli.demonstrations import collect_demonstrations
from s2robot.cli.words import compose
from s2robot_envs import default_num_envs, make_vector_env


def timed(work: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Wrap a function so that it also records how long each call takes."""

    def run(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            seconds.append(time.perf_counter() - start)

    return run


def main() -> None:
    collecting: list[float] = []
    reporting: list[float] = []
    runner.write_report = timed(runner.write_report, reporting)
    with tempfile.TemporaryDirectory() as folder:
        config = compose("benchmark", [f"output={folder}", *sys.argv[1:]])
        num_envs = config.num_envs or default_num_envs()
        start = time.perf_counter()
        run_benchmark(config, timed(collect_demonstrations, collecting), make_vector_env, num_envs)
        total = time.perf_counter() - start - sum(reporting)
        cells = make_grid(config).cells
        stages = [(read_results(Path(folder), cell) or {})["stage_seconds"] for cell in cells]
    own = sum(collecting) + sum(sum(stage.values()) - stage["demonstrations"] for stage in stages)
    print("| cells | their own time | with the harness | overhead | report |\n|---|---|---|---|---|")
    print(f"| {len(cells)} | {own:.1f} s | {total:.1f} s | {100 * (total / own - 1):.2f}% | {sum(reporting):.1f} s |")


if __name__ == "__main__":
    main()
