"""What a benchmark will compare, written down before anything runs, and refused to change silently afterwards."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from s2robot.benchmark.calibration import calibration_statements
from s2robot.benchmark.controls import PIXELS
from s2robot.benchmark.grid import Arm, Cell, as_json, make_arms, product_encoders, weights_digest
from s2robot.config import BenchmarkConfig, require
from s2robot.files import locked, write_durably
from s2robot.interfaces import ConfigError, EncoderError, WeightsError, unknown_name
from s2robot.report.results import SELECTORS

PLAN_FILE = "benchmark.json"
_SCHEMA = 1


def planned_contrasts(config: BenchmarkConfig) -> list[dict[str, Any]]:
    """The comparisons the grid is for: those of the settings, else those that follow from it.

    For every task, policy and readout: more scales on each backbone (against the first scale set), a larger backbone at
    the first scale set (against the first backbone), each multi-scale encoder against each of its controls, and each
    arm of the list against the base arm.

    Raises:
        ConfigError: a stated contrast is malformed.
    """
    if config.contrasts:
        return [_stated(entry) for entry in config.contrasts]
    arms = make_arms(config)
    contrasts: list[dict[str, Any]] = []
    for task in config.task_list:
        for name, baseline, treatment in _derived(config, arms):
            sides = (("baseline", baseline), ("treatment", treatment))
            selectors = {side: {"task": task.label, **arm.selector} for side, arm in sides}
            contrasts.append({"name": f"{task.label}: {name}", **selectors})
    return contrasts


def _derived(config: BenchmarkConfig, arms: list[Arm]) -> Iterator[tuple[str, Arm, Arm]]:
    policies, readouts = len({arm.policy.label for arm in arms}), len({arm.readout.label for arm in arms})
    for treatment, baseline in itertools.product(arms, arms):
        if baseline is treatment or not _are_compared(config, arms, baseline, treatment):
            continue
        common = [treatment.policy.label] if policies > 1 else []
        common += [treatment.readout.label] if readouts > 1 and baseline.readout == treatment.readout else []
        suffix = f" ({', '.join(common)})" if common else ""
        yield f"{treatment.label} against {baseline.label}{suffix}", baseline, treatment


def _are_compared(config: BenchmarkConfig, arms: list[Arm], baseline: Arm, treatment: Arm) -> bool:
    if baseline.policy != treatment.policy:
        return False
    if treatment.encoder_key in baseline.control_of:
        return baseline.readout == treatment.readout or baseline.encoder.backbone == PIXELS
    if treatment.variant and not treatment.control_of:  # an arm of the list
        return baseline is next(arm for arm in arms if arm.policy == treatment.policy)
    grid = product_encoders(config)
    if baseline.encoder not in grid or treatment.encoder not in grid or baseline.readout != treatment.readout:
        return False
    base, treated, first = baseline.encoder, treatment.encoder, list(config.scale_sets[0])
    if base.backbone == treated.backbone:
        return base.scales == first != treated.scales
    return base.backbone == config.backbones[0] and base.scales == treated.scales == first


def _stated(entry: Any) -> dict[str, Any]:
    valid = "mappings with name, baseline and treatment"
    require(isinstance(entry, dict) and set(entry) == {"name", "baseline", "treatment"}, "contrasts", entry, valid)
    for side in ("baseline", "treatment"):
        for key in entry[side]:
            if key not in SELECTORS:
                raise ConfigError(unknown_name(f"setting in a contrast's {side}", key, SELECTORS))
    return dict(entry)


def make_plan(config: BenchmarkConfig) -> dict[str, Any]:
    """Everything that must be fixed before results are seen: contrasts, initial states, seeds, tasks, stopping."""
    return {
        "contrasts": planned_contrasts(config),
        "tasks": [{**asdict(task), "name": task.label} for task in config.task_list],
        "episodes": config.episodes,
        "first_seed": config.first_seed,
        "training_seeds": list(config.training_seeds),
        "sequential": asdict(config.sequential) if config.sequential.batch else None,
    }


def store_plan(config: BenchmarkConfig, cells: list[Cell]) -> dict[str, Any]:
    """Write the plan into the output folder, or check that it is the one written there.

    Returns:
        The document of `benchmark.json`.

    Raises:
        ConfigError: another plan is stored there and `amend` gives no reason; what differs is named.
        WeightsError: weights are said to be in a file that is not there; cells are named by its content.
    """
    path = Path(config.output) / PLAN_FILE
    for encoder in {cell.arm.encoder_key: cell.arm.encoder for cell in cells}.values():
        try:
            weights_digest(encoder.backbone, encoder.weights)
        except WeightsError:  # else the cells would have other names once the file is there
            raise
        except EncoderError:
            pass  # an unknown backbone fails its own cells
    with locked(path):  # the jobs of a sweep start at the same moment
        return _store_plan(config, cells, path)


def _store_plan(config: BenchmarkConfig, cells: list[Cell], path: Path) -> dict[str, Any]:
    plan = json.loads(json.dumps(make_plan(config)))
    names = [cell.name for cell in cells]  # each ends in a hash of all that can change its outcomes
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"schema": _SCHEMA, "planned": now, "plan": plan, "amendments": [], "failed": []}
    if path.exists():
        document = {"amendments": [], **json.loads(path.read_text())}
        stored = document.get("plan", {})
        changed = [key for key in plan if stored.get(key) != plan[key]]
        changed += ["cells"] if sorted(document.get("cells", names)) != sorted(names) else []
        if changed and not config.amend:
            raise ConfigError(
                f"{str(path)!r} holds a plan of {document.get('planned', 'before')} that differs in "
                f"{', '.join(changed)}; results may have been seen since. Take another output, or say why with "
                'amend="REASON", which the report will print'
            )
        if changed:
            before = {**stored, "cells": document.get("cells", [])}
            amendment = {"date": now, "reason": config.amend, "changed": changed, "before": before}
            document |= {"plan": plan, "amendments": [*document.get("amendments", []), amendment]}
    arms = list({as_json(cell.setting): cell.setting for cell in cells}.values())
    document |= {"contrasts": plan["contrasts"], "cells": names, "arms": arms}
    written = [document.get("planned", now)]
    written += [entry["date"] for entry in document["amendments"] if "contrasts" in entry["changed"]]
    document["calibration"] = calibration_statements(config, written[-1])
    write_plan(config, document)
    return document


def write_plan(config: BenchmarkConfig, document: dict[str, Any]) -> None:
    """Replace `benchmark.json`, durably."""
    write_durably(Path(config.output) / PLAN_FILE, json.dumps(document, indent=1).encode())
