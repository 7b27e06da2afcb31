"""Success of the scripted experts over seeds, with the noise that `s2robot collect` executes.

Run: python benchmarks/experts.py [--tasks Lift metaworld:reach-v3] [--episodes 200] [--workers 1] [--log FILE]
Prints a Markdown table. Every episode is one call of `collect_episode`, the function behind `s2robot collect`, without
cameras (the experts read the simulator's state). So an attempt succeeds here if `s2robot collect` would keep it.
With --log FILE, outcomes are stored as they come, and an interrupted run continues after them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from s2robot.statistics import wilson_interval
from s2robot_envs import collect_episode, make_env
from s2robot_envs.experts import EXPERTS, make_expert
from s2robot_envs.pool import run_in_order


@functools.cache
def resources(task: str) -> tuple:
    """Make one environment and expert for all episodes of a process."""
    return make_env(task, cameras=()), make_expert(task)


def attempt(job: tuple[str, float], seed: int) -> tuple[bool, int]:
    """Return whether the expert solved the task from this seed, and in how many steps."""
    task, noise = job
    episode = collect_episode(*resources(task), seed, noise)
    return bool(episode["success"]), len(episode["actions"])


def attempts(task: str, noise: float, seeds: list[int], workers: int) -> Iterator[tuple[int, tuple[bool, int]]]:
    """Yield every seed with its outcome and steps, in order."""
    if workers == 1:
        yield from ((seed, attempt((task, noise), seed)) for seed in seeds)
        return
    with contextlib.closing(run_in_order(attempt, (task, noise), seeds, workers)) as results:
        yield from ((seed, future.result()) for seed, future in results)


def logged(log: Path | None, task: str, noise: float) -> dict[int, tuple[bool, int]]:
    """Read the outcomes of an earlier run."""
    lines = log.read_text().splitlines() if log is not None and log.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("]")]  # the last line may be incomplete
    return {seed: (success, steps) for name, n, seed, success, steps in entries if (name, n) == (task, noise)}


def measure(task: str, noise: float, seeds: range, workers: int, log: Path | None) -> list[tuple[bool, int]]:
    """Return outcome and steps of every seed; seeds that are not in the log are attempted now."""
    outcomes = logged(log, task, noise)
    left = [seed for seed in seeds if seed not in outcomes]
    for seed, outcome in tqdm(attempts(task, noise, left, workers), task, len(left), leave=False):
        outcomes[seed] = outcome
        if log is not None:
            with log.open("a") as file:
                file.write(json.dumps([task, noise, seed, *outcome]) + "\n")
    return [outcomes[seed] for seed in seeds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[task for task in EXPERTS if ":" not in task],
        help="any with an expert; metaworld: all of Meta-World's",
    )
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=10_000, help="10000: the seeds of `s2robot collect seed=1`")
    parser.add_argument("--noise", type=float, default=0.15, help="of the executed action, as in `s2robot collect`")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.episodes)
    print(f"seeds {seeds[0]} to {seeds[-1]}, noise {options.noise}\n")
    print("| task | solved | success | 95% Wilson interval | steps, median (solved) | failed seeds |")
    print("|---|---|---|---|---|---|", flush=True)
    tasks = options.tasks
    if tasks == ["metaworld"]:
        from metaworld.policies import ENV_POLICY_MAP

        tasks = [f"metaworld:{name}" for name in ENV_POLICY_MAP]
    for task in tasks:
        outcomes = measure(task, options.noise, seeds, options.workers, options.log)
        solved = sum(success for success, _ in outcomes)
        low, high = wilson_interval(solved, len(outcomes))
        steps = np.median([length for success, length in outcomes if success]) if solved else float("nan")
        failed = ", ".join(str(seed) for seed, (success, _) in zip(seeds, outcomes, strict=True) if not success)
        print(
            f"| {task} | {solved}/{len(outcomes)} | {solved / len(outcomes):.1%} | {low:.1%} to {high:.1%} "
            f"| {steps:g} | {failed or 'none'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
