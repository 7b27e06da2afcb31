"""Read `benchmark.json` files: what was planned before the results were seen, and how it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2robot.interfaces import ReportError, unknown_name
from s2robot.report.reading import Reader, find_files, read_json
from s2robot.report.results import SELECTORS, Setting


@dataclass(frozen=True)
class PlannedContrast:
    """A comparison named before the results were seen: two selectors, such as {"scales": (224,)}."""

    name: str
    baseline: dict[str, Any]
    treatment: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What the `benchmark.json` files below the folders say.

    Attributes:
        contrasts: named before the results were seen; one that several benchmarks name alike is there once.
        settings: of all arms, those without results included.
        failed: cell and error.
        notes: what the report says as it stands: how difficulty was chosen, how the plan was changed.
        sequential: names of the contrasts that decided when rollouts ended; empty for a number fixed beforehand.
        alpha: at which they were decided, all together; the lowest, where several benchmarks stopped so.
        budgets: per benchmark with sequential stopping, one sentence on it.
    """

    contrasts: tuple[PlannedContrast, ...] = ()
    settings: frozenset[Setting] = frozenset()
    failed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    sequential: frozenset[str] = frozenset()
    alpha: float = 0.05
    budgets: tuple[str, ...] = ()


def load_plan(folders: Sequence[Path]) -> Plan:
    """Read the planned contrasts, failed cells and notes of every `benchmark.json` in and below the folders.

    Raises:
        ReportError: a file is damaged or selects by an unknown field.
    """
    contrasts: list[PlannedContrast] = []
    settings: set[Setting] = set()
    failed: list[tuple[str, str]] = []
    notes: list[str] = []
    sequential: set[str] = set()
    alphas: list[float] = []
    budgets: list[str] = []
    for path in find_files(folders, "benchmark.json"):
        reader = Reader(path, read_json(path))
        for entry in reader.objects("contrasts"):
            selectors = (_selector(entry.get(side, dict), path, side) for side in ("baseline", "treatment"))
            contrast = PlannedContrast(entry.get("name", str), *selectors)
            contrasts += [contrast] if contrast not in contrasts else []
        for entry in reader.objects("arms"):
            settings.add(_setting(entry))
        if former := former_cells(path):
            notes.append(f"Left out, because the plan has them no more: {len(former)} of the cells in {path.parent}.")
        for entry in reader.objects("failed"):
            failed.append((str(entry.document.get("cell", "?")), str(entry.document.get("error", "?"))))
        if note := reader.get("notes", str, ""):
            notes.append(note)
        notes += [str(text) for text in reader.get("calibration", list, [])]
        for entry in reader.objects("amendments"):
            changed = ", ".join(map(str, entry.get("changed", list, [])))
            reason = entry.get("reason", str)
            notes.append(f"The plan was changed on {entry.get('date', str, '?')} ({changed}): {reason}")
        if stopping := reader.get("sequential", dict, {}):
            stopped = Reader(path, stopping)
            names = [str(name) for name in stopped.get("contrasts", list)]
            sequential.update(names)
            alphas.append(stopped.get("alpha", float))
            decided = [str(name) for name in stopped.get("decided", list)]
            budgets.append(
                f"Sequential stopping: rollouts were added {stopped.get('batch', int)} at a time until each of "
                f"{len(names)} planned contrasts was decided at {alphas[-1]:g} in all, or "
                f"{stopped.get('budget', int)} were spent; decided: {'; '.join(decided) or 'none'}."
            )
    return Plan(
        contrasts=tuple(contrasts),
        settings=frozenset(settings),
        failed=tuple(failed),
        notes=tuple(notes),
        sequential=frozenset(sequential),
        alpha=min(alphas, default=Plan.alpha),
        budgets=tuple(budgets),
    )


def former_cells(path: Path) -> list[Path]:
    """Folders beside a `benchmark.json` of cells that it does not list: from before its plan was changed.

    Raises:
        ReportError: the file is damaged.
    """
    listed = Reader(path, read_json(path)).get("cells", list, [])
    folders = sorted(found.parent for found in path.parent.glob("cells/*/results.json"))
    return [folder for folder in folders if listed and folder.name not in listed]


def _setting(entry: Reader) -> Setting:
    fields = _selector(entry.document, entry.path, "arm")
    try:
        return Setting(**fields)
    except TypeError as error:
        raise ReportError(f"{entry.path}: an arm of the plan is incomplete: {error}") from error


def _selector(entry: dict[str, Any], path: Path, side: str) -> dict[str, Any]:
    selector = dict(entry)
    for key in selector:
        if key not in SELECTORS:
            raise ReportError(f"{path}: {unknown_name(f'field in a contrast {side}', key, SELECTORS)}")
    if "scales" in selector:
        selector["scales"] = tuple(tuple(s) if isinstance(s, list) else s for s in selector["scales"])
    return selector
