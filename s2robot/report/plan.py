"""Read `benchmark.json` files: what was planned before the results were seen, and how it went."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from s2robot.interfaces import ReportError, unknown_name
from s2robot.report.arm_results import SELECTORS, ArmResult, Setting
from s2robot.report.reading import Reader, find_files, read_json


@dataclass(frozen=True)
class PlannedContrast:
    """A comparison named before the results were seen: two selectors, such as {"scales": (224,)}."""

    name: str
    baseline: dict[str, Any]
    treatment: dict[str, Any]

    @property
    def held(self) -> list[str]:
        """Settings that neither side names; the two arms of a pair agree in them."""
        return [key for key in SELECTORS if key not in self.baseline and key not in self.treatment]

    def pairs(self, settings: Iterable[Setting]) -> list[tuple[Setting, Setting]]:
        """Baseline and treatment of each pair that it compares."""
        return [
            (baseline, treatment)
            for baseline, treatment in itertools.permutations(settings, 2)
            if _matches(baseline, self.baseline)
            and _matches(treatment, self.treatment)
            and all(getattr(baseline, key) == getattr(treatment, key) for key in self.held)
        ]


class PlannedArm(NamedTuple):
    """An arm of one benchmark: its setting, the training seeds it is to have, and the benchmark's folder."""

    setting: Setting
    training_seeds: frozenset[int] = frozenset()
    folder: Path = Path()


class FailedCell(NamedTuple):
    """A cell whose last run failed: how many of the planned episodes it has all the same."""

    name: str
    error: str
    episodes: int = 0
    planned: int = 0


@dataclass(frozen=True)
class StoppingRule:
    """How one benchmark ended its rollouts: when these contrasts were decided.

    Attributes:
        contrasts: the deciding ones.
        alpha: at which they were decided, all together.
        comparisons: so many pairs of arms decided.
        arms: of that benchmark; empty for any.
        folder: of that benchmark.
    """

    contrasts: tuple[PlannedContrast, ...]
    alpha: float
    comparisons: int
    arms: frozenset[Setting] = frozenset()
    folder: Path = Path()

    def decides(self, planned: PlannedContrast, *pair: Setting) -> bool:
        """Whether this comparison of two arms decided."""
        return planned in self.contrasts and (not self.arms or all(setting.plain in self.arms for setting in pair))


@dataclass(frozen=True)
class Plan:
    """What the `benchmark.json` files below the folders say.

    Attributes:
        contrasts: named before the results were seen; one that several benchmarks name alike is there once.
        arms: of all benchmarks, those without results included.
        failed: cells that failed and lack planned episodes.
        notes: what the report says as it stands: how difficulty was chosen, how the plan was changed.
        rules: of the benchmarks with sequential stopping.
        budgets: per benchmark with sequential stopping, one sentence on it.
    """

    contrasts: tuple[PlannedContrast, ...] = ()
    arms: tuple[PlannedArm, ...] = ()
    failed: tuple[FailedCell, ...] = ()
    notes: tuple[str, ...] = ()
    rules: tuple[StoppingRule, ...] = ()
    budgets: tuple[str, ...] = ()

    @property
    def settings(self) -> list[Setting]:
        """The settings of all arms, each once."""
        return list(dict.fromkeys(arm.setting for arm in self.arms))

    def training_seeds(self, arm: ArmResult) -> frozenset[int]:
        """The training seeds an arm is to have; a marked one by the plan of its own benchmark."""
        planned = [entry for entry in self.arms if entry.setting == arm.setting.plain and _is_of(arm, entry.folder)]
        return frozenset().union(*(entry.training_seeds for entry in planned))

    def stopping_rule(self, planned: PlannedContrast, baseline: ArmResult, treatment: ArmResult) -> StoppingRule | None:
        """The rule by which this comparison decided; of several the strictest."""
        rules = [
            rule
            for rule in self.rules
            if rule.decides(planned, baseline.setting, treatment.setting)
            and _is_of(baseline, rule.folder)
            and _is_of(treatment, rule.folder)
        ]
        return min(rules, key=lambda rule: rule.alpha / rule.comparisons, default=None)


def load_plan(folders: Sequence[Path]) -> Plan:
    """Read the planned contrasts, arms, failed cells and notes of every `benchmark.json` in and below the folders.

    Raises:
        ReportError: a file is damaged or selects by an unknown field.
    """
    contrasts: list[PlannedContrast] = []
    arms: list[PlannedArm] = []
    failed: list[FailedCell] = []
    notes: list[str] = []
    rules: list[StoppingRule] = []
    budgets: list[str] = []
    for path in find_files(folders, "benchmark.json"):
        reader = Reader(path, read_json(path))
        stated = Reader(path, reader.get("plan", dict, {}))
        planned = [_contrast(entry) for entry in reader.objects("contrasts")]
        contrasts += [contrast for contrast in planned if contrast not in contrasts]
        seeds = frozenset(stated.get("training_seeds", list, []))
        here = [PlannedArm(_setting(entry), seeds, path.parent) for entry in reader.objects("arms")]
        arms += here
        failed += _failed(reader, stated)
        notes += _notes(reader)
        if stopping := reader.get("sequential", dict, {}):
            stopped = Reader(path, stopping)
            rules.append(_stopping_rule(stopped, planned, here))
            budgets.append(_budget(stopped))
    return Plan(tuple(contrasts), tuple(arms), tuple(failed), tuple(notes), tuple(rules), tuple(budgets))


def former_cells(path: Path) -> list[Path]:
    """Folders beside a `benchmark.json` of cells that it does not list: from before its plan was changed.

    Raises:
        ReportError: the file is damaged.
    """
    listed = Reader(path, read_json(path)).get("cells", list, [])
    folders = sorted(found.parent for found in path.parent.glob("cells/*/results.json"))
    return [folder for folder in folders if listed and folder.name not in listed]


def _is_of(arm: ArmResult, folder: Path) -> bool:
    """Whether what that benchmark planned is about this arm: of marked ones, several benchmarks have one each."""
    return not arm.setting.mark or folder in arm.folders


def _matches(setting: Setting, selector: dict[str, Any]) -> bool:
    return all(getattr(setting, key) == value for key, value in selector.items())


def _contrast(entry: Reader) -> PlannedContrast:
    selectors = (_selector(entry.get(side, dict), entry.path, side) for side in ("baseline", "treatment"))
    return PlannedContrast(entry.get("name", str), *selectors)


def _failed(reader: Reader, stated: Reader) -> Iterator[FailedCell]:
    """The recorded failures less those of cells that have all planned episodes by now."""
    first, episodes = stated.get("first_seed", int, 0), stated.get("episodes", int, 0)
    for entry in reader.objects("failed"):
        name = str(entry.document.get("cell", "?"))
        path = reader.path.parent / "cells" / name / "results.json"
        rows = Reader(path, read_json(path)).objects("episode_results") if path.is_file() else []
        done = sum(first <= row.get("seed", int) < first + episodes for row in rows) if episodes else len(rows)
        if not done or done < episodes:
            yield FailedCell(name, str(entry.document.get("error", "?")), done, episodes)


def _notes(reader: Reader) -> Iterator[str]:
    if former := former_cells(reader.path):
        yield f"Left out, because the plan has them no more: {len(former)} of the cells in {reader.path.parent}."
    if note := reader.get("notes", str, ""):
        yield note
    yield from map(str, reader.get("calibration", list, []))
    for entry in reader.objects("amendments"):
        changed = ", ".join(map(str, entry.get("changed", list, [])))
        yield f"The plan was changed on {entry.get('date', str, '?')} ({changed}): {entry.get('reason', str)}"


def _stopping_rule(stopped: Reader, planned: list[PlannedContrast], arms: list[PlannedArm]) -> StoppingRule:
    names = stopped.get("contrasts", list)
    deciding = tuple(contrast for contrast in planned if contrast.name in names)
    settings = frozenset(arm.setting for arm in arms)
    pairs = sum(len(contrast.pairs(settings)) for contrast in deciding)
    return StoppingRule(deciding, stopped.get("alpha", float), max(len(names), pairs), settings, stopped.path.parent)


def _budget(stopped: Reader) -> str:
    names, decided = (list(map(str, stopped.get(key, list))) for key in ("contrasts", "decided"))
    return (
        f"Sequential stopping: rollouts were added {stopped.get('batch', int)} at a time until each of "
        f"{len(names)} planned contrasts was decided at {stopped.get('alpha', float):g} in all, or "
        f"{stopped.get('budget', int)} were spent; decided: {'; '.join(decided) or 'none'}."
    )


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
