"""The margins of the tests' trained toys: distances from their bounds in standard deviations over seeds.

    python benchmarks/toy_margins.py [--seeds 20] [--only flow]

A test trains each toy once, so its measure is one random draw, which another processor or release of torch changes. A
bound that is four deviations away is practically never crossed; one at two deviations is crossed on every twentieth
machine.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from trained_toys import ANY, FOR_COMPARISON, TOYS, Toy

WANTED = 4.0


def rows(name: str, toy: Toy, seeds: range) -> Iterator[tuple[str, float]]:
    """Yield a line of the table, and the margin, for each measure of a toy."""
    measured = [toy.measure(seed) for seed in seeds]
    for measure in measured[0]:
        values = [found[measure] for found in measured]
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        low, high = toy.bounds.get(measure, ANY)
        distance = min(mean - low, high - mean)
        margin = distance / deviation if deviation and distance < math.inf else math.copysign(math.inf, distance)
        row = (name, measure, f"{mean:.3f}", f"{deviation:.3f}", f"{min(values):.3f} to {max(values):.3f}")
        yield "| " + " | ".join((*row, f"{low:g} to {high:g}", f"{margin:.1f}")) + " |", margin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default="", help="toys whose name holds this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, ", end="")
    print(f"{options.seeds} seeds\n\n| toy | measure | mean | deviation | range | bounds | margin |")
    print("|---|---|---:|---:|---|---|---:|", flush=True)
    least = math.inf
    for name, toy in {**TOYS, **FOR_COMPARISON}.items():
        if options.only in name:
            for line, margin in rows(name, toy, range(options.seeds)):
                print(line, flush=True)
                least = min(least, margin)
    print(f"\nLeast margin: {least:.1f} standard deviations")
    sys.exit(least < WANTED)


if __name__ == "__main__":
    main()
