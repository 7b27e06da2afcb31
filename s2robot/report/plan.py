"""Read `benchmark.json` files: what was planned before the results were seen, and how it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2robot.interfaces import ReportError, unknown_name
from s2robot.report.reading import Reader, find_files, read_json
from s2robot.report.results import SELECTORS


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
        contrasts: named before the results were seen.
        failed: cell and error.
        notes: what the report says as it stands: how difficulty was chosen, how the plan was changed.
        sequential: names of the contrasts that decided when rollouts ended; empty for a number fixed beforehand.
        budgets: per benchmark with sequential stopping, one sentence on it.
    """

    contrasts: tuple[PlannedContrast, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    sequential: frozenset[str] = frozenset()
    budgets: tuple[str, ...] = ()


def load_plan(folders: Sequence[Path]) -> Plan:
    """Read the planned contrasts, failed cells and notes of every `benchmark.json` in and below the folders.

    Raises:
        ReportError: a file is damaged or selects by an unknown field.
    """
    contrasts: list[PlannedContrast] = []
    failed: list[tuple[str, str]] = []
    notes: list[str] = []
    sequential: set[str] = set()
    budgets: list[str] = []
    for path in find_files(folders, "benchmark.json"):
        reader = Reader(path, read_json(path))
        for entry in reader.objects("contrasts"):
            selectors = (_selector(entry, "baseline"), _selector(entry, "treatment"))
            contrasts.append(PlannedContrast(entry.get("name", str), *selectors))
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
            decided = [str(name) for name in stopped.get("decided", list)]
            budgets.append(
                f"Sequential stopping: rollouts were added {stopped.get('batch', int)} at a time until each of "
                f"{len(names)} planned contrasts was decided at {stopped.get('alpha', float):g} in all, or "
                f"{stopped.get('budget', int)} were spent; decided: {'; '.join(decided) or 'none'}."
            )
    return Plan(tuple(contrasts), tuple(failed), tuple(notes), frozenset(sequential), tuple(budgets))


def _selector(entry: Reader, side: str) -> dict[str, Any]:
    selector = dict(entry.get(side, dict))
    for key in selector:
        if key not in SELECTORS:
            raise ReportError(f"{entry.path}: {unknown_name(f'field in a contrast {side}', key, SELECTORS)}")
    if "scales" in selector:
        selector["scales"] = tuple(tuple(s) if isinstance(s, list) else s for s in selector["scales"])
    return selector
