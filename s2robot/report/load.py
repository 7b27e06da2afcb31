"""Read and validate result files: cells, arms and plans, or one clear error that names the file and the field."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2robot.interfaces import ReportError, unknown_name
from s2robot.report.results import SELECTORS, Arm, Cell, Setting, Video

RESULTS_SCHEMA = 1


@dataclass(frozen=True)
class PlannedContrast:
    """A comparison named before the results were seen: two selectors, such as {"scales": (224,)}."""

    name: str
    baseline: dict[str, Any]
    treatment: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What the `benchmark.json` files below the folders say."""

    contrasts: tuple[PlannedContrast, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def find_files(folders: Sequence[Path], name: str) -> list[Path]:
    """All files called `name` in and below the folders, each once, sorted.

    Raises:
        ReportError: a folder does not exist.
    """
    found: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ReportError(f"{folder} is not a folder")
        found.update(path.resolve() for path in folder.rglob(name))
    return sorted(found)


def load_arms(folders: Sequence[Path]) -> list[Arm]:
    """Read every `results.json` in and below the folders and group the cells into arms.

    A benchmark's `rollouts/` are left out: its `cells/` are made of them.

    Raises:
        ReportError: there is none, one is damaged, or two disagree about the same cell.
    """
    benchmarks = [path.parent for path in find_files(folders, "benchmark.json")]
    paths = [path for path in find_files(folders, "results.json") if not _is_stage(path, benchmarks)]
    if not paths:
        raise ReportError(f"no results.json in or below {', '.join(map(str, folders)) or 'no folder at all'}")
    groups: dict[Setting, dict[int, Cell]] = {}
    for cell in map(load_cell, paths):
        group = groups.setdefault(cell.setting, {})
        other = group.setdefault(cell.training_seed, cell)
        same = np.array_equal(other.seeds, cell.seeds) and np.array_equal(other.successes, cell.successes)
        if not same:
            raise ReportError(
                f"{other.path} and {cell.path} are the same cell (training seed {cell.training_seed} included) with "
                'different outcomes; report one of them, or tell them apart by "variant"'
            )
    arms = [Arm(setting, tuple(group[seed] for seed in sorted(group))) for setting, group in groups.items()]
    return sorted(_name_encoders(arms), key=_order)


def _is_stage(path: Path, benchmarks: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root / "rollouts") for root in benchmarks)


def load_cell(path: Path) -> Cell:
    """Read and validate one `results.json`.

    Raises:
        ReportError: the file is no results document of this schema; the message names the file and the field.
    """
    reader = _Reader(path, _read_json(path))
    if reader.document.get("schema") != RESULTS_SCHEMA:
        raise ReportError(f"{path}: schema is {reader.document.get('schema')!r}, this version reads {RESULTS_SCHEMA}")
    fingerprints = reader.get("fingerprints", dict, {})
    scales = tuple(reader.get("scales", list))
    if not scales or not all(isinstance(scale, int) for scale in scales):
        raise ReportError(f"{path}: scales must be a list of integers, got {list(scales)!r}")
    setting = Setting(
        task=reader.get("task", str),
        policy=reader.get("policy", str),
        backbone=reader.get("backbone", str),
        scales=scales,
        readout=reader.get("readout", str),
        demonstrations=reader.get("demonstrations", int),
        variant=reader.get("variant", str, ""),
        encoder=str(fingerprints.get("encoder", "")),
    )
    seeds, successes, steps, errors = _episodes(reader)
    return Cell(
        path=path,
        setting=setting,
        training_seed=reader.get("training_seed", int),
        gmacs=reader.get("gmacs", float),
        parameters=reader.get("parameters", float),
        latency_ms=reader.get("latency_ms", float, None),
        seconds=reader.get("seconds", float, None),
        seeds=seeds,
        successes=successes,
        steps=steps,
        errors=errors,
        loss_curve=[row for row in reader.get("loss_curve", list, []) if isinstance(row, dict)],
        videos=_videos(reader),
        commands=[text for key in ("training_command", "command") if (text := reader.get(key, str, ""))],
        versions={str(name): str(version) for name, version in reader.get("versions", dict, {}).items()},
        fingerprints={str(name): str(value) for name, value in fingerprints.items()},
    )


def load_plan(folders: Sequence[Path]) -> Plan:
    """Read the planned contrasts, failed cells and notes of every `benchmark.json` in and below the folders.

    Raises:
        ReportError: a file is damaged or selects by an unknown field.
    """
    contrasts: list[PlannedContrast] = []
    failed: list[tuple[str, str]] = []
    notes: list[str] = []
    for path in find_files(folders, "benchmark.json"):
        reader = _Reader(path, _read_json(path))
        for entry in reader.objects("contrasts"):
            selectors = (_selector(entry, "baseline"), _selector(entry, "treatment"))
            contrasts.append(PlannedContrast(entry.get("name", str), *selectors))
        for entry in reader.objects("failed"):
            failed.append((str(entry.document.get("cell", "?")), str(entry.document.get("error", "?"))))
        if note := reader.get("notes", str, ""):
            notes.append(note)
    return Plan(tuple(contrasts), tuple(failed), tuple(notes))


class _Reader:
    """Typed access to one JSON object; every complaint names the file and the field."""

    def __init__(self, path: Path, document: Any) -> None:
        if not isinstance(document, dict):
            raise ReportError(f"{path}: expected a JSON object, got {type(document).__name__}")
        self.path = path
        self.document = document

    def get(self, key: str, kind: type, *default: Any) -> Any:
        """Return a field of type `kind` (float takes integers, never NaN), or the default where it is absent."""
        value = self.document.get(key)
        if value is None and default:
            return default[0]
        if kind is float and type(value) is int:
            value = float(value)
        # `type`, not isinstance: to Python, true is an integer too.
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            got = "nothing" if key not in self.document else repr(value)[:80]
            raise ReportError(f"{self.path}: {key} must be of type {kind.__name__}, got {got}")
        return value

    def objects(self, key: str) -> list[_Reader]:
        """Return the JSON objects of a list field; an absent field is an empty list."""
        return [_Reader(self.path, item) for item in self.get(key, list, [])]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read as JSON: {error}") from error


def _episodes(reader: _Reader) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], int]:
    rows = reader.objects("episode_results")
    if not rows:
        raise ReportError(f"{reader.path}: episode_results is empty")
    errors = len(rows)
    rows = [row for row in rows if row.document.get("error") is None]
    errors -= len(rows)
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
        raise ReportError(f"{reader.path}: states {stated[0]} of {stated[1]} successes, episode_results has {counted}")
    steps = np.array([row.get("steps", int, 0) for row in rows], dtype=np.int64)
    return seeds, successes, steps, errors


def _videos(reader: _Reader) -> list[Video]:
    folder = reader.path.parent
    videos = []
    for row in reader.objects("videos"):
        path = (folder / row.get("path", str)).resolve()
        if not path.is_relative_to(folder):
            raise ReportError(f"{reader.path}: video {row.get('path', str)!r} lies outside the result folder")
        if path.is_file():
            videos.append(Video(path, row.get("seed", int), row.get("success", bool)))
    return videos


def _selector(entry: _Reader, side: str) -> dict[str, Any]:
    selector = dict(entry.get(side, dict))
    for key in selector:
        if key not in SELECTORS:
            raise ReportError(f"{entry.path}: {unknown_name(f'field in a contrast {side}', key, SELECTORS)}")
    if "scales" in selector:
        selector["scales"] = tuple(selector["scales"])
    return selector


def _name_encoders(arms: list[Arm]) -> list[Arm]:
    """Give arms that differ in nothing but the encoder's fingerprint that fingerprint as a variant."""
    visible = [replace(arm.setting, encoder="") for arm in arms]
    return [
        Arm(replace(arm.setting, variant=f"{arm.setting.variant} encoder {arm.setting.encoder[:8]}".strip()), arm.cells)
        if visible.count(replace(arm.setting, encoder="")) > 1
        else arm
        for arm in arms
    ]


def _order(arm: Arm) -> tuple[Any, ...]:
    setting = arm.setting
    model = (arm.parameters, setting.backbone, setting.scales)
    return (setting.task, setting.policy, setting.demonstrations, setting.readout, *model, setting.variant)
