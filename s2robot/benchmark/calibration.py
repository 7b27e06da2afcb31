"""Calibrated difficulty: the base arm alone, on seeds that no result of a benchmark will ever use.

A task that every arm solves, or none, tells no arms apart. A setting is therefore chosen by the base arm's success
alone, and frozen in the configuration with a `calibration` block before any contrast is looked at.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from s2robot import __version__
from s2robot.benchmark.cells import Arm, Cell, hash_json
from s2robot.benchmark.grid import Grid, make_grid
from s2robot.benchmark.stages import Collect, Stages, training_settings
from s2robot.config import CALIBRATION_SEED, BenchmarkConfig, TaskConfig, require
from s2robot.config.checks import require_types
from s2robot.evaluation import MakeVectorEnv
from s2robot.statistics import wilson_interval

WANTED = (0.3, 0.8)
"""Success of the base arm between which a task can tell arms apart."""

_BLOCK = {"arm": str, "first_seed": int, "last_seed": int, "date": str, "policies": dict[str, Any]}
_COUNTS = {"successes": int, "episodes": int}


def calibrate(
    config: BenchmarkConfig,
    collect: Collect,
    make_vector_env: MakeVectorEnv,
    num_envs: int,
    grid: Grid | None = None,
) -> list[dict[str, Any]]:
    """Train and roll out the base arm of every task on calibration seeds, `config.episodes` episodes each.

    The base arm is the first backbone at the first scale set under the first readout, with each policy. Initial states
    and the training seed start at `CALIBRATION_SEED`: apart from those of collections (below 100 000) and of
    evaluations (100 000 to 999 999). Finished stages are kept, as in a benchmark.

    Args:
        config: benchmark settings.
        collect: records demonstrations, see `Collect`.
        make_vector_env: makes environments, see `s2robot.evaluation`.
        num_envs: number of parallel environments.
        grid: result of `make_grid(config)`; None computes it here.

    Returns:
        Per task, the block to put under `calibration`.
    """
    arms = (grid or make_grid(config)).arms
    config = replace(config, cells=None)
    config.first_seed = CALIBRATION_SEED  # beyond what a benchmark accepts, which is the point
    stages = Stages(config, collect, make_vector_env, num_envs)
    return [_block(config, task, arms, stages) for task in config.task_list]


def blocks_text(config: BenchmarkConfig, blocks: list[dict[str, Any]]) -> str:
    """The blocks as YAML to paste, each with a word on whether the task can tell arms apart."""
    lines = []
    for task, block in zip(config.task_list, blocks, strict=True):
        for policy, counts in block["policies"].items():
            low, high = wilson_interval(counts["successes"], counts["episodes"])
            rate = counts["successes"] / counts["episodes"]
            word = "within" if WANTED[0] <= rate <= WANTED[1] else "OUTSIDE"
            lines.append(
                f"# {task.label}, {policy}: {rate:.0%} (95% interval {low:.0%} to {high:.0%}), {word} {WANTED[0]:.0%} "
                f"to {WANTED[1]:.0%}"
            )
        lines += [f"calibration: {json.dumps(block)}", ""]
    return "\n".join(lines).rstrip()


def calibration_statements(config: BenchmarkConfig, arms: Sequence[Arm], planned: str | None = None) -> list[str]:
    """One sentence per task: how its difficulty was chosen, and whether that holds for the settings of now.

    Args:
        config: benchmark settings.
        arms: all arms of its grid.
        planned: time at which its plan was written (ISO 8601); None if it has not been written yet.
    """
    return [_statement(task, _base_arms(arms), planned) for task in config.task_list]


def _base_arms(arms: Sequence[Arm]) -> list[Arm]:
    """The base encoder and readout with each policy."""
    return [arm for arm in arms if (arm.encoder, arm.readout) == (arms[0].encoder, arms[0].readout)]


def calibration_cells(arms: Sequence[Arm], task: TaskConfig) -> list[Cell]:
    """What `calibrate` runs of a task."""
    return [Cell(task, arm, CALIBRATION_SEED) for arm in _base_arms(arms)]


def _block(config: BenchmarkConfig, task: TaskConfig, arms: Sequence[Arm], stages: Stages) -> dict[str, Any]:
    policies = {}
    for cell in calibration_cells(arms, task):
        arm, documents = cell.arm, stages.rollouts(cell, config.episodes)
        policies[arm.policy.label] = {
            "successes": sum(document["successes"] for document in documents),
            "episodes": sum(document["episodes"] for document in documents),
            "settings": _identity(task, arm),
        }
    return {
        "arm": f"{arm.label}, {arm.readout.label}",
        "first_seed": CALIBRATION_SEED,
        "last_seed": CALIBRATION_SEED + config.episodes - 1,
        "training_seed": CALIBRATION_SEED,
        "policies": policies,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
    }


def _identity(task: TaskConfig, arm: Arm) -> str:
    """Hash of everything the calibrated rate depends on: a block of another setting is found out by it."""
    settings = training_settings(Cell(task, arm, 0))
    for rounding_only in ("engine", "channels_last", "max_tiles"):
        settings["encoder"].pop(rounding_only, None)
    return hash_json([settings, task.horizon])[:16]


def _statement(task: TaskConfig, base: Sequence[Arm], planned: str | None) -> str:
    block = task.calibration
    if block is None:
        return f"{task.label}: not calibrated; its difficulty was not chosen on separate seeds."
    _check_block(task, block)
    rates, stale = [], []
    for arm in base:
        counts = block.get("policies", {}).get(arm.policy.label)
        if counts is None or counts.get("settings") != _identity(task, arm):
            stale.append(arm.policy.label)
        if counts is not None:
            rates.append(f"{arm.policy.label} {counts['successes']} of {counts['episodes']}")
    statement = (
        f"{task.label}: calibrated on seeds {block['first_seed']} to {block['last_seed']} with {block['arm']} alone "
        f"({', '.join(rates)} solved) on {block['date']}"
    )
    if planned is not None:
        order = "not later than" if block["date"] <= planned[:10] else "LATER than"
        statement += f", {order} the day its contrasts were written down, {planned[:10]}"
    statement += "."
    if stale:
        statement += f" The settings of now are others than those calibrated, for {', '.join(stale)}."
    return statement


def _check_block(task: TaskConfig, block: dict[str, Any]) -> None:
    """Reject a block that `_block` cannot have written."""
    _check_part(task, block, _BLOCK)
    for counts in block.get("policies", {}).values():
        _check_part(task, counts, _COUNTS)


def _check_part(task: TaskConfig, part: Any, hints: dict[str, Any]) -> None:
    where, needed = f"calibration of {task.label!r}", [key for key in hints if key != "policies"]
    complete = isinstance(part, dict) and set(needed) <= set(part)
    require(complete, where, part, f"a mapping with {', '.join(needed)}, as calibrate=true prints it")
    require_types(part, hints, where)
