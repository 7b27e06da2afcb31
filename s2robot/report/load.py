"""Read and validate `results.json` files: cells and arms, or one clear error that names the file and the field."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2robot.interfaces import ReportError
from s2robot.report.arm_results import ArmResult, CellResult, Failure, Setting, Video
from s2robot.report.plan import former_cells
from s2robot.report.plan_document import PLAN_FILE, read_plan
from s2robot.report.reading import Reader, find_files, read_json, read_scales
from s2robot.system.machine import Machine, count_machines, machine_label

RESULTS_SCHEMA = 1
_STAGE = re.compile(r"/rollouts/[0-9a-f]{16}/(\d+-\d+|film\d+)/results\.json$")  # see s2robot.benchmark.stages


def load_arms(folders: Sequence[Path]) -> list[ArmResult]:
    """Read every `results.json` in and below the folders and group the cells into arms.

    Left out are summaries of the tasks of one policy, the rollouts in a benchmark's store, of which its `cells/` are
    made, and cells that its plan does not have any more. Of a cell that is there twice, the one with more episodes is
    taken. Cells of other encoders, or of other settings of policy, readout or training, are arms of their own.

    Raises:
        ReportError: a folder has none, one is damaged, or two disagree about the same cell.
    """
    plans = find_files(folders, PLAN_FILE)
    former = {cell for path in plans for cell in former_cells(read_plan(path), path.parent)}
    paths: set[Path] = set()
    for folder in folders:
        found = find_files([folder], "results.json")
        here = {path for path in found if path.parent not in former and not _STAGE.search(path.as_posix())}
        here = {path for path in here if not _is_summary(path)}
        if not here:
            raise ReportError(f"no results.json in or below {folder}")
        paths |= here
    if not paths:
        raise ReportError("no folder with results was given")
    cells = [load_cell(path) for path in sorted(paths)]
    trained: dict[Setting, set[str]] = {}
    for cell in cells:
        trained.setdefault(cell.setting, set()).update({cell.fingerprints.get("settings", "")} - {""})
    groups: dict[Setting, dict[int, CellResult]] = {}
    for cell in cells:
        setting = cell.setting
        if len(trained[setting]) > 1:  # unknown ones, of results from before they were recorded, are no difference
            setting = replace(setting, mark=f"settings {cell.fingerprints.get('settings', 'unknown')[:8]}")
        group = groups.setdefault(setting, {})
        group[cell.training_seed] = _longer(group.get(cell.training_seed, cell), cell)
    arms = [ArmResult(setting, tuple(group[seed] for seed in sorted(group))) for setting, group in groups.items()]
    return sorted(_mark_encoders(arms), key=_order)


def _is_summary(path: Path) -> bool:
    """Return whether a file sums up the tasks of one policy, each of which has a file of its own below it."""
    document = read_json(path)
    return isinstance(document, dict) and "tasks" in document and "episode_results" not in document


def load_cell(path: Path) -> CellResult:
    """Read and validate one `results.json`.

    Raises:
        ReportError: the file is not a results document of this schema; the message names the file and the field.
    """
    reader = Reader(path, read_json(path))
    if reader.document.get("schema") != RESULTS_SCHEMA:
        raise ReportError(
            f"{path}: schema is {reader.document.get('schema')!r}, but this version reads {RESULTS_SCHEMA}"
        )
    fingerprints = {str(name): str(value) for name, value in reader.get("fingerprints", dict, {}).items()}
    if settings := reader.get("settings", str, ""):
        fingerprints["settings"] = settings
    scales = read_scales(reader)
    setting = Setting(
        task=reader.get("task", str),
        policy=reader.get("policy", str),
        backbone=reader.get("backbone", str),
        scales=scales,
        readout=reader.get("readout", str),
        demonstrations=reader.get("demonstrations", int),
        variant=reader.get("variant", str, ""),
        encoder=fingerprints.get("encoder", ""),
    )
    seeds, successes, steps, failures = _episodes(reader)
    latency_ms, versions = _measured(reader)
    parts = reader.objects("ranges") or [reader]
    return CellResult(
        path=path,
        setting=setting,
        training_seed=reader.get("training_seed", int),
        gmacs=reader.get("gmacs", float),
        parameters=reader.get("parameters", float),
        latency_ms=latency_ms,
        seconds=reader.get("seconds", float, None),
        seeds=seeds,
        successes=successes,
        steps=steps,
        failures=failures,
        loss_curve=[row for row in reader.get("loss_curve", list, []) if isinstance(row, dict)],
        videos=_videos(reader),
        commands=[text for key in ("training_command", "command") if (text := reader.get(key, str, ""))],
        versions=versions,
        machines=count_machines(machine for part in parts for machine in _machines(part)),
        policies=_policies(reader),
        fingerprints=fingerprints,
    )


def _episodes(reader: Reader) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], list[Failure]]:
    rows = reader.objects("episode_results")
    if not rows:
        raise ReportError(f"{reader.path}: episode_results is empty")
    failures = [
        Failure(row.get("seed", int), str(row.document["error"]))
        for row in rows
        if row.document.get("error") is not None
    ]
    rows = [row for row in rows if row.document.get("error") is None]
    if not rows:
        raise ReportError(f"{reader.path}: every episode ended in an error of the simulator")
    rows.sort(key=lambda row: row.get("seed", int))
    seeds = np.array([row.get("seed", int) for row in rows], dtype=np.int64)
    successes = np.array([row.get("success", bool) for row in rows], dtype=bool)
    if len(np.unique(seeds)) != len(seeds):
        raise ReportError(f"{reader.path}: episode_results holds a seed twice")
    stated = (reader.get("successes", int, int(successes.sum())), reader.get("episodes", int, len(rows)))
    if stated != (successes.sum(), len(rows)):
        counted = f"{successes.sum()} of {len(rows)}"
        raise ReportError(
            f"{reader.path}: states {stated[0]} of {stated[1]} successes, but episode_results has {counted}"
        )
    steps = np.array([row.get("steps", int, 0) for row in rows], dtype=np.int64)
    return seeds, successes, steps, failures


def _measured(reader: Reader) -> tuple[float | None, dict[str, tuple[str, ...]]]:
    """Latency (the median of those of all ranges of episodes, run apart) and all versions that took part."""
    parts = reader.objects("ranges") or [reader]
    latencies = [latency for part in parts if (latency := part.get("latency_ms", float, None)) is not None]
    versions: dict[str, set[str]] = {}
    for part in parts:
        for name, version in part.get("versions", dict, {}).items():
            versions.setdefault(str(name), set()).add(str(version))
    latency = float(np.median(latencies)) if latencies else None
    return latency, {name: tuple(sorted(found)) for name, found in versions.items()}


def _machines(part: Reader) -> list[Machine]:
    """Those of a document or of one of its ranges; none in results of earlier versions."""
    return [
        {
            **{name: value for name, value in row.document.items() if isinstance(value, str | int)},
            "episodes": row.get("episodes", int),
        }
        for row in part.objects("machines")
    ]


def _policies(reader: Reader) -> tuple[str, ...]:
    """Hashes of the weights, of every range that names them."""
    whole = reader.get("fingerprints", dict, {}).get("policy")
    found = [part.get("policy", str, None) for part in reader.objects("ranges")] or [whole]
    return tuple(sorted({str(policy) for policy in found if policy is not None}))


def _elsewhere(first: CellResult, second: CellResult) -> str:
    """What may be behind different outcomes of one cell, as far as the results say."""
    machines = [" and ".join(map(machine_label, cell.machines)) for cell in (first, second)]
    named = f" ({machines[0]}; {machines[1]})" if all(machines) and machines[0] != machines[1] else ""
    known = first.policies and second.policies
    trained = "of a policy trained twice, or " if known and first.policies != second.policies else ""
    return f"{trained}run on different machines{named}"


def _longer(first: CellResult, second: CellResult) -> CellResult:
    """Of two results of one cell the one with more episodes, whose outcomes those of the other must be."""
    shorter, longer = sorted((second, first), key=lambda cell: cell.episode_count)
    shared, here, there = np.intersect1d(shorter.seeds, longer.seeds, assume_unique=True, return_indices=True)
    agree = np.array_equal(shorter.successes[here], longer.successes[there])
    if agree and len(shared) == shorter.episode_count:
        return longer
    what = "other initial states" if agree else f"different outcomes, perhaps {_elsewhere(first, second)}"
    raise ReportError(
        f"{first.path} and {second.path} are of the same cell and training seed ({first.training_seed}), but have "
        f'{what}; report only one of them, or give them different values of "variant"'
    )


def _videos(reader: Reader) -> list[Video]:
    folder = reader.path.parent
    videos = []
    for row in reader.objects("videos"):
        path = (folder / row.get("path", str)).resolve()
        if not path.is_relative_to(folder):
            raise ReportError(f"{reader.path}: video {row.get('path', str)!r} lies outside the result folder")
        if path.is_file():
            videos.append(Video(path, row.get("seed", int), row.get("success", bool)))
    return videos


def _mark_encoders(arms: list[ArmResult]) -> list[ArmResult]:
    """Mark arms that differ in the encoder's fingerprint alone by that fingerprint."""
    encoders: dict[Setting, set[str]] = {}
    for arm in arms:
        encoders.setdefault(arm.setting.plain, set()).add(arm.setting.encoder)
    return [
        replace(arm, setting=replace(arm.setting, mark=f"encoder {arm.setting.encoder[:8]} {arm.setting.mark}".strip()))
        if len(encoders[arm.setting.plain]) > 1
        else arm
        for arm in arms
    ]


def _order(arm: ArmResult) -> tuple[Any, ...]:
    setting = arm.setting
    model = (arm.parameters, setting.backbone, setting.sides)
    return (setting.task, setting.policy, setting.demonstrations, setting.readout, *model, setting.shown_variant)
