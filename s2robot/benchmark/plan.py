"""What a benchmark will compare, written down before anything runs, and refused to change silently afterwards."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from s2robot.benchmark.arms import make_arms, product_encoders
from s2robot.benchmark.calibration import calibration_statements
from s2robot.benchmark.cells import Arm, Cell, as_json, weights_digest
from s2robot.benchmark.controls import PIXELS
from s2robot.benchmark.films import compared_pairs, selects
from s2robot.benchmark.grid import make_cells
from s2robot.benchmark.stages import store_folder
from s2robot.config import CALIBRATION_SEED, BenchmarkConfig, require
from s2robot.interfaces import ConfigError, EncoderError, WeightsError, unknown_name
from s2robot.report.arm_results import SELECTORS, Setting, setting_label
from s2robot.system.files import locked, write_durably

PLAN_FILE = "benchmark.json"
_SCHEMA = 1
_SIDES = ("baseline", "treatment")
_SHOWN = 4  # arms in an error


def planned_contrasts(config: BenchmarkConfig) -> list[dict[str, Any]]:
    """The comparisons the grid is for: those of the settings, else those that follow from it.

    For every task, policy and readout: more scales on each backbone (against the first scale set), a larger backbone at
    the first scale set (against the first backbone), each multi-scale encoder against each of its controls, and each
    arm of the list against the base arm.

    Raises:
        ConfigError: a stated contrast is malformed, compares no arms of the grid, or bears the name of another.
    """
    if config.contrasts:
        return _all_stated(config)
    arms = make_arms(config)
    contrasts: list[dict[str, Any]] = []
    for task in config.task_list:
        for name, baseline, treatment in _derived(config, arms):
            sides = (("baseline", baseline), ("treatment", treatment))
            selectors = {side: {"task": task.label, **arm.selector} for side, arm in sides}
            contrasts.append({"name": f"{task.label}: {name}", **selectors})
    return contrasts


def _derived(config: BenchmarkConfig, arms: list[Arm]) -> Iterator[tuple[str, Arm, Arm]]:
    """Name, baseline and treatment of each contrast that follows from the grid."""
    pairs = [
        (baseline, treatment)
        for treatment, baseline in itertools.product(arms, arms)
        if baseline is not treatment and _are_compared(config, arms, baseline, treatment)
    ]
    names = [_name(arms, *pair) for pair in pairs]
    for pair, name in zip(pairs, names, strict=True):
        # Their labels alone do not tell arms apart that differ in their readouts.
        yield name if names.count(name) == 1 else _name(arms, *pair, both_readouts=True), *pair


def _name(arms: list[Arm], baseline: Arm, treatment: Arm, *, both_readouts: bool = False) -> str:
    said = []
    if len({arm.policy.label for arm in arms}) > 1:
        said.append(_against(treatment.policy.label, baseline.policy.label))
    if both_readouts or (len({arm.readout.label for arm in arms}) > 1 and baseline.readout == treatment.readout):
        said.append(_against(treatment.readout.label, baseline.readout.label))
    suffix = f" ({', '.join(said)})" if said else ""
    return f"{treatment.label} against {baseline.label}{suffix}"


def _against(treatment: str, baseline: str) -> str:
    return treatment if treatment == baseline else f"{treatment} against {baseline}"


def _are_compared(config: BenchmarkConfig, arms: list[Arm], baseline: Arm, treatment: Arm) -> bool:
    same_policy = baseline.policy == treatment.policy
    if same_policy and treatment.encoder_key in baseline.control_of:
        return baseline.readout == treatment.readout or baseline.encoder.backbone == PIXELS
    if treatment.variant and not treatment.control_of:  # an arm of the list
        return baseline is _base_arm(arms, treatment)
    if not same_policy:
        return False
    grid = product_encoders(config)
    if baseline.encoder not in grid or treatment.encoder not in grid or baseline.readout != treatment.readout:
        return False
    base, treated, first = baseline.encoder, treatment.encoder, list(config.scale_sets[0])
    if base.backbone == treated.backbone:
        return base.scales == first != treated.scales
    return base.backbone == config.backbones[0] and base.scales == treated.scales == first


def _base_arm(arms: list[Arm], treatment: Arm) -> Arm:
    """The base arm with the policy of `treatment`, else with one of the same kind, else the first."""
    first, policy = arms[0], treatment.policy
    bases = [
        arm for arm in arms if (arm.encoder, arm.readout, arm.variant) == (first.encoder, first.readout, first.variant)
    ]
    same = [arm for arm in bases if arm.policy == policy]
    kind = [arm for arm in bases if arm.policy.config.name == policy.config.name]
    return [*same, *kind, first][0]


def _all_stated(config: BenchmarkConfig) -> list[dict[str, Any]]:
    contrasts = [_stated(entry) for entry in config.contrasts]
    names = [contrast["name"] for contrast in contrasts]
    require(len(set(names)) == len(names), "contrasts", names, "different names: stopping and the report go by them")
    cells = [cell for cell in make_cells(config) if cell.training_seed == config.training_seeds[0]]
    for contrast in contrasts:
        _require_pair(config, contrast, cells)
    return contrasts


def _stated(entry: Any) -> dict[str, Any]:
    valid = "mappings with name, baseline and treatment"
    require(isinstance(entry, dict) and set(entry) == {"name", *_SIDES}, "contrasts", entry, valid)
    for side in _SIDES:
        for key in entry[side]:
            if key not in SELECTORS:
                raise ConfigError(unknown_name(f"setting in a contrast's {side}", key, SELECTORS))
    return dict(entry)


def _require_pair(config: BenchmarkConfig, contrast: dict[str, Any], cells: list[Cell]) -> None:
    """Refuse a contrast that would await results for ever, at the cost of all others: Holm counts it too."""
    if compared_pairs(contrast, cells):
        return
    selected = {side: [cell for cell in cells if selects(contrast[side], cell)] for side in _SIDES}
    pairs = [pair for pair in itertools.product(*selected.values()) if pair[0] is not pair[1]]
    found = ", ".join(f"its {side} selects {_selection(contrast[side], selected[side], cells)}" for side in _SIDES)
    differing = min((_differing(contrast, *pair) for pair in pairs), key=len, default=[])
    advice = f". They differ in {', '.join(differing)}, which it does not name" if differing else ""
    renamed = "".join(f". {sentence}" for sentence in _renamed(config, contrast))
    raise ConfigError(f"contrast {contrast['name']!r} compares nothing: {found}{advice}{renamed}")


def _differing(contrast: dict[str, Any], baseline: Cell, treatment: Cell) -> list[str]:
    """The settings that no side of the contrast names, and in which two cells differ all the same."""
    unnamed = [key for key in SELECTORS if key not in contrast["baseline"] and key not in contrast["treatment"]]
    return [key for key in unnamed if baseline.setting[key] != treatment.setting[key]]


def _selection(selector: dict[str, Any], selected: list[Cell], cells: list[Cell]) -> str:
    """What one side of a contrast selects, or why it selects nothing."""
    if selected:
        settings = [Setting(**cell.setting | {"scales": tuple(cell.arm.encoder.scales)}) for cell in selected]
        rest = f" and {len(selected) - _SHOWN} more" if len(selected) > _SHOWN else ""
        return "; ".join(setting_label(setting) for setting in settings[:_SHOWN]) + rest
    for key, value in selector.items():
        choices = [cell.setting[key] for cell in cells]
        if value not in choices:
            return f"nothing: {unknown_name(key, value, {str(choice) for choice in choices})}"
    return f"nothing: no arm has all of {selector}"


def _renamed(config: BenchmarkConfig, contrast: dict[str, Any]) -> Iterator[str]:
    """One sentence for each entry of `arms` that a contrast names and that is run under the name of an earlier arm."""
    arms = make_arms(config)
    names = {arm.variant for arm in arms}
    for entry in config.arms:
        if entry["name"] not in names and entry["name"] in [contrast[side].get("variant") for side in _SIDES]:
            alone = make_arms(replace(config, backbones=[], arms=[entry]))[0]
            same = next(arm for arm in arms if arm.key == alone.key)
            yield f"The arm {entry['name']!r} of the list is run as {same.label}, which computes the same"


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
        ConfigError: another plan is stored there, results may have been seen since, and `amend` gives no reason; what
            differs is named.
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
        if changed and not (config.amend or document["amendments"] or _has_episodes(config)):
            print(f"the plan of {document.get('planned', 'before')} in {path} has no results and is replaced")
            document = {"schema": _SCHEMA, "planned": now, "plan": plan, "amendments": [], "failed": []}
        elif changed and not config.amend:
            raise ConfigError(
                f"{str(path)!r} holds a plan of {document.get('planned', 'before')} that differs in "
                f"{', '.join(changed)}; results may have been seen since. Take another output, or say why with "
                'amend="REASON", which the report will print'
            )
        elif changed:
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


def _has_episodes(config: BenchmarkConfig) -> bool:
    """Whether episodes of evaluation seeds may have been seen: results of any cell, or rollouts in the store."""
    if any(Path(config.output).glob("cells/*/results*.json")):
        return True
    stores = {Path(config.output).resolve(), store_folder(config)}
    ranges = [path.parent.name for store in stores for path in store.glob("rollouts/*/*-*/*.json*")]
    return any(int(name.split("-")[0]) < CALIBRATION_SEED for name in ranges)


def write_plan(config: BenchmarkConfig, document: dict[str, Any]) -> None:
    """Replace `benchmark.json`, durably."""
    write_durably(Path(config.output) / PLAN_FILE, json.dumps(document, indent=1).encode())
