"""What a benchmark will compare, written down before anything runs, and refused to change silently afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from s2robot.benchmark.calibration import calibration_statements
from s2robot.benchmark.cells import Cell, weights_digest
from s2robot.benchmark.grid import Grid
from s2robot.benchmark.stages import store_folder
from s2robot.config import CALIBRATION_SEED, BenchmarkConfig
from s2robot.config.checks import without_former
from s2robot.interfaces import ConfigError, EncoderError, WeightsError
from s2robot.report.plan_document import PLAN_FILE, Amendment, PlanDocument, Preregistration, read_plan
from s2robot.system.files import locked, write_durably


def make_plan(config: BenchmarkConfig, grid: Grid) -> Preregistration:
    """Everything that must be fixed before results are seen: contrasts, initial states, seeds, tasks, stopping."""
    tasks = [{**without_former(task), "name": task.label} for task in config.task_list]
    return Preregistration(
        contrasts=grid.contrasts,
        tasks=tuple(json.loads(json.dumps(tasks))),
        episodes=config.episodes,
        first_seed=config.first_seed,
        training_seeds=tuple(config.training_seeds),
        sequential=asdict(config.sequential) if config.sequential.batch else None,
    )


def store_plan(config: BenchmarkConfig, grid: Grid) -> PlanDocument:
    """Write the plan into the output folder, or check that it is the one written there.

    Returns:
        The document of `benchmark.json`.

    Raises:
        ConfigError: another plan is stored there, results may have been seen since, and `amend` gives no reason; what
            differs is named.
        ReportError: the stored one is damaged.
        WeightsError: weights are said to be in a file that is not there; cells are named by its content.
    """
    _require_weights(grid.cells)
    with locked(Path(config.output) / PLAN_FILE):  # the jobs of a sweep start at the same moment
        document = _planned(config, grid)
        written = [document.planned or _now()]
        written += [entry.date for entry in document.amendments if "contrasts" in entry.changed]
        statements = calibration_statements(config, grid.arms, written[-1])
        document = replace(document, calibration=tuple(statements))
        _write(config, document)
    return document


def change_document(config: BenchmarkConfig, **changes: Any) -> None:
    """Replace fields of `benchmark.json`, which other processes change too."""
    path = Path(config.output) / PLAN_FILE
    with locked(path):
        _write(config, replace(read_plan(path), **changes))


def _require_weights(cells: Iterable[Cell]) -> None:
    for encoder in {cell.arm.encoder_key: cell.arm.encoder for cell in cells}.values():
        try:
            weights_digest(encoder.backbone, encoder.weights)
        except WeightsError:  # else the cells would have other names once the file is there
            raise
        except EncoderError:
            pass  # an unknown backbone fails its own cells


def _planned(config: BenchmarkConfig, grid: Grid) -> PlanDocument:
    """The document of this grid: a new one, the stored one, or that with an amendment."""
    path = Path(config.output) / PLAN_FILE
    plan = make_plan(config, grid)
    names = tuple(cell.name for cell in grid.cells)  # each ends in a hash of all that can change its outcomes
    document = fresh = PlanDocument(planned=_now(), plan=plan)
    if path.exists():
        document = read_plan(path)
        changed = plan.changed(document.plan)
        changed += ["cells"] if sorted(document.cells or names) != sorted(names) else []
        if changed and not (config.amend or document.amendments or _has_episodes(config)):
            print(f"{path}: the plan ({document.planned or 'no date'}) has no results yet and is replaced")
            document = fresh
        elif changed and not config.amend:
            raise ConfigError(
                f"{str(path)!r} holds a plan ({document.planned or 'no date'}) that differs in "
                f"{', '.join(changed)}, and its results may have been seen. Use another output, or give the reason "
                'with amend="REASON", which the report will show'
            )
        elif changed:
            before = {**document.plan.to_json(), "cells": list(document.cells)}
            amendment = Amendment(_now(), str(config.amend), tuple(changed), before)
            document = replace(document, plan=plan, amendments=(*document.amendments, amendment))
    arms = tuple(dict.fromkeys(cell.setting for cell in grid.cells))
    return replace(document, contrasts=plan.contrasts, cells=names, arms=arms)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _has_episodes(config: BenchmarkConfig) -> bool:
    """Whether episodes of evaluation seeds may have been seen: results of any cell, or rollouts in the store."""
    if any(Path(config.output).glob("cells/*/results*.json")):
        return True
    stores = {Path(config.output).resolve(), store_folder(config)}
    ranges = [path.parent.name for store in stores for path in store.glob("rollouts/*/*-*/*.json*")]
    return any(int(name.split("-")[0]) < CALIBRATION_SEED for name in ranges)


def _write(config: BenchmarkConfig, document: PlanDocument) -> None:
    write_durably(Path(config.output) / PLAN_FILE, json.dumps(document.to_json(), indent=1).encode())
